"""What an append does inside its transaction.

All of it runs while no one else writes, so a look before an insert is safe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, insert, select, update

from adaptation.journal.records import (
    CandidateRecord,
    EntryKind,
    EventRecord,
    InteractionRecord,
    Receipt,
    SubmissionRecord,
    check_masks,
    utc_now,
)
from adaptation.journal.rows import (
    candidate_rows,
    event_row,
    interaction_row,
    region_rows,
    submission_row,
)
from adaptation.journal.schema import (
    CANDIDATES,
    DELIVERIES,
    ENTRIES,
    EVENTS,
    INTERACTIONS,
    REGIONS,
    SUBMISSIONS,
)


def add_interaction(connection: Connection, record: InteractionRecord) -> Receipt:
    """Write an interaction and its masks, unless its request is there already."""
    known = select(INTERACTIONS.c.seq).where(INTERACTIONS.c.request_id == record.request_id)
    seq = connection.scalar(known)
    if seq is not None:
        return Receipt(seq=seq, is_new=False)
    seq = _next_entry(connection, "interaction", record.project_id)
    connection.execute(insert(INTERACTIONS), {"seq": seq, **interaction_row(record)})
    if record.candidates:
        connection.execute(insert(CANDIDATES), candidate_rows(seq, record.candidates))
    return Receipt(seq=seq, is_new=True, needs_link=_wake_submissions(connection, record))


def add_candidates(
    connection: Connection, request_id: str, candidates: Sequence[CandidateRecord]
) -> bool:
    """Write further masks of an interaction, behind those it has; False where it is not there."""
    table = INTERACTIONS
    columns = table.c.seq, table.c.image_height, table.c.image_width
    found = connection.execute(select(*columns).where(table.c.request_id == request_id)).first()
    if found is None:
        return False
    check_masks(candidates, (found.image_height, found.image_width))
    known = select(CANDIDATES.c.token).where(CANDIDATES.c.seq == found.seq)
    tokens = set(connection.scalars(known))
    new = [candidate for candidate in candidates if candidate.token not in tokens]
    if new:
        connection.execute(insert(CANDIDATES), candidate_rows(found.seq, new, len(tokens)))
    return True


def _wake_submissions(connection: Connection, record: InteractionRecord) -> bool:
    """Ask for new links where a submission came before an interaction that is older than it."""
    woken = connection.execute(
        update(SUBMISSIONS)
        .where(
            SUBMISSIONS.c.project_id == record.project_id,
            SUBMISSIONS.c.task_id == record.task_id,
            SUBMISSIONS.c.received_at >= record.created_at,
            SUBMISSIONS.c.event != "deleted",
        )
        .values(link_wanted=SUBMISSIONS.c.link_wanted + 1)
    )
    return woken.rowcount > 0


def add_submission(connection: Connection, record: SubmissionRecord) -> Receipt:
    """Write a version of an annotation, unless the same news is there already."""
    known = select(SUBMISSIONS.c.seq).where(
        SUBMISSIONS.c.project_id == record.project_id,
        SUBMISSIONS.c.idempotency_key == record.idempotency_key,
    )
    seq = connection.scalar(known)
    if seq is not None:
        return Receipt(seq=seq, is_new=False)
    is_deletion = record.event == "deleted"
    seq = _next_entry(connection, "submission", record.project_id)
    derived = {"standing": "current", "link_wanted": int(not is_deletion), "link_done": 0}
    connection.execute(insert(SUBMISSIONS), {"seq": seq, **submission_row(record), **derived})
    if record.regions:
        connection.execute(insert(REGIONS), region_rows(seq, record.regions))
    _settle_versions(connection, record.project_id, record.annotation_id)
    return Receipt(seq=seq, is_new=True, needs_link=not is_deletion)


def _settle_versions(connection: Connection, project_id: str, annotation_id: str) -> None:
    """Decide anew which version of an annotation is in force; news arrives in any order."""
    table = SUBMISSIONS
    is_version = (table.c.project_id == project_id) & (table.c.annotation_id == annotation_id)
    columns = (table.c.seq, table.c.event, table.c.updated_at, table.c.received_at)
    versions = connection.execute(select(*columns).where(is_version)).all()
    if any(version.event == "deleted" for version in versions):
        connection.execute(update(table).where(is_version).values(standing="deleted"))
        return
    newest = max(versions, key=lambda v: _age(v.seq, v.event, v.updated_at, v.received_at)).seq
    if len(versions) > 1:
        connection.execute(update(table).where(is_version).values(standing="replaced"))
        chosen = update(table).where(table.c.seq == newest)
        connection.execute(chosen.values(standing="current"))


def _age(
    seq: int, event: str, updated_at: datetime | None, received_at: datetime
) -> tuple[datetime, bool, int]:
    """Orders versions by the client's clock; an update is newer than a creation of one time."""
    return (updated_at or received_at, event == "updated", seq)


def add_event(connection: Connection, record: EventRecord) -> Receipt:
    """Write an event."""
    seq = _next_entry(connection, "event", record.project_id)
    connection.execute(insert(EVENTS), {"seq": seq, **event_row(record)})
    return Receipt(seq=seq, is_new=True)


def add_delivery(connection: Connection, body: str, received_at: datetime | None) -> int:
    """Keep a message until it is finished; one without a time came now."""
    values = {"received_at": received_at or utc_now(), "body": body}
    return _insert(connection, DELIVERIES, values)


def _next_entry(connection: Connection, kind: EntryKind, project_id: str | None) -> int:
    values = {"kind": kind, "project_id": project_id, "appended_at": utc_now()}
    return _insert(connection, ENTRIES, values)


def _insert(connection: Connection, table: Table, values: Mapping[str, Any]) -> int:
    """Insert a row whose number the database gives."""
    key = connection.execute(insert(table), values).inserted_primary_key
    assert key is not None, "a single insert answers its key"
    return int(key[0])
