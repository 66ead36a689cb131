"""The database under a journal, to look into it and to damage it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from adaptation.journal.database import Database


@contextmanager
def opened(url: str) -> Iterator[Database]:
    """A journal's database, opened beside the journal as another process would."""
    database = Database(url, create=False)
    try:
        yield database
    finally:
        database.close()


@contextmanager
def writing(url: str) -> Iterator[Connection]:
    """A transaction that alone may write, beside a journal."""
    with opened(url) as database, database.writing() as connection:
        yield connection


@contextmanager
def reading(url: str) -> Iterator[Connection]:
    """A transaction that only reads, beside a journal."""
    with opened(url) as database, database.reading() as connection:
        yield connection
