"""Reading the journal lazily, in its own order.

A reader takes one page after the other, each in a transaction of its own: it holds no connection
between two pages, never makes a writer wait, and costs the same memory for a journal of any
length.  It sees what was there when it began, and nothing that is appended meanwhile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, Table, func, or_, select

from adaptation.journal.database import Database
from adaptation.journal.records import (
    Delivery,
    Entry,
    EventRecord,
    InteractionRecord,
    Link,
    Record,
    SubmissionRecord,
)
from adaptation.journal.rows import read_event, read_interaction, read_link, read_submission
from adaptation.journal.schema import (
    CANDIDATES,
    DELIVERIES,
    ENTRIES,
    EVENTS,
    INTERACTIONS,
    LINKS,
    REGIONS,
    SUBMISSIONS,
)

PAGE = 64
"""Entries read at a time; a page of interactions in large images holds a few megabytes."""


class Waiting(NamedTuple):
    """What is left to do; it is another one whenever there is something new.

    Args:
        n_deliveries: Messages that are not finished.
        last_delivery: Id of the newest of them; 0 where there is none.
        n_unlinked: Reasons to link submissions, again or for the first time.
        last_event: Entry of the newest event of a kind; 0 where there is none.
    """

    n_deliveries: int
    last_delivery: int
    n_unlinked: int
    last_event: int


Condition = ColumnElement[bool]
T = TypeVar("T")
Load = Callable[[Connection, Sequence[RowMapping]], Sequence[T]]


def scan(
    database: Database,
    table: Table,
    conditions: Sequence[Condition],
    load: Load[T],
    after: int = 0,
    page_size: int = PAGE,
) -> Iterator[T]:
    """What the matching rows hold, in order, page by page.

    Args:
        database: Where to read.
        table: With a column ``seq``.
        conditions: That must all hold.
        load: Makes records of a page of rows, with the connection that read them.
        after: Only rows above this number.
        page_size: Rows read at a time.
    """
    with database.reading() as connection:
        upto = connection.scalar(select(func.max(ENTRIES.c.seq))) or 0
    statement = select(table).where(*conditions, table.c.seq <= upto).order_by(table.c.seq)
    while after < upto:
        with database.reading() as connection:
            page = statement.where(table.c.seq > after).limit(page_size)
            rows = connection.execute(page).mappings().all()
            found = load(connection, rows) if rows else []
        yield from found
        after = rows[-1]["seq"] if len(rows) == page_size else upto


def equal(table: Table, **wanted: Any) -> list[Condition]:
    """Conditions for the columns of which a value is wanted; None wants none."""
    return [table.c[name] == value for name, value in wanted.items() if value is not None]


def since(column: ColumnElement[datetime], moment: datetime | None) -> list[Condition]:
    """A condition for what happened at a moment or later."""
    return [] if moment is None else [column >= moment]


def iterate_interactions(
    database: Database, conditions: Sequence[Condition]
) -> Iterator[InteractionRecord]:
    """Interactions in order."""
    return scan(database, INTERACTIONS, conditions, load_interactions)


def offers_region(region_id: str) -> Condition:
    """A condition for interactions of which a candidate has this id."""
    offers = select(CANDIDATES.c.seq).where(CANDIDATES.c.region_id == region_id)
    return INTERACTIONS.c.seq.in_(offers)


def load_interactions(
    connection: Connection, rows: Sequence[RowMapping]
) -> list[InteractionRecord]:
    """The records of rows, with their candidates."""
    candidates = _children(connection, CANDIDATES, rows)
    return [read_interaction(row, candidates[row["seq"]]) for row in rows]


def iterate_submissions(
    database: Database, conditions: Sequence[Condition]
) -> Iterator[SubmissionRecord]:
    """Submissions in order."""
    return scan(database, SUBMISSIONS, conditions, load_submissions)


def of_task(project_id: str | None, task_id: str | None) -> list[Condition]:
    """Conditions for a task's submissions; news of a deletion names its annotation only."""
    if task_id is None:
        return equal(SUBMISSIONS, project_id=project_id)
    other = SUBMISSIONS.alias()
    same_annotation = (
        select(other.c.seq)
        .where(other.c.project_id == SUBMISSIONS.c.project_id)
        .where(other.c.annotation_id == SUBMISSIONS.c.annotation_id)
        .where(other.c.task_id == task_id)
    )
    unnamed = SUBMISSIONS.c.task_id.is_(None) & same_annotation.exists()
    is_of_task = or_(SUBMISSIONS.c.task_id == task_id, unnamed)
    return [*equal(SUBMISSIONS, project_id=project_id), is_of_task]


def load_submissions(connection: Connection, rows: Sequence[RowMapping]) -> list[SubmissionRecord]:
    """The records of rows, with their regions."""
    regions = _children(connection, REGIONS, rows)
    return [read_submission(row, regions[row["seq"]]) for row in rows]


