"""What went wrong in the database, in words for the one who runs Strop.

The sentences hold no path, no host and no credentials, as they may travel in an answer.
"""

from __future__ import annotations

import errno
import sqlite3
import zlib

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

_FULL = "The journal's disk is full: free some space. Nothing that was acknowledged is lost."
_READ_ONLY = "The journal may not be written: make its file and folder writable for this user."
_UNREACHABLE = "The journal's database cannot be reached: check that it runs and is named rightly."
_LOCKED = "Another process has kept the journal locked: stop whatever else writes to it."
_DAMAGED = (
    "The journal's file is damaged: stop Strop, keep a copy of the file, and restore a backup or "
    "salvage it with `sqlite3 FILE .recover`."
)
_OTHER = "The journal's database failed; the log says more."

# SQLite's own words, fixed in its sqlite3_errstr().
_SQLITE = {
    "disk is full": _FULL,
    "readonly database": _READ_ONLY,
    "unable to open database file": (
        "The journal's file cannot be opened: check that its folder exists and is writable for "
        "this user."
    ),
    "file is not a database": (
        "The journal's file is not a SQLite database: name another file, or restore a backup."
    ),
    "malformed": _DAMAGED,
    "is locked": _LOCKED,
    "disk I/O error": "The journal's disk failed to read or write: check the disk and its mount.",
    "no such table": "The journal's tables are gone: restore a backup, or start with a new file.",
}

# PostgreSQL's SQLSTATE codes; two letters stand for a whole class.
_POSTGRES = {
    "53100": _FULL,
    "55P03": _LOCKED,
    "25006": "The journal's database accepts no writes (a standby?): name the primary server.",
    "42501": "The journal's database user lacks a right: let it create and write tables.",
    "3D000": "The journal's database does not exist on that server: create it, or name another.",
    "42P01": "The journal's tables are gone: restore a backup, or name an empty database.",
    "28": "The journal's database refused the user or the password.",
    "08": _UNREACHABLE,
    "57": "The journal's database is shutting down or starting up: try again.",
}


def explain(error: Exception) -> str:
    """One sentence or two: what is wrong, and what to do."""
    if isinstance(error, DBAPIError):
        return _explain_driver(error.orig)
    if isinstance(error, sqlite3.Error):
        return _explain_driver(error)
    if isinstance(error, PoolTimeout):
        return "All connections to the journal are busy: try again."
    if isinstance(error, OSError):
        return _FULL if error.errno == errno.ENOSPC else _OTHER
    return _DAMAGED if isinstance(error, (ValueError, zlib.error)) else _OTHER


def _explain_driver(error: BaseException | None) -> str:
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return _POSTGRES.get(state) or _POSTGRES.get(state[:2], _OTHER)
    words = str(error)
    for part, sentence in _SQLITE.items():
        if part in words:
            return sentence
    if type(error).__module__.startswith("psycopg"):
        return _explain_connecting(words)
    return _OTHER


def _explain_connecting(words: str) -> str:
    """A failed connection carries no code, only the server's words, or the network's."""
    if "password" in words or "authentication" in words or "role" in words:
        return _POSTGRES["28"]
    if "does not exist" in words:
        return _POSTGRES["3D000"]
    return _UNREACHABLE
