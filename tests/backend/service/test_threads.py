"""The service's threads and locks are those that the room's docstring tells of."""

from __future__ import annotations

import ast
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend import service as room
from tests.backend.learning_kit import IMAGES, draw, events_of, learning_service, rest
from tests.backend.making import until
from tests.backend.service_kit import opened
from tests.backend.sites import LEGACY_TOKEN

ROOT = Path(__file__).resolve().parents[3]
TOLD = room.__doc__ or ""
PRIMITIVES = re.compile(
    r"\b(threading\.(Lock|RLock|Condition|Event|Thread|Semaphore|BoundedSemaphore|local)"
    r"|ThreadPoolExecutor|SimpleQueue|Queue)\b\(?"
)
COMMANDS = ROOT / "backend" / "commands"
"""Programs of their own, without the service's threads."""


def told_threads() -> set[str]:
    section = TOLD.split("\nThreads\n")[1].split("\nQueues\n")[0]
    return set(re.findall(r"^ +\* ``([\w-]+)``", section, re.MULTILINE))


def passing_threads() -> set[str]:
    """Those that come and go."""
    section = TOLD.split("\nThreads\n")[1].split("\nQueues\n")[0]
    return set(re.findall(r"^ +- ``([\w-]+)``", section, re.MULTILINE))


def closed_port() -> int:
    """A port on which nobody listens: Label Studio is down."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def modules_with_primitives() -> Iterator[Path]:
    for package in ("adaptation", "backend"):
        for path in sorted((ROOT / package).rglob("*.py")):
            code = ast.unparse(_without_docstrings(ast.parse(path.read_text())))
            if COMMANDS not in path.parents and PRIMITIVES.search(code):
                yield path


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return tree


def _module_of(path: Path) -> str:
    return f"{path.parent.name}.{path.stem}" if path.parent.parent != ROOT else path.stem


def test_the_threads_that_run_are_those_that_are_told_and_all_end(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with learning_service(
        tmp_path,
        label_studio__url=f"http://127.0.0.1:{closed_port()}",
        label_studio__token=LEGACY_TOKEN,
        prefetch__next_tasks=1,
        model__registry_poll_s=0.02,
    ) as service:
        service.predict(opened(IMAGES[0]))
        draw(service, 0)
        rest(service)
        running = sorted(t.name for t in threading.enumerate() if t not in before)
    assert [name for name in running if name not in passing_threads()] == sorted(told_threads())
    assert len(events_of(tmp_path)) == 1, "all of them had work"
    until(lambda: set(threading.enumerate()) <= before, limit_s=10)


@pytest.mark.parametrize(
    "path", list(modules_with_primitives()), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_what_makes_a_thread_or_a_lock_is_told(path: Path) -> None:
    tree = ast.parse(path.read_text())
    classes = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    names = [*(name for name in classes if not name.startswith("_")), _module_of(path)]
    assert any(re.search(rf"\b{name}\b", TOLD) for name in names), (
        f"{path.relative_to(ROOT)} has a thread, a queue or a lock of which "
        "backend/service/__init__.py says nothing"
    )
