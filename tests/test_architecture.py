"""The rules of the house, checked: who imports whom, and who may touch what."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("adaptation", "backend", "training")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
MODULES = sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))

# library -> the only modules and rooms that may import it
DOORS = {
    "flask": {"backend/server"},
    "gunicorn": {"backend/server/gunicorn_app.py", "backend/server/buffering.py"},
    "werkzeug": {"backend/server"},
    "label_studio_sdk": {"backend/protocol"},
    "sqlalchemy": {"adaptation/journal"},
    "pyarrow": {"adaptation/journal/parquet.py", "training/preferences/files.py"},
    "redis": {"backend/embeddings/redis_store.py"},
    "prometheus_client": {"backend/metrics.py", "backend/server/metrics.py"},
    "opentelemetry": {"backend/traces.py"},
}
# The settings read the environment; commands hand a copy of it to the processes they start, and
# torchrun tells each of its processes its rank that way; the metrics' folder is named there.
ENVIRONMENT_READERS = {
    "backend/cli.py",
    "backend/commands/demo",
    "backend/metrics.py",
    "backend/settings",
    "training/cli.py",
    "training/runtime/distributed.py",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Every imported module's dotted name; for ``from a import b`` both ``a`` and ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def reads_environment(tree: ast.AST) -> bool:
    attributes = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    readers = {"os.environ", "os.environb", "os.getenv", "os.putenv"}
    return bool(readers & (attributes | set(imported_names(tree))))


def is_door(module: str, doors: set[str]) -> bool:
    """A door itself, or a module of it where it is a room."""
    return any(module == door or module.startswith(f"{door}/") for door in doors)


def test_the_import_contracts_are_kept() -> None:
    # In a process of its own: import-linter disables the loggers that exist when it starts.
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# The picture


def contracted() -> tuple[set[str], set[tuple[str, str]]]:
    """Rooms, and arrows from each to those of the next lower layer, as the contracts have them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    rooms, arrows = set(), set()
    for contract in settings["contracts"]:
        if contract["type"] != "layers":
            continue
        (prefix,) = [f"{name}." for name in contract.get("containers", [])] or [""]
        layers = [
            [prefix + room.strip() for room in layer.split("|")] for layer in contract["layers"]
        ]
        rooms |= {room for layer in layers for room in layer if prefix}
        arrows |= {(a, b) for upper, lower in pairwise(layers) for a in upper for b in lower}
    return rooms, arrows


def drawn() -> set[tuple[str, str]]:
    (picture,) = re.findall(r"^```mermaid\n(.*?)^```", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    return set(re.findall(r"^ +([\w.]+) --> ([\w.]+)$", picture, re.MULTILINE))


def test_the_picture_shows_the_contracts() -> None:
    rooms, arrows = contracted()
    assert drawn() == arrows
    assert {room for arrow in drawn() for room in arrow} == rooms | set(PACKAGES)


def test_the_rooms_of_the_picture_are_there_and_say_what_they_are() -> None:
    for room in contracted()[0]:
        path = ROOT / room.replace(".", "/")
        module = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        assert ast.get_docstring(ast.parse(module.read_text())), room


@pytest.mark.parametrize("way", ["a click", "a submission", "a preference pair"])
def test_the_files_of_a_way_are_there(way: str) -> None:
    section = ARCHITECTURE.split(f"\n## The way of {way}\n")[1].split("\n## ")[0]
    files = re.findall(r"`([\w/]+\.py)`", section)
    assert len(files) > 10
    assert not [file for file in files if not (ROOT / file).is_file()]


@pytest.mark.parametrize("name", PACKAGES)
def test_the_packages_are_ours(name: str) -> None:
    # sam2 installs a top-level package `training` too: installed beside Strop, it must not win.
    package = importlib.import_module(name)
    assert package.__file__ is not None
    assert Path(package.__file__).parent == ROOT / name


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_a_library_comes_in_by_its_door_only(path: Path) -> None:
    libraries = {name.split(".")[0] for name in imported_names(ast.parse(path.read_text()))}
    strays = [lib for lib in libraries & DOORS.keys() if not is_door(relative(path), DOORS[lib])]
    assert not strays, f"{relative(path)} imports {strays}; only {[DOORS[s] for s in strays]} may"


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_only_settings_and_commands_read_the_environment(path: Path) -> None:
    if reads_environment(ast.parse(path.read_text())):
        assert is_door(relative(path), ENVIRONMENT_READERS)


def test_reading_the_environment_is_noticed() -> None:
    assert reads_environment(ast.parse("import os\nhome = os.environ['HOME']"))
    assert reads_environment(ast.parse("from os import getenv"))
    assert not reads_environment(ast.parse("import os\nos.replace('a', 'b')"))


@pytest.mark.parametrize("path", CONFIGS, ids=relative)
def test_every_config_is_a_mapping_with_comments(path: Path) -> None:
    text = path.read_text()
    assert isinstance(yaml.safe_load(text), dict)
    assert text.lstrip().startswith("#"), "a config opens with the commands that use it"
