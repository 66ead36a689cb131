"""The database under the journal: opening, transactions, and errors in plain words.

SQLite runs in WAL mode with ``synchronous=FULL``: a commit is on the disk when it returns, and
readers never wait for a writer.  Writers take turns: within the process by a lock, because
SQLite's own waiting sleeps in steps of many milliseconds, and between processes by ``BEGIN
IMMEDIATE``.  In PostgreSQL they take turns by an advisory lock that ends with the transaction, so
that entries become visible in the order of their numbers: who has read up to number n has seen
everything below it.  ``synchronous_commit`` is switched on where it is off.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, make_url, select
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError

from adaptation.errors import StoreError
from adaptation.journal.failures import explain
from adaptation.journal.sqlite_file import SqliteFile

logger = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 8.0
"""How long a write waits for another one before it gives up: a click stands behind it."""

POOL_TIMEOUT_S = 10.0
"""How long a read or write of PostgreSQL waits for a free connection."""

SYNCHRONOUS = "FULL"
"""SQLite's durability: a commit waits for the disk, so that a power cut loses nothing."""

_ADVISORY_LOCK = 0x5354524F50  # "STROP": any number that other programs will not take

# SQLite's own errors come bare out of a connection that is being opened; the others out of values.
_FAILURES = (SQLAlchemyError, sqlite3.Error, OSError, json.JSONDecodeError, zlib.error)

_to_json = partial(json.dumps, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


class Database:
    """One engine, its write lock and its transactions; survives a fork.

    Args:
        url: SQLAlchemy's URL of a SQLite file or a PostgreSQL database.
        create: Whether a SQLite file that is not there is made, with its folder.

    Raises:
        StoreError: The URL is of no use, or the database cannot be opened.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self.url = _checked(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._lock = threading.Lock()
        self._orphans: list[object] = []
        self.guard: Callable[[Connection], object] | None = None
        """Called first in every transaction that writes; what it raises ends the transaction."""
        self.engine = self._make_engine(create)
        path = Path(self.url.database or "")
        self._file = SqliteFile(path, self.engine) if self.is_sqlite else None
        _OPEN.add(self)

    @property
    def location(self) -> str:
        """The URL without its password and options, for logs and messages at start."""
        return self.url.set(query={}).render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A short transaction that only reads."""
        with _explained(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, is_patient: bool = False) -> Iterator[Connection]:
        """A transaction that alone may write; committed, and on the disk, when it ends well.

        Args:
            is_patient: Whether its statements may take as long as they like.
        """
        with _explained(), self._turn(), self.engine.connect() as plain:
            connection = plain.execution_options(is_writer=True)
            if not self.is_sqlite:
                _set_patience(connection, is_patient)
            with connection.begin():
                if not self.is_sqlite:
                    connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
                if self.guard is not None:
                    self.guard(connection)
                yield connection

    def close(self) -> None:
        """Close all connections; a later use would open new ones."""
        self.engine.dispose()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self.is_sqlite:
            yield
            return
        if not self._lock.acquire(timeout=LOCK_TIMEOUT_S):
            raise StoreError(
                f"The journal has been busy writing for {LOCK_TIMEOUT_S:.0f} s; try again."
            )
        try:
            if self._file is not None:
                self._file.check()
            yield
        finally:
            self._lock.release()

    def _make_engine(self, create: bool) -> Engine:
        options: dict[str, Any] = {"json_serializer": _to_json}
        if not self.is_sqlite:
            options["isolation_level"] = "READ COMMITTED"  # a look after the lock sees the latest
            options["pool_timeout"] = POOL_TIMEOUT_S
            engine = create_engine(self.url, pool_pre_ping=True, **options)
            _bound_connections(engine)
            event.listen(engine, "connect", _prepare_postgres)
            return engine
        _make_folder(self.url, create)
        engine = create_engine(self.url, **options)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        try:
            with _explained():
                _enter_wal_mode(engine)
        except BaseException:
            engine.dispose()
            raise
        return engine

    def after_fork(self) -> None:
        """In the child: leave the parent's connections alone, closing them would disturb it."""
        self._orphans.append(self.engine.pool)
        self.engine.dispose(close=False)
        self._lock = threading.Lock()


_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for database in list(_OPEN):
        database.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork_in_child)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except _FAILURES as error:
        logger.error("the journal's database failed: %s", _reason(error))
        raise StoreError(explain(error)) from error


def _reason(error: Exception) -> object:
    """What the driver said, without the statement and its values."""
    if isinstance(error, DBAPIError):
        return error.orig
    return type(error).__name__ if isinstance(error, SQLAlchemyError) else error


def _checked(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise StoreError(
            "The journal's URL cannot be parsed; it looks like sqlite:///folder/journal.db or "
            "postgresql://user:password@host/database."
        ) from error
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise StoreError(
            f"The journal lives in SQLite or PostgreSQL, got the driver {url.drivername!r}."
        )
    if url.database in (None, "", ":memory:"):
        raise StoreError("A journal in memory would be lost: name a file, sqlite:///journal.db.")
    return url


def _make_folder(url: URL, create: bool) -> None:
    path = Path(url.database or "")
    if not create and not path.exists():
        raise StoreError(f"There is no journal at {path}: check its name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"The journal's folder {path.parent} cannot be made ({error.strerror}); choose "
            "another place or make the folder writable."
        ) from error


def _prepare_sqlite(raw: Any, _record: object) -> None:
    raw.isolation_level = None  # transactions are begun by us, never by the driver
    for pragma in (
        f"busy_timeout = {int(LOCK_TIMEOUT_S * 1000)}",
        f"synchronous = {SYNCHRONOUS}",
        "foreign_keys = ON",
    ):
        raw.execute(f"PRAGMA {pragma}")


def _prepare_postgres(raw: Any, _record: object) -> None:
    raw.execute(f"SET lock_timeout = {int(LOCK_TIMEOUT_S * 1000)}")
    # A server may be set to acknowledge before the disk does.
    raw.execute(
        "SELECT set_config('synchronous_commit', 'on', false) "
        "WHERE current_setting('synchronous_commit') = 'off'"
    )
    raw.commit()


def _bound_connections(engine: Engine) -> None:
    from adaptation.journal.postgres import bound_connections  # psycopg is optional

    bound_connections(engine)


def _set_patience(connection: Connection, is_patient: bool) -> None:
    from adaptation.journal.postgres import ANSWER_TIMEOUT_S

    raw: Any = connection.connection.dbapi_connection
    raw.limit_s = None if is_patient else ANSWER_TIMEOUT_S


def _begin_sqlite(connection: Connection) -> None:
    is_writer = connection.get_execution_options().get("is_writer", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writer else "BEGIN")


def _enter_wal_mode(engine: Engine) -> None:
    """Switch the file to WAL, for good; two processes that try at once make one of them wait."""
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            _switch_to_wal(engine)
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _switch_to_wal(engine: Engine) -> None:
    raw = engine.raw_connection()
    try:
        cursor = raw.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        mode = cursor.fetchone()
    finally:
        raw.close()
    if mode is None or mode[0] != "wal":
        raise StoreError(
            "The journal's file system cannot share memory between processes, which SQLite's WAL "
            "needs (network drives cannot): put the journal on a local disk or in PostgreSQL."
        )
