"""Schema versions: how an empty or an older database becomes one that this version can use.

A fresh database gets today's tables at once.  An older one runs the steps between its version and
ours, in order, in one transaction: it ends up at our version, or as it was.  Alembic would bring
scripts, an environment and a second configuration for what is here a tuple of functions and one
number in a table; the journal's tables change rarely, and only forward.

To change the schema: change ``schema.py``, and append to ``MIGRATIONS`` a function that brings the
tables of the version before to the new form on both dialects.  A step never imports today's
tables, which the steps after it will change again: it says its own SQL.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, inspect, select, update

from adaptation.errors import StoreError
from adaptation.journal.schema import METADATA, VERSION

logger = logging.getLogger(__name__)

Migration = Callable[[Connection], None]

MIGRATIONS: tuple[Migration, ...] = ()
"""Step i brings version i + 1 to version i + 2."""


def migrate(
    connection: Connection, steps: Sequence[Migration] = MIGRATIONS, *, create: bool = True
) -> int:
    """Bring the database to our version, inside the caller's transaction.

    Args:
        connection: In a write transaction that excludes other writers.
        steps: The migrations known to this version.
        create: Whether a database without a journal gets one.

    Returns:
        The version found before, 0 for a database without a journal.

    Raises:
        StoreError: The database was written by a newer version of Strop, or holds no journal and
            is not to get one.
    """
    latest = len(steps) + 1
    found = _version_of(connection)
    if found > latest:
        raise StoreError(
            f"This journal has schema version {found}, and this Strop knows versions up to "
            f"{latest}: update Strop, or open the journal with the version that wrote it."
        )
    if found == 0 and not create:
        raise StoreError("There is no journal in this database: check its name.")
    if found == 0:
        logger.info("a new journal begins")
        METADATA.create_all(connection)
        connection.execute(VERSION.insert(), {"version": latest})
    elif found < latest:
        _run(connection, steps, found)
    return found


def _version_of(connection: Connection) -> int:
    if not inspect(connection).has_table(VERSION.name):
        return 0
    return int(connection.execute(select(VERSION.c.version)).scalar_one())


def _run(connection: Connection, steps: Sequence[Migration], found: int) -> None:
    for version, step in enumerate(steps[found - 1 :], start=found + 1):
        logger.info("migrating the journal to schema version %d", version)
        step(connection)
        connection.execute(update(VERSION).values(version=version))
