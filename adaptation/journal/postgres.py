"""Connections to PostgreSQL that never wait for ever.

libpq has a limit for connecting and none for answers: a server that is frozen, or behind a network
that drops packets, would hold a click for as long as it likes.  Here every answer has its time;
a connection that lets it pass is closed, for nobody knows what it is doing.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg
from psycopg import OperationalError
from sqlalchemy import Engine, event

T = TypeVar("T")

CONNECT_TIMEOUT_S = 4
"""For a connection to be made, the server's greeting included."""

PING_TIMEOUT_S = 2.0
"""For a connection that lay idle to say that it still stands."""

ANSWER_TIMEOUT_S = 10.0
"""For one statement or commit; above the time that a statement may wait for a lock."""

CONNECT_OPTIONS = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "tcp_user_timeout": int(1000 * ANSWER_TIMEOUT_S),
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
"""libpq's own limits; options in the journal's URL go before them."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that gives a statement up after ``limit_s`` seconds and closes itself."""

    limit_s: float | None = ANSWER_TIMEOUT_S
    """None for statements that may take long, such as migrations."""

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for the server, as psycopg does, within the limit.

        Raises:
            OperationalError: The time is over; the connection is closed.
        """
        limit_s = self.limit_s
        if limit_s is None:
            return super().wait(gen, *args, **kwargs)
        try:
            return super().wait(_bounded(gen, limit_s), *args, **kwargs)
        except _TooLateError:
            self.pgconn.finish()
            raise OperationalError(f"no answer within {limit_s:g} s") from None


class _TooLateError(Exception):
    pass


def _bounded(gen: Generator[Any, Any, T], limit_s: float) -> Generator[Any, Any, T]:
    """The same steps; psycopg comes by every tenth of a second while nothing arrives."""
    end = time.monotonic() + limit_s
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > end:
                raise _TooLateError
            wanted = gen.send(ready)
    except StopIteration as stop:
        value: T = stop.value
        return value


def bound_connections(engine: Engine) -> None:
    """Let an engine make bounded connections from now on."""
    ping = engine.dialect.do_ping

    def bounded_ping(connection: Any) -> bool:
        connection.limit_s = PING_TIMEOUT_S
        try:
            return ping(connection)
        finally:
            connection.limit_s = ANSWER_TIMEOUT_S

    engine.dialect.do_ping = bounded_ping  # type: ignore[method-assign, assignment]

    @event.listens_for(engine, "do_connect")
    def connect(_dialect: Any, _record: Any, args: Any, options: Any) -> BoundedConnection:
        return BoundedConnection.connect(*args, **{**CONNECT_OPTIONS, **options})
