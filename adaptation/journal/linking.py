"""Joining submissions with the interactions that they came from, behind the reply.

Linking reads, compares masks outside of any transaction, and writes its result in one.  It may be
repeated, run twice at once, or be killed at any point: ``link_wanted`` counts the reasons to link
a submission, ``link_done`` the reasons that its links already know, and a result is written only
over an older one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from adaptation.errors import InputError
from adaptation.journal.database import Database
from adaptation.journal.matching import Match, Offer, match
from adaptation.journal.read import load_links, load_submissions
from adaptation.journal.records import Link, SubmissionRecord
from adaptation.journal.rows import link_row
from adaptation.journal.schema import CANDIDATES, INTERACTIONS, LINKS, SUBMISSIONS
from adaptation.masks import Rle

IS_PENDING = SUBMISSIONS.c.link_wanted > SUBMISSIONS.c.link_done
"""A condition for submissions that wait for their links."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """A submission and all masks that may have become its regions."""

    seq: int
    wanted: int
    submission: SubmissionRecord
    by_id: Sequence[Offer]
    others: Sequence[Offer]


def find_submission(database: Database, record: SubmissionRecord) -> int:
    """The entry of a submission that was appended before.

    Raises:
        InputError: It was not.
    """
    statement = select(SUBMISSIONS.c.seq).where(
        SUBMISSIONS.c.project_id == record.project_id,
        SUBMISSIONS.c.idempotency_key == record.idempotency_key,
    )
    with database.reading() as connection:
        seq = connection.scalar(statement)
    if seq is None:
        raise InputError(
            f"The submission {record.idempotency_key!r} is not in the journal: append it first."
        )
    return int(seq)


def pending(database: Database, limit: int | None = None) -> list[int]:
    """Entries of submissions that wait for their links, oldest first."""
    statement = select(SUBMISSIONS.c.seq).where(IS_PENDING).order_by(SUBMISSIONS.c.seq).limit(limit)
    with database.reading() as connection:
        return list(connection.scalars(statement))


def link_one(database: Database, seq: int) -> list[Link]:
    """Link one submission, and answer its links as they now stand."""
    with database.reading() as connection:
        work = _gather(connection, seq)
    matches = match(work.submission.regions, work.by_id, work.others)
    with database.writing() as connection:
        _store(connection, work, matches)
        return load_links(connection, [seq])


def _gather(connection: Connection, seq: int) -> _Work:
    statement = select(SUBMISSIONS).where(SUBMISSIONS.c.seq == seq)
    row = connection.execute(statement).mappings().one()
    [submission] = load_submissions(connection, [row])
    by_id = _offers_by_id(connection, submission)
    return _Work(
        seq=seq,
        wanted=row["link_wanted"],
        submission=submission,
        by_id=by_id,
        others=_offers_by_label(connection, submission, {offer.region_id for offer in by_id}),
    )


def _offers_by_id(connection: Connection, submission: SubmissionRecord) -> list[Offer]:
    ids = {region.region_id for region in submission.regions}
    return _offers(connection, submission, CANDIDATES.c.region_id.in_(ids)) if ids else []


def _offers_by_label(
    connection: Connection, submission: SubmissionRecord, known_ids: set[str]
) -> list[Offer]:
    """Masks shown before the submission, of the labels of regions whose id is lost."""
    lost = [r for r in submission.regions if r.region_id not in known_ids and r.rle is not None]
    if not lost:
        return []
    return _offers(
        connection,
        submission,
        CANDIDATES.c.was_shown,
        INTERACTIONS.c.label.in_({region.label for region in lost}),
        INTERACTIONS.c.created_at <= submission.received_at,
    )


def _offers(
    connection: Connection, submission: SubmissionRecord, *conditions: ColumnElement[bool]
) -> list[Offer]:
    statement = (
        select(
            INTERACTIONS.c.seq,
            INTERACTIONS.c.request_id,
            INTERACTIONS.c.label,
            INTERACTIONS.c.image_height,
            INTERACTIONS.c.image_width,
            CANDIDATES.c.region_id,
            CANDIDATES.c.counts,
        )
        .join(CANDIDATES, CANDIDATES.c.seq == INTERACTIONS.c.seq)
        .where(
            INTERACTIONS.c.project_id == submission.project_id,
            INTERACTIONS.c.task_id == submission.task_id,
            *conditions,
        )
    )
    return [
        Offer(
            seq=row.seq,
            request_id=row.request_id,
            region_id=row.region_id,
            label=row.label,
            rle=Rle(size=(row.image_height, row.image_width), counts=bytes(row.counts)),
        )
        for row in connection.execute(statement)
    ]


def _store(connection: Connection, work: _Work, matches: Sequence[Match]) -> None:
    """Write the links, unless another linker has written newer ones."""
    is_newer = (SUBMISSIONS.c.seq == work.seq) & (SUBMISSIONS.c.link_done < work.wanted)
    done = connection.execute(update(SUBMISSIONS).where(is_newer).values(link_done=work.wanted))
    if done.rowcount == 0:
        return
    connection.execute(delete(LINKS).where(LINKS.c.seq == work.seq))
    rows = [link_row(_as_link(work, position, found)) for position, found in enumerate(matches)]
    if rows:
        connection.execute(insert(LINKS), rows)


def _as_link(work: _Work, position: int, found: Match) -> Link:
    return Link(
        submission_seq=work.seq,
        position=position,
        region_id=work.submission.regions[position].region_id,
        annotation_id=work.submission.annotation_id,
        request_id=found.offer.request_id if found.offer else None,
        candidate_region_id=found.offer.region_id if found.offer else None,
        how=found.how,
        iou=found.iou,
    )
