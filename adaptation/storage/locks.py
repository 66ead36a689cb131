"""One process at a time: a lock that the system drops with its owner, however that one ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from adaptation.errors import StoreError


@contextlib.contextmanager
def only_one(path: Path, what: str, purpose: str) -> Iterator[None]:
    """Be the only process inside.

    Args:
        path: The lock's file; it stays where it is, empty, when nobody is inside.
        what: What is locked, for the message to others.
        purpose: What is being done, likewise.

    Raises:
        StoreError: Another process is inside (the message says which and since when), or the
            folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{what} cannot be locked: {error.strerror}.") from error
    with file:
        _take(file.fileno(), path, what)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "purpose": purpose, "since": now}))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _take(descriptor: int, path: Path, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise StoreError(
                f"{what} cannot be locked: {error.strerror}. It has to lie on a disk that knows "
                "locks."
            ) from error
        holder = _read(path)
        raise StoreError(
            f"{what} is being written: {holder.get('purpose', 'another job')} in process "
            f"{holder.get('pid', 'unknown')} since {holder.get('since', 'just now')}. Wait until "
            "it is done, or stop that process; the lock falls with it."
        ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
