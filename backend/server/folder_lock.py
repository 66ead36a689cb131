"""One server for one data folder, and one way of learning in it.

The operating system holds each lock for the process and for those that are forked from it, and
frees it when the last of them ends, however that happens.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from adaptation.errors import SettingsError

logger = logging.getLogger(__name__)

FILE = "server.lock"

LEARNING = "learning.lock"
"""Held by a server that learns itself, alone; or by learners of their own, together."""


def lock_folder(folder: Path) -> int:
    """Make a data folder this server's own.

    Args:
        folder: It is made where it is missing.

    Returns:
        The descriptor that holds the lock: as long as it is open, here or in a forked process.

    Raises:
        SettingsError: Another server has it, or it cannot be written.
    """
    held = _opened(folder, FILE)
    try:
        _lock(held, fcntl.LOCK_EX)
    except BlockingIOError:
        owner = os.pread(held, 20, 0).decode(errors="replace").strip()
        os.close(held)
        named = f" (process {owner})" if owner.isdecimal() else ""
        raise SettingsError(
            f"Another Strop{named} serves with the data folder {folder}: stop it, or give this "
            "one a folder of its own (data_dir)."
        ) from None
    os.ftruncate(held, 0)
    os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
    return held


def lock_learning(folder: Path, *, inside: bool) -> int:
    """Learn with a data folder: inside of a server, alone; or apart, beside other learners.

    Args:
        folder: It is made where it is missing.
        inside: Whether a server learns itself.

    Returns:
        The descriptor that holds the lock, as above.

    Raises:
        SettingsError: It is learned with the folder in the other way.
    """
    held = _opened(folder, LEARNING)
    try:
        _lock(held, fcntl.LOCK_EX if inside else fcntl.LOCK_SH)
    except BlockingIOError:
        os.close(held)
        raise SettingsError(
            f"A learner works with the data folder {folder}: stop it, or serve with "
            "learning.process set to apart."
            if inside
            else f"A server with the data folder {folder} learns itself: stop it, or have it serve "
            "with learning.process set to apart."
        ) from None
    return held


def _opened(folder: Path, name: str) -> int:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SettingsError(
            f"The data folder {folder} cannot be written ({error.strerror}): make it writable for "
            "this user, or set another one (data_dir)."
        ) from error


def _lock(held: int, kind: int) -> None:
    """Take a lock, or none on a network drive that knows none; BlockingIOError where it is held."""
    try:
        fcntl.flock(held, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        logger.warning("the data folder knows no locks: one server only may use it")
