"""Who alone may do a thing, over all processes that share a journal: leases with fencing tokens.

A lease that is not renewed can be taken by another holder. The one that lost it may not know: it
was paused, or its machine was. So each taking draws a token above all tokens before, and who writes
under a lease compares its token inside of the transaction that writes (Kleppmann 2017, Designing
Data-Intensive Applications, "Fencing tokens"). A lease that ran out and that nobody took still
stands: its holder is the only one who writes.

The table belongs to no version of the journal's schema: it holds no record, and is made on first
use.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import (
    Column,
    Connection,
    Double,
    MetaData,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from adaptation.errors import StoreError
from adaptation.journal.schema import Seq

LEASES = Table(
    "journal_leases",
    MetaData(),
    Column("name", Text, primary_key=True),
    Column("token", Seq, nullable=False, autoincrement=False),
    Column("holder", Text, nullable=False),
    Column("expires_at", Double, nullable=False),  # seconds since 1970 by the database's clock
)


class LeaseLostError(StoreError):
    """Another process has taken the lease: nothing was written, and nothing may be any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A lease as it was taken.

    Args:
        name: Of what it permits.
        token: Above the tokens of all earlier holders; also of those in a journal before this one,
            because it is at least the time in milliseconds.
        holder: Who has it, for people.
    """

    name: str
    token: int
    holder: str


def take(
    connection: Connection, name: str, holder: str, ttl_s: float, ended: str | None = None
) -> Lease | None:
    """Take a lease that is free or has run out, for ``ttl_s`` seconds; None where it is held.

    Args:
        connection: In a transaction that writes.
        name: Of what it permits.
        holder: Who takes it; another text for every process.
        ttl_s: Seconds.
        ended: A holder that is known to have ended, whose lease need not run out.
    """
    LEASES.create(connection, checkfirst=True)
    now = _now(connection)
    known = connection.execute(select(LEASES).where(LEASES.c.name == name)).mappings().first()
    if known is not None and known["expires_at"] > now and known["holder"] != ended:
        return None
    last = 0 if known is None else int(known["token"])
    lease = Lease(name=name, token=max(last + 1, int(1000 * now)), holder=holder)
    connection.execute(delete(LEASES).where(LEASES.c.name == name))
    values = {"token": lease.token, "holder": holder, "expires_at": now + ttl_s}
    connection.execute(insert(LEASES), {"name": name, **values})
    return lease


def renew(connection: Connection, lease: Lease, ttl_s: float) -> None:
    """Keep a lease for ``ttl_s`` seconds from now; LeaseLostError where it was taken."""
    check(connection, lease)
    _expire(connection, lease, _now(connection) + ttl_s)


def give_back(connection: Connection, lease: Lease) -> None:
    """Let others take a lease at once; one that was lost already is left alone."""
    _expire(connection, lease, 0.0)


def check(connection: Connection, lease: Lease) -> None:
    """Raise LeaseLostError unless a lease's token is still the highest."""
    statement = select(LEASES.c.token, LEASES.c.holder).where(LEASES.c.name == lease.name)
    known = connection.execute(statement).first()
    if known is None or known.token != lease.token:
        by = "nobody" if known is None else known.holder
        raise LeaseLostError(
            f"The lease {lease.name!r} of {lease.holder} was lost to {by}: nothing is written."
        )


def _expire(connection: Connection, lease: Lease, at: float) -> None:
    is_it = (LEASES.c.name == lease.name) & (LEASES.c.token == lease.token)
    connection.execute(update(LEASES).where(is_it).values(expires_at=at))


def _now(connection: Connection) -> float:
    """Seconds since 1970; of the server, where several machines share one."""
    if connection.dialect.name != "postgresql":
        return time.time()
    seconds = func.extract("epoch", func.clock_timestamp())
    return float(connection.execute(select(seconds)).scalar_one())
