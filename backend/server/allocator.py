"""Memory that was freed goes back to the operating system.

glibc gives every thread that allocates an arena of its own and keeps what is freed in it.  A server
with dozens of threads, through which images and features of many megabytes pass, so ends up with
gigabytes that nothing uses.  Here the threads share a few arenas, and what lies free in them is
given back now and then.  Other allocators are left alone.
"""

from __future__ import annotations

import ctypes
import logging
import threading

logger = logging.getLogger(__name__)

MAX_ARENAS = 2
TRIM_EVERY_S = 30.0

_M_ARENA_MAX = -8
"""From glibc's malloc.h."""


def share_arenas() -> bool:
    """Let all threads that begin from now on share a few arenas; False where there is no glibc."""
    glibc = _glibc()
    return glibc is not None and bool(glibc.mallopt(_M_ARENA_MAX, MAX_ARENAS))


def trim() -> bool:
    """Give free memory back; whether there was any."""
    glibc = _glibc()
    return glibc is not None and bool(glibc.malloc_trim(0))


def start_trimming(every_s: float = TRIM_EVERY_S) -> threading.Event:
    """Give free memory back now and then, on a thread of its own.

    Returns:
        Set it to end the thread.
    """
    is_over = threading.Event()

    def run() -> None:
        while not is_over.wait(every_s):
            trim()

    if _glibc() is not None:
        threading.Thread(target=run, name="trim", daemon=True).start()
    return is_over


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        has_all = all(hasattr(library, name) for name in ("mallopt", "malloc_trim"))
    except (OSError, TypeError):
        return None
    return library if has_all and hasattr(library, "gnu_get_libc_version") else None
