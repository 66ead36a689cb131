"""What becomes of a SQLite journal whose file is taken away while it is open.

The operating system lets an open file live on without a name, so SQLite would go on writing to what
nobody will ever find again.  So a look at the file's name goes before every write: a file that was
removed is written anew from the open one, and a file that was replaced is the journal from then on.
"""

from __future__ import annotations

import logging
import sqlite3
import uuid
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

logger = logging.getLogger(__name__)

_PAGE_SIZE, _PAGE_COUNT = slice(16, 18), slice(28, 32)
"""Places in SQLite's file header, big-endian; a page size of 1 stands for 65,536."""


@dataclass(frozen=True, slots=True)
class _Stat:
    """What tells one file from another, and how long it is."""

    device: int
    number: int
    n_bytes: int

    @classmethod
    def of(cls, path: Path) -> _Stat | None:
        try:
            stat = path.stat()
        except OSError:
            return None
        return cls(stat.st_dev, stat.st_ino, stat.st_size)

    def is_same_file(self, other: _Stat | None) -> bool:
        return other is not None and (self.device, self.number) == (other.device, other.number)


class SqliteFile:
    """The file under an engine.  For one thread at a time: who writes holds the write lock.

    Args:
        path: Where it lies.
        engine: What has it open.
    """

    def __init__(self, path: Path, engine: Engine) -> None:
        self._path, self._engine = path, engine
        self._wal, self._shm = Path(f"{path}-wal"), Path(f"{path}-shm")
        self._seen, self._seen_wal = _Stat.of(path), _Stat.of(self._wal)

    def check(self) -> None:
        """See to it that the next write is found again.

        Raises:
            sqlite3.Error, OSError: The file was removed and cannot be written anew, or it was cut.
        """
        now = _Stat.of(self._path)
        if now is None:
            self._write_anew()
            logger.error("the journal's file was removed; it was written anew, with all it held")
        elif self._seen is not None and not now.is_same_file(self._seen):
            self._take_up()
            logger.error("the journal's file was replaced: the new one is used from now on")
        elif self._seen is not None and now.n_bytes < self._seen.n_bytes and _is_cut(self._path):
            raise sqlite3.DatabaseError("malformed: a part of the journal's file was cut off")
        self._seen, self._seen_wal = _Stat.of(self._path), _Stat.of(self._wal)

    def _write_anew(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        copy = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}.partial")
        try:
            self._copy_to(copy)
            self._drop_log()
            copy.replace(self._path)
        finally:
            copy.unlink(missing_ok=True)
        self._engine.dispose()

    def _take_up(self) -> None:
        """Use another file; SQLite would take the old one's write-ahead log for the new one's."""
        self._engine.dispose()
        if self._seen_wal is not None and self._seen_wal.is_same_file(_Stat.of(self._wal)):
            self._drop_log()

    def _drop_log(self) -> None:
        self._wal.unlink(missing_ok=True)
        self._shm.unlink(missing_ok=True)

    def _copy_to(self, path: Path) -> None:
        held = self._engine.raw_connection()
        target = sqlite3.connect(path)
        try:
            target.execute("PRAGMA synchronous = FULL")
            held.driver_connection.backup(target)  # type: ignore[union-attr]
            target.execute("PRAGMA journal_mode = WAL")
        finally:
            target.close()
            held.close()


def _is_cut(path: Path) -> bool:
    """Whether a file is shorter than its header says; a vacuumed one is shorter than it was."""
    with path.open("rb") as file:
        header = file.read(100)
        n_bytes = file.seek(0, 2)
    page_size = int.from_bytes(header[_PAGE_SIZE], "big")
    page_size = 65_536 if page_size == 1 else page_size
    n_pages = int.from_bytes(header[_PAGE_COUNT], "big")
    return len(header) < 100 or n_bytes < n_pages * page_size
