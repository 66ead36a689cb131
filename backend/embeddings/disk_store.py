"""Embeddings in a folder, which several processes may share.

Each entry is one file, written beside its place and renamed, so that nobody ever reads half of it.
The time of an entry's last use is its file's modification time; the least recently used leave.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from adaptation.errors import StoreError
from adaptation.storage.files import write_bytes
from adaptation.types import Embedding
from backend.embeddings.store import DamagedEntryError, EmbeddingKey, StoreStats, pack, unpack

logger = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_ROOM = 0.95
"""Evicting goes down to this share of the bound, so that not every entry needs a look around."""
_UNSEEN_SHARE = 256
"""A look around after every n/256 entries: other processes' entries go unseen no longer."""
_STALE_S = 3600.0
"""Temporary files and locks of this age were left by a process that died."""


@dataclass(frozen=True, slots=True, order=True)
class _File:
    used_ns: int
    n_bytes: int
    path: Path


class DiskStore:
    """A folder of embeddings, bounded in bytes.

    Several processes may use one folder. Each counts what it writes and looks around now and
    then, so that together they pass the bound by a few entries at most until the next look.

    Args:
        root: The folder; it is made.
        max_bytes: What the entries may take together.
        min_free_bytes: Room on the disk that is left to others, the journal above all; of a small
            disk a quarter.  Entries leave for it, and none comes that would take it.

    Raises:
        StoreError: The folder cannot be made or written.
    """

    def __init__(self, root: Path, max_bytes: int, min_free_bytes: int = 0) -> None:
        self._root = root
        self._max_bytes, self._min_free_bytes = max_bytes, min_free_bytes
        self._lock = threading.Lock()
        self._entries = self._n_bytes = self._unseen = self._evicted = self._damaged = 0
        try:
            root.mkdir(parents=True, exist_ok=True)
            write_bytes(root / "probe", b"")
            (root / "probe").unlink(missing_ok=True)
        except OSError as error:
            raise _store_error("write", error) from error
        self._look_around()

    def load(self, key: EmbeddingKey) -> Embedding | None:
        """The entry, or None; a damaged one is removed."""
        path = self._path(key)
        try:
            embedding = unpack(path.read_bytes(), key)
        except FileNotFoundError:
            return None
        except DamagedEntryError as error:
            logger.warning("Dropped the stored embedding %s: %s.", path.name, error)
            with self._lock:
                self._damaged += 1
            path.unlink(missing_ok=True)
            return None
        except OSError as error:
            raise _store_error("read", error) from error
        with contextlib.suppress(OSError):  # another process evicted it just now
            os.utime(path)
        return embedding

    def save(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keep an entry; one that alone is over the bound is not kept."""
        data = pack(key, embedding)
        if len(data) > self._max_bytes:
            return
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)  # someone may have removed all of it
            if not self._has_room(len(data)):
                return
            write_bytes(path, data)
            self._count(len(data))
        except OSError as error:
            raise _store_error("write", error) from error

    @contextlib.contextmanager
    def exclusive(self, key: EmbeddingKey, timeout_s: float) -> Iterator[None]:
        """Hold the entry's lock file; the operating system frees it should the process die."""
        path = self._path(key).with_suffix(".lock")
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=timeout_s)
        except (Timeout, OSError) as error:
            logger.info("No lock on %s (%s); going on without.", path.name, type(error).__name__)
        try:
            yield
        finally:
            if lock.is_locked:
                # Removed while held. A process that waits on the removed file may go on beside
                # one that makes it anew: an image is then encoded twice, which harms nobody.
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
                lock.release()

    def stats(self) -> StoreStats:
        """Counters; what other processes did is in them since the last look around."""
        with self._lock:
            return StoreStats(
                entries=self._entries,
                n_bytes=self._n_bytes,
                evicted=self._evicted,
                damaged=self._damaged,
            )

    def _path(self, key: EmbeddingKey) -> Path:
        return self._root / key.digest[:2] / f"{key.digest}{_SUFFIX}"

    def _count(self, n_bytes: int) -> None:
        with self._lock:
            self._entries += 1
            self._n_bytes += n_bytes
            self._unseen += 1
            is_due = self._unseen > self._entries // _UNSEEN_SHARE
            if is_due or self._n_bytes > self._max_bytes:
                self._look_around()

    def _has_room(self, n_bytes: int) -> bool:
        """Whether the disk keeps its free room beside a new entry; old ones leave for it."""
        missing = self._missing_bytes() + n_bytes
        if missing <= 0:
            return True
        with self._lock:
            self._evict(sorted(self._files()), missing)
            self._look_around()
        return self._missing_bytes() + n_bytes <= 0

    def _missing_bytes(self) -> int:
        """How much more room must be free on the disk; negative where there is more."""
        disk = shutil.disk_usage(self._root)
        return min(self._min_free_bytes, disk.total // 4) - disk.free

    def _evict(self, files: Sequence[_File], n_bytes: int) -> None:
        """Remove the first entries, until so many bytes are gone."""
        for file in files:
            if n_bytes <= 0:
                return
            file.path.unlink(missing_ok=True)
            n_bytes -= file.n_bytes
            self._evicted += 1

    def _look_around(self) -> None:
        """Count what is there, whoever put it there, and make room where it is too much."""
        files = sorted(self._files())
        total = sum(file.n_bytes for file in files)
        if total > self._max_bytes:
            self._evict(files, total - int(self._max_bytes * _ROOM))
            files = list(self._files())
            total = sum(file.n_bytes for file in files)
        self._entries, self._n_bytes, self._unseen = len(files), total, 0

    def _files(self) -> Iterator[_File]:
        for folder in self._root.glob("[0-9a-f][0-9a-f]"):
            for entry in _entries_of(folder):
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat()
                    if entry.name.endswith(_SUFFIX):
                        yield _File(stat.st_mtime_ns, stat.st_size, Path(entry.path))
                    elif time.time() - stat.st_mtime > _STALE_S:
                        os.unlink(entry.path)


def _entries_of(folder: Path) -> list[os.DirEntry[str]]:
    with contextlib.suppress(FileNotFoundError):
        return list(os.scandir(folder))
    return []


def _store_error(verb: str, error: OSError) -> StoreError:
    return StoreError(
        f"Cannot {verb} the folder of embeddings ({error.strerror}). Make room or allow it, or "
        "set another folder."
    )
