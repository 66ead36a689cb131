"""One server for one data folder: its sessions, its spool and its SQLite journal have one owner.

The operating system holds the lock for the process and for the workers that are forked from it,
and frees it when the last of them ends, however that happens.
"""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from adaptation.errors import SettingsError

logger = logging.getLogger(__name__)

FILE = "server.lock"


def lock_folder(folder: Path) -> int:
    """Make a data folder this server's own.

    Args:
        folder: It is made where it is missing.

    Returns:
        The descriptor that holds the lock: as long as it is open, here or in a forked process.

    Raises:
        SettingsError: Another server has it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise SettingsError(
            f"The data folder {folder} cannot be written ({error.strerror}): make it writable for "
            "this user, or set another one (data_dir)."
        ) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(held, 20, 0).decode(errors="replace").strip()
        os.close(held)
        named = f" (process {owner})" if owner.isdecimal() else ""
        raise SettingsError(
            f"Another Strop{named} serves with the data folder {folder}: stop it, or give this "
            "one a folder of its own (data_dir)."
        ) from None
    except OSError:  # a network drive that knows no locks
        logger.warning("the data folder %s knows no locks: one server only may use it", folder)
        return held
    os.ftruncate(held, 0)
    os.pwrite(held, f"{os.getpid()}\n".encode(), 0)
    return held
