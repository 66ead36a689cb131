from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from adaptation.errors import InputError
from adaptation.journal import (
    ClickRecord,
    InteractionRecord,
    Journal,
    SubmissionRecord,
)
from tests.adaptation.journal.samples import (
    SIZE,
    at,
    candidate,
    deletion,
    interaction,
    interactions,
    json_objects,
    region,
    square,
    submission,
    submissions,
)

one_journal_for_all = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40
)


@one_journal_for_all
@given(record=interactions())
def test_any_interaction_reads_back_equal(journal: Journal, record: InteractionRecord) -> None:
    journal.append_interaction(record)
    assert list(journal.interactions(request_id=record.request_id)) == [record]


@one_journal_for_all
@given(record=submissions())
def test_any_submission_reads_back_equal(journal: Journal, record: SubmissionRecord) -> None:
    receipt = journal.append_submission(record)
    [entry] = [e for e in journal.entries(after=receipt.seq - 1) if e.seq == receipt.seq]
    assert entry.record == record


@one_journal_for_all
@given(payload=json_objects)
def test_any_event_reads_back_equal(journal: Journal, payload: dict[str, object]) -> None:
    receipt = journal.append_event("adapter_saved", "1", payload)
    [entry] = list(journal.entries(after=receipt.seq - 1))
    assert entry.record.payload == payload  # type: ignore[union-attr]


def test_a_score_that_is_no_number_stays_one(journal: Journal) -> None:
    journal.append_interaction(
        interaction(candidates=(candidate("a", predicted_iou=float("nan")),))
    )
    [record] = journal.interactions()
    assert record.candidates[0].predicted_iou != record.candidates[0].predicted_iou


def test_times_become_utc_and_keep_their_microseconds(journal: Journal) -> None:
    local = datetime(2026, 11, 21, 13, 30, 0, 123456, tzinfo=timezone(timedelta(hours=2)))
    journal.append_interaction(interaction(created_at=local))
    [record] = journal.interactions()
    assert record.created_at == datetime(2026, 11, 21, 11, 30, 0, 123456, tzinfo=timezone.utc)
    assert record.created_at.utcoffset() == timedelta(0)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(InputError, match="created_at needs a time zone"):
        interaction(created_at=datetime(2026, 11, 21))


@pytest.mark.parametrize("value", ["a\x00b", "\ud800"])
def test_text_that_a_database_cannot_hold_is_refused(value: str) -> None:
    with pytest.raises(InputError, match="ClickRecord.id must be valid text"):
        ClickRecord(id=value, x=0, y=0, is_positive=True)


def test_a_mask_of_another_size_than_its_image_is_refused() -> None:
    with pytest.raises(InputError, match="must have its image's size"):
        interaction(masks=[square(0, 0, 2, size=(5, 5))], image_size=SIZE)


@pytest.mark.parametrize(
    "broken",
    [
        {"timings_ms": {"decode": float("nan")}},
        {"context": {"when": at(0)}},
        {"context": {"score": float("inf")}},
    ],
)
def test_what_is_not_json_is_refused_and_nothing_written(
    journal: Journal, broken: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="must hold JSON values only"):
        journal.append_interaction(interaction(**broken))
    assert list(journal.entries()) == []


def test_a_submission_needs_its_task() -> None:
    with pytest.raises(InputError, match="needs its task's id"):
        submission(task_id=None)
    assert deletion().task_id is None


def test_the_key_of_a_submission_names_annotation_event_and_version() -> None:
    first = submission(region("a"))
    assert submission(region("b")).idempotency_key == first.idempotency_key
    others = [
        submission(annotation_id="41"),
        submission(event="updated"),
        submission(updated_at=at(60)),
        deletion(),
    ]
    assert len({first.idempotency_key, *(o.idempotency_key for o in others)}) == 5
