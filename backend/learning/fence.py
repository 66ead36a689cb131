"""Who may write what sessions learned: the newest holder of a lease, and nobody before it.

A learner that was paused past its lease does not know that another one has taken its place. The
journal turns it away by its token; so does the folder of adapters, which remembers the highest
token that it has seen, under a lock of the operating system.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptation.errors import StoreError
from adaptation.journal import Lease, LeaseLostError

FILE = "fence.lock"
"""Holds the highest token in decimal digits, and is the lock."""

WAIT_S = 10.0
"""For a lock that another process holds: a learner that was stopped in the middle of a write."""

_TRY_EVERY_S = 0.02
_MAX_DIGITS = 20


class FolderFence:
    """Lets a lease's holder write to a folder while no newer one has.  Thread-safe.

    Args:
        folder: Made when it is needed.
        lease: Under which this process writes.
    """

    def __init__(self, folder: Path, lease: Lease) -> None:
        self._folder, self._lease = folder, lease

    @contextmanager
    def held(self) -> Iterator[None]:
        """Write inside; others who write to the folder wait.

        Raises:
            LeaseLostError: A newer holder has written, or was about to.
            StoreError: The folder cannot be locked.
        """
        lock = self._opened()
        try:
            _acquire(lock)
            self._compare(lock)
            yield
        finally:
            os.close(lock)

    def _opened(self) -> int:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            return os.open(self._folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"The folder {self._folder} cannot be written ({error.strerror}): make it writable."
            ) from error

    def _compare(self, lock: int) -> None:
        """Compare the token with the highest one, which it becomes where it is higher."""
        text = os.pread(lock, _MAX_DIGITS, 0).decode(errors="replace").strip()
        highest = int(text) if text.isdecimal() else 0
        if highest > self._lease.token:
            raise LeaseLostError(
                f"The lease {self._lease.name!r} of {self._lease.holder} was lost: another learner "
                f"has written to {self._folder.name} since. Nothing is written."
            )
        if highest < self._lease.token:
            os.pwrite(lock, str(self._lease.token).encode(), 0)  # never shorter than before


def _acquire(lock: int) -> None:
    end = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                raise StoreError(
                    f"Another learner has been writing adapters for {WAIT_S:.0f} s; it is tried "
                    "again."
                ) from None
            time.sleep(_TRY_EVERY_S)
        except OSError as error:
            raise StoreError(f"The adapters cannot be locked ({error.strerror}).") from error
