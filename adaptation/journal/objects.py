"""Whole objects, put together from interactions, submissions and their links."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime

from sqlalchemy import Connection, RowMapping, or_, select

from adaptation.journal.database import Database
from adaptation.journal.linking import IS_PENDING
from adaptation.journal.read import (
    Condition,
    equal,
    linked_rows,
    load_interactions,
    load_links,
    load_submissions,
    scan,
)
from adaptation.journal.records import (
    FinishedObject,
    InteractionRecord,
    Link,
    RejectedOffer,
    SubmissionRecord,
)
from adaptation.journal.schema import INTERACTIONS, LINKS, SUBMISSIONS

PAGE = 8
"""Submissions read at a time; each brings all masks of all its objects along."""

ClickedObjectKey = tuple[str, str, str, str]

IN_FORCE: Sequence[Condition] = (
    SUBMISSIONS.c.standing == "current",
    SUBMISSIONS.c.was_cancelled.is_(False),
)


def iterate_objects(
    database: Database, project_id: str | None, task_id: str | None
) -> Iterator[FinishedObject]:
    """Objects whose submission is in force and linked, in the order of these submissions."""
    conditions = [
        *IN_FORCE,
        SUBMISSIONS.c.link_done > 0,
        *equal(SUBMISSIONS, project_id=project_id, task_id=task_id),
    ]
    return scan(database, SUBMISSIONS, conditions, _load_objects, page_size=PAGE)


def _load_objects(connection: Connection, rows: Sequence[RowMapping]) -> list[FinishedObject]:
    submissions = dict(
        zip((row["seq"] for row in rows), load_submissions(connection, rows), strict=True)
    )
    found = []
    for link in load_links(connection, list(submissions)):
        submission = submissions[link.submission_seq]
        if link.how != "none" and submission.regions[link.position].rle is not None:
            found.append(_object(connection, submission, link))
    return found


def _object(connection: Connection, submission: SubmissionRecord, link: Link) -> FinishedObject:
    return FinishedObject(
        interactions=tuple(_steps(connection, link.request_id or "")),
        submitted=submission.regions[link.position],
        link=link,
        annotation_id=submission.annotation_id,
        annotator=submission.annotator,
        submitted_at=submission.received_at,
    )


def _steps(connection: Connection, request_id: str) -> list[InteractionRecord]:
    """An object's interactions in the order of their requests, up to the one that is named."""
    table = INTERACTIONS
    last_one = select(table).where(table.c.request_id == request_id)
    last = connection.execute(last_one).mappings().one()
    statement = (
        select(table)
        .where(
            *(table.c[name] == last[name] for name in ("project_id", "task_id", "label")),
            table.c.object_id == last["object_id"],
            or_(table.c.created_at < last["created_at"], table.c.seq == last["seq"]),
        )
        .order_by(table.c.created_at, table.c.seq)
    )
    return load_interactions(connection, connection.execute(statement).mappings().all())


def iterate_rejected(
    database: Database, project_id: str | None, task_id: str | None
) -> Iterator[RejectedOffer]:
    """Masks that were shown before a submission of their task, and that none of them holds.

    Tasks with a submission that is not linked yet are left out.  Where several people work on one
    task, what one of them is still about to accept counts as rejected until it is submitted.
    """
    same_task = (SUBMISSIONS.c.project_id == INTERACTIONS.c.project_id) & (
        SUBMISSIONS.c.task_id == INTERACTIONS.c.task_id
    )
    of_task = select(SUBMISSIONS.c.seq).where(same_task, *IN_FORCE)
    later = of_task.where(SUBMISSIONS.c.received_at >= INTERACTIONS.c.created_at)
    waiting = of_task.where(IS_PENDING)
    conditions = [
        later.exists(),
        ~waiting.exists(),
        *equal(INTERACTIONS, project_id=project_id, task_id=task_id),
    ]
    return scan(database, INTERACTIONS, conditions, _load_rejected)


def _load_rejected(connection: Connection, rows: Sequence[RowMapping]) -> list[RejectedOffer]:
    taken, finished = _taken(connection, {(row["project_id"], row["task_id"]) for row in rows})
    return [
        RejectedOffer(
            interaction=interaction,
            candidate=candidate,
            was_superseded=any(
                accepted_at > interaction.created_at for accepted_at in finished[_key(interaction)]
            ),
        )
        for interaction in load_interactions(connection, rows)
        for candidate in interaction.candidates
        if candidate.was_shown and (interaction.request_id, candidate.region_id) not in taken
    ]


def _taken(
    connection: Connection, tasks: set[tuple[str, str]]
) -> tuple[set[tuple[str, str]], dict[ClickedObjectKey, list[datetime]]]:
    """The accepted masks of some tasks, and when the accepted step of each object was asked for."""
    taken: set[tuple[str, str]] = set()
    finished: dict[ClickedObjectKey, list[datetime]] = defaultdict(list)
    columns = [INTERACTIONS.c[name] for name in ("project_id", "task_id", "label", "object_id")]
    for project_id, task_id in tasks:
        statement = (
            linked_rows()
            .join(INTERACTIONS, INTERACTIONS.c.request_id == LINKS.c.request_id)
            .add_columns(*columns, INTERACTIONS.c.created_at)
            .where(*IN_FORCE, *equal(SUBMISSIONS, project_id=project_id, task_id=task_id))
        )
        for row in connection.execute(statement).mappings():
            taken.add((row["request_id"], row["candidate_region_id"]))
            key = (row["project_id"], row["task_id"], row["label"], row["object_id"])
            finished[key].append(row["created_at"])
    return taken, finished


def _key(interaction: InteractionRecord) -> ClickedObjectKey:
    return (
        interaction.project_id,
        interaction.task_id,
        interaction.label,
        interaction.object_id,
    )