def _children(
    connection: Connection, table: Table, parents: Sequence[RowMapping]
) -> dict[int, list[RowMapping]]:
    """The rows that belong to each parent, by its ``seq``, in the order of their positions."""
    found: dict[int, list[RowMapping]] = defaultdict(list)
    statement = (
        select(table)
        .where(table.c.seq.in_([parent["seq"] for parent in parents]))
        .order_by(table.c.seq, table.c.position)
    )
    for row in connection.execute(statement).mappings():
        found[row["seq"]].append(row)
    return found


def iterate_events(database: Database, conditions: Sequence[Condition]) -> Iterator[EventRecord]:
    """Events in order."""
    return scan(database, EVENTS, conditions, load_events)


def load_events(_connection: Connection, rows: Sequence[RowMapping]) -> list[EventRecord]:
    """The records of rows."""
    return [read_event(row) for row in rows]


def iterate_entries(
    database: Database, conditions: Sequence[Condition], after: int
) -> Iterator[Entry]:
    """Records of all kinds in the one total order."""
    return scan(database, ENTRIES, conditions, _load_entries, after)


_KINDS: Mapping[str, tuple[Table, Load[Record]]] = {
    "interaction": (INTERACTIONS, load_interactions),
    "submission": (SUBMISSIONS, load_submissions),
    "event": (EVENTS, load_events),
}


def _load_entries(connection: Connection, page: Sequence[RowMapping]) -> list[Entry]:
    records: dict[int, Record] = {}
    for kind, (table, load) in _KINDS.items():
        seqs = [row["seq"] for row in page if row["kind"] == kind]
        if seqs:
            rows = _rows_of(connection, table, seqs)
            found = load(connection, rows)
            records.update(zip((row["seq"] for row in rows), found, strict=True))
    return [
        Entry(seq=row["seq"], appended_at=row["appended_at"], record=records[row["seq"]])
        for row in page
    ]


def _rows_of(connection: Connection, table: Table, seqs: Sequence[int]) -> list[RowMapping]:
    statement = select(table).where(table.c.seq.in_(seqs)).order_by(table.c.seq)
    return list(connection.execute(statement).mappings())


def linked_rows() -> Select[Any]:
    """Links joined with what a `Link` tells of their region and submission."""
    return (
        select(
            LINKS,
            REGIONS.c.region_id,
            SUBMISSIONS.c.annotation_id,
            SUBMISSIONS.c.standing,
        )
        .join(REGIONS, (REGIONS.c.seq == LINKS.c.seq) & (REGIONS.c.position == LINKS.c.position))
        .join(SUBMISSIONS, SUBMISSIONS.c.seq == LINKS.c.seq)
        .order_by(LINKS.c.seq, LINKS.c.position)
    )


def load_links(connection: Connection, seqs: Sequence[int]) -> list[Link]:
    """The links of some submissions, in order."""
    statement = linked_rows().where(LINKS.c.seq.in_(seqs))
    return [read_link(row) for row in connection.execute(statement).mappings()]


def iterate_links(database: Database, conditions: Sequence[Condition]) -> Iterator[Link]:
    """The links of the matching submissions, in the submissions' order."""
    return scan(database, SUBMISSIONS, conditions, _load_links_of)


def _load_links_of(connection: Connection, rows: Sequence[RowMapping]) -> list[Link]:
    return load_links(connection, [row["seq"] for row in rows])


def iterate_deliveries(database: Database) -> Iterator[Delivery]:
    """Messages not finished yet, oldest first."""
    last = 0
    while True:
        statement = select(DELIVERIES).where(DELIVERIES.c.id > last).order_by(DELIVERIES.c.id)
        with database.reading() as connection:
            row = connection.execute(statement.limit(1)).mappings().first()
        if row is None:
            return
        yield Delivery(id=row["id"], received_at=row["received_at"], body=row["body"])
        last = row["id"]


def waiting(database: Database, kind: str) -> Waiting:
    """What is left to do, and the newest event of a kind; each is one look into an index."""
    deliveries = select(func.count(), func.max(DELIVERIES.c.id))
    reasons = func.sum(SUBMISSIONS.c.link_wanted - SUBMISSIONS.c.link_done)
    unlinked = select(reasons).where(SUBMISSIONS.c.link_wanted > SUBMISSIONS.c.link_done)
    event = select(func.max(EVENTS.c.seq)).where(EVENTS.c.kind == kind)
    with database.reading() as connection:
        count, last = connection.execute(deliveries.select_from(DELIVERIES)).one()
        return Waiting(
            n_deliveries=int(count),
            last_delivery=int(last or 0),
            n_unlinked=int(connection.scalar(unlinked) or 0),
            last_event=int(connection.scalar(event) or 0),
        )
