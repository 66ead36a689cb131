"""What several workers remember together of the objects in work: small files, and their locks.

Everything in here is a shortcut, as in `backend.service.prompt_state`: what is missing is made
again from the clicks.  So nothing waits for the disk, and what cannot be read counts as missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from adaptation.errors import StoreError
from adaptation.storage.files import write_bytes

Check = Callable[[], object]
"""Raises what should end the waiting."""

N_LOCKS = 512
"""Lock files; objects share them by their names' digests, so that none is left behind."""

LOOK_S = 0.5
"""Between two checks of who waits for a lock."""

WAITS_S = (0.001, 0.02)
"""Between two tries of a lock that another worker holds: at first, and at most."""

_SUFFIX = ".kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryName:
    """What an entry is kept under.

    Args:
        task: Project and task.
        kind: What it holds; entries of two kinds are apart.
        parts: What tells it from the others of its task and kind.
    """

    task: tuple[str, str]
    kind: str
    parts: tuple[str, ...]

    @property
    def digest(self) -> str:
        """32 hexadecimal digits; the same in every process."""
        return _digest(*self.task, self.kind, *self.parts)


class ObjectStore(Protocol):
    """Small entries that all workers see; every method may raise `StoreError`.  Thread-safe."""

    def exclusive(self, name: EntryName, check: Check) -> AbstractContextManager[None]:
        """Keep all other threads and workers out; a holder that dies frees it.

        Args:
            name: What is kept for oneself.
            check: Called now and then while it waits; what it raises ends the waiting.
        """

    def load(self, name: EntryName) -> bytes | None:
        """An entry as it was saved last; None where there is none."""

    def save(self, name: EntryName, content: bytes) -> None:
        """Replace an entry; the oldest leave where there are too many."""

    def forget_task(self, project_id: str, task_id: str) -> None:
        """Remove a task's entries."""

    def now(self) -> float:
        """Seconds by one clock for all workers."""


class FolderStore:
    """Entries in a folder of this machine, as files below one folder for each task.

    Args:
        folder: Made when it is needed.
        max_entries: Files kept; those written first leave.
    """

    def __init__(self, folder: Path, max_entries: int) -> None:
        self._folder, self._max_entries = folder, max_entries
        self._n_written = 0

    @contextmanager
    def exclusive(self, name: EntryName, check: Check) -> Iterator[None]:
        """Hold the name's lock file, which the operating system frees should the worker die."""
        path = self._folder / "locks" / f"{int(name.digest[:8], 16) % N_LOCKS:03x}"
        held = _opened(path)
        try:
            _acquire(held, check)
            yield
        finally:
            os.close(held)

    def load(self, name: EntryName) -> bytes | None:
        """The file's content."""
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _store_error("read", error) from error

    def save(self, name: EntryName, content: bytes) -> None:
        """Replace the file at once."""
        try:
            write_bytes(self._path(name), content)
            self._n_written += 1
            if self._n_written % max(1, self._max_entries // 8) == 0:
                self._make_room()
        except OSError as error:
            raise _store_error("write", error) from error

    def forget_task(self, project_id: str, task_id: str) -> None:
        """Remove the task's folder."""
        shutil.rmtree(self._folder / _digest(project_id, task_id), ignore_errors=True)

    def now(self) -> float:
        """The machine's time of day."""
        return time.time()

    def _path(self, name: EntryName) -> Path:
        return self._folder / _digest(*name.task) / f"{name.digest}{_SUFFIX}"

    def _make_room(self) -> None:
        """Every worker does so after its share of writes, and counts everybody's files."""
        found = sorted(self._folder.glob(f"*/*{_SUFFIX}"), key=_written_at)
        for path in found[: -self._max_entries]:
            path.unlink(missing_ok=True)


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise _store_error("lock", error) from error


def _acquire(held: int, check: Check) -> None:
    wait_s, most_s = WAITS_S
    next_check = time.monotonic() + LOOK_S
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(wait_s)
        except OSError as error:
            raise _store_error("lock", error) from error
        wait_s = min(2 * wait_s, most_s)
        if time.monotonic() > next_check:
            check()
            next_check = time.monotonic() + LOOK_S


def _store_error(verb: str, error: OSError) -> StoreError:
    return StoreError(
        f"Cannot {verb} what is remembered of objects ({error.strerror}): make room in the data "
        "folder, or make it writable."
    )


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
