"""The journal itself: one object for all that is written and read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from sqlalchemy import Connection, Table, delete, func, select

from adaptation.journal import append, leases, linking, objects, read
from adaptation.journal.database import Database
from adaptation.journal.leases import Lease
from adaptation.journal.migrations import MIGRATIONS, migrate
from adaptation.journal.read import Waiting
from adaptation.journal.records import (
    CandidateRecord,
    Delivery,
    Entry,
    EventRecord,
    FinishedObject,
    InteractionRecord,
    Link,
    Receipt,
    RejectedOffer,
    SubmissionRecord,
)
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

T = TypeVar("T")


class Journal:
    """The record of every prompt, every mask, every submission: append-only, durable, ordered.

    Safe to share between threads, between processes (each opens its own), and across a fork.  An
    append is on the disk when it returns; appending the same record again changes nothing.
    Iterators are lazy, keep the order of commits, and see what was there when they began.

    Args:
        url: ``sqlite:///relative/journal.db``, ``sqlite:////absolute/journal.db`` (folders are
            made), or ``postgresql://user:password@host/database``.
        create: Begin a new journal where there is none; False to refuse, for those who only read.

    Raises:
        StoreError: By every method too: the database cannot be opened, read or written; the
            message says why and what to do.
    """

    schema_version = len(MIGRATIONS) + 1

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._database = Database(url, create=create)
        try:
            with self._database.writing(is_patient=True) as connection:
                migrate(connection, create=create)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def location(self) -> str:
        """Where the journal is, without a password."""
        return self._database.location

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def check_writable(self) -> None:
        """Write for real, and take it back."""
        with self._database.writing() as connection:
            append.add_event(connection, EventRecord(kind="check"))
            connection.get_transaction().rollback()  # type: ignore[union-attr]

    # Writing

    def append_interaction(self, record: InteractionRecord) -> Receipt:
        """Write a prompt and its masks."""
        return self._write(lambda connection: append.add_interaction(connection, record))

    def append_candidates(self, request_id: str, candidates: Sequence[CandidateRecord]) -> bool:
        """Write further masks of an interaction, behind those that it has.

        A mask of a token that the interaction has a mask of already is left out.

        Returns:
            False where there is no such interaction (yet).

        Raises:
            InputError: A mask has not the size of the interaction's image.
        """
        return self._write(
            lambda connection: append.add_candidates(connection, request_id, candidates)
        )

    def append_submission(self, record: SubmissionRecord) -> Receipt:
        """Write a version of an annotation, or its deletion; compares no masks.

        News may come twice and in any order: the version with the latest ``updated_at`` is in
        force, and a deletion is final.
        """
        return self.append_submissions([record])[0]

    def append_submissions(self, records: Sequence[SubmissionRecord]) -> list[Receipt]:
        """Write several versions or deletions at once: all of them, or none."""
        return self._write(
            lambda connection: [append.add_submission(connection, record) for record in records]
        )

    def append_event(
        self,
        kind: str,
        project_id: str | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """Write anything else, in its place between the others."""
        record = EventRecord(kind=kind, project_id=project_id, payload=payload or {})
        return self._write(lambda connection: append.add_event(connection, record))

    def keep_delivery(self, body: str, received_at: datetime | None = None) -> int:
        """Keep a message as it came, when reading it takes longer than its sender waits.

        Args:
            body: Its text.
            received_at: When it came; now, if not given.

        Returns:
            An id for `finish_delivery`; until then it is among the `deliveries`.
        """
        return self._write(lambda connection: append.add_delivery(connection, body, received_at))

    def finish_delivery(self, delivery_id: int) -> None:
        """Drop a message whose content is in the journal now."""
        statement = delete(DELIVERIES).where(DELIVERIES.c.id == delivery_id)
        self._write(lambda connection: connection.execute(statement))

    def link(self, submission: SubmissionRecord) -> list[Link]:
        """Join an appended submission's regions with the interactions that made them.

        Decodes masks: to be run behind the reply.  Idempotent.

        Raises:
            InputError: The submission was never appended.
        """
        seq = linking.find_submission(self._database, submission)
        return linking.link_one(self._database, seq)

    def link_pending(self, limit: int | None = None) -> int:
        """Link whatever is not linked yet, or must be again; at most ``limit`` submissions.

        Returns:
            How many were linked.
        """
        waiting = linking.pending(self._database, limit)
        for seq in waiting:
            linking.link_one(self._database, seq)
        return len(waiting)

    # Leases

    def take_lease(
        self, name: str, holder: str, ttl_s: float, ended: str | None = None
    ) -> Lease | None:
        """Take what one process alone may do, for ``ttl_s`` seconds; None where another has it.

        A holder that is known to have ended does not have it any more.
        """
        return self._write(lambda connection: leases.take(connection, name, holder, ttl_s, ended))

    def renew_lease(self, lease: Lease, ttl_s: float) -> None:
        """Keep a lease for ``ttl_s`` seconds from now; LeaseLostError where another took it."""
        self._write(lambda connection: leases.renew(connection, lease, ttl_s))

    def return_lease(self, lease: Lease) -> None:
        """Let others take a lease at once."""
        self._write(lambda connection: leases.give_back(connection, lease))

    def fence(self, lease: Lease) -> None:
        """From now on every write through this object raises LeaseLostError without the lease."""
        self._database.guard = partial(leases.check, lease=lease)

    def _write(self, work: Callable[[Connection], T]) -> T:
        with self._database.writing() as connection:
            return work(connection)

    # Reading

    def interactions(
        self,
        project_id: str | None = None,
        task_id: str | None = None,
        label: str | None = None,
        object_id: str | None = None,
        request_id: str | None = None,
        region_id: str | None = None,
        since: datetime | None = None,
    ) -> Iterator[InteractionRecord]:
        """Interactions; ``region_id`` keeps those that made a candidate of this id."""
        wanted = {
            "project_id": project_id,
            "task_id": task_id,
            "label": label,
            "object_id": object_id,
            "request_id": request_id,
        }
        conditions = read.equal(INTERACTIONS, **wanted)
        conditions += read.since(INTERACTIONS.c.created_at, since)
        if region_id is not None:
            conditions.append(read.offers_region(region_id))
        return read.iterate_interactions(self._database, conditions)

    def submissions(
        self,
        project_id: str | None = None,
        task_id: str | None = None,
        annotation_id: str | None = None,
        since: datetime | None = None,
        current_only: bool = False,
    ) -> Iterator[SubmissionRecord]:
        """Submissions, updates and deletions; ``current_only`` keeps the versions in force."""
        standing = "current" if current_only else None
        conditions = [
            *read.of_task(project_id, task_id),
            *read.equal(SUBMISSIONS, annotation_id=annotation_id, standing=standing),
            *read.since(SUBMISSIONS.c.received_at, since),
        ]
        return read.iterate_submissions(self._database, conditions)

    def events(
        self,
        project_id: str | None = None,
        kind: str | None = None,
        since: datetime | None = None,
    ) -> Iterator[EventRecord]:
        """Events."""
        conditions = read.equal(EVENTS, project_id=project_id, kind=kind)
        conditions += read.since(EVENTS.c.created_at, since)
        return read.iterate_events(self._database, conditions)

    def entries(self, project_id: str | None = None, after: int = 0) -> Iterator[Entry]:
        """All kinds of records in the one order of their commits, above a number."""
        conditions = read.equal(ENTRIES, project_id=project_id)
        return read.iterate_entries(self._database, conditions, after)

    def links(
        self,
        project_id: str | None = None,
        task_id: str | None = None,
        current_only: bool = True,
    ) -> Iterator[Link]:
        """Links of the versions in force, or of all that ever were."""
        standing = "current" if current_only else None
        conditions = read.equal(
            SUBMISSIONS, project_id=project_id, task_id=task_id, standing=standing
        )
        return read.iterate_links(self._database, conditions)

    def objects(
        self, project_id: str | None = None, task_id: str | None = None
    ) -> Iterator[FinishedObject]:
        """Finished objects, each with its clicks and its submitted mask.

        Regions without a mask or without a link, skipped tasks, and submissions that wait for
        `link_pending` are left out.
        """
        return objects.iterate_objects(self._database, project_id, task_id)

    def rejected_offers(
        self, project_id: str | None = None, task_id: str | None = None
    ) -> Iterator[RejectedOffer]:
        """Masks that were shown and then not submitted, once their task was.

        Where several people work on one task at once, what one of them has not submitted yet
        counts as rejected until then.
        """
        return objects.iterate_rejected(self._database, project_id, task_id)

    def deliveries(self) -> Iterator[Delivery]:
        """Messages that are not finished, oldest first: what a crash left to do."""
        return read.iterate_deliveries(self._database)

    def waiting(self, kind: str) -> Waiting:
        """What is left to do behind the replies, and the newest event of a kind; cheap to ask."""
        return read.waiting(self._database, kind)

    def last_entry(self) -> int:
        """Number of the newest entry; 0 in an empty journal."""
        with self._database.reading() as connection:
            return int(connection.scalar(select(func.max(ENTRIES.c.seq))) or 0)

    def oldest_delivery(self) -> tuple[int, datetime | None]:
        """How many messages are not finished, and when the first of them came."""
        statement = select(func.count(), func.min(DELIVERIES.c.received_at))
        with self._database.reading() as connection:
            count, oldest = connection.execute(statement.select_from(DELIVERIES)).one()
            return int(count), oldest

    def known_versions(self, project_id: str) -> set[tuple[str, datetime | None]]:
        """Annotation id and ``updated_at`` of every version of a project's annotations."""
        statement = select(SUBMISSIONS.c.annotation_id, SUBMISSIONS.c.updated_at)
        with self._database.reading() as connection:
            rows = connection.execute(statement.where(SUBMISSIONS.c.project_id == project_id))
            return {(row.annotation_id, row.updated_at) for row in rows}

    def last_heard(self) -> list[tuple[str, datetime]]:
        """Every project with the time of its last submission, or of its first click."""
        found: dict[str, datetime] = {}
        clicks = func.min(INTERACTIONS.c.created_at)
        news = func.max(SUBMISSIONS.c.received_at)
        with self._database.reading() as connection:
            for table, time in ((INTERACTIONS, clicks), (SUBMISSIONS, news)):
                statement = select(table.c.project_id, time).group_by(table.c.project_id)
                found |= {row[0]: row[1] for row in connection.execute(statement)}
        return sorted(found.items())

    def counts(self, project_id: str | None = None) -> dict[str, int]:
        """How much there is, by kind."""
        of_project = {"project_id": project_id}
        with self._database.reading() as connection:
            return {
                "interactions": _count(connection, INTERACTIONS, of_project),
                "candidates": _count(connection, CANDIDATES, of_project, INTERACTIONS),
                "submissions": _count(connection, SUBMISSIONS, of_project),
                "regions": _count(connection, REGIONS, of_project, SUBMISSIONS),
                "links": _count(connection, LINKS, of_project, SUBMISSIONS),
                "events": _count(connection, EVENTS, of_project),
                "unlinked": _count(connection, SUBMISSIONS, of_project, unlinked=True),
                "deliveries": _count(connection, DELIVERIES, {}),
            }


def _count(
    connection: Connection,
    table: Table,
    wanted: Mapping[str, Any],
    owner: Table | None = None,
    unlinked: bool = False,
) -> int:
    """Rows of a table, or of those that belong to the wanted rows of their owner's table."""
    statement = select(func.count()).select_from(table)
    if owner is not None:
        statement = statement.join(owner, owner.c.seq == table.c.seq)
    if unlinked:
        statement = statement.where(linking.IS_PENDING)
    conditions = read.equal(table if owner is None else owner, **wanted)
    return int(connection.execute(statement.where(*conditions)).scalar_one())
