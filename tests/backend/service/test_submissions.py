"""What becomes of webhooks: bulk ones, broken ones, ones that never succeed, huge ones."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptation.errors import ProtocolError, StoreError
from adaptation.journal import Journal
from backend.protocol.brush_rle import encode_brush
from backend.service.submissions import MAX_TRIES, SET_ASIDE
from tests.backend.payloads import Payload, recorded, region, submission
from tests.backend.service_kit import journal_of, running_service


def brush(**changes: Any) -> Payload:
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:20, 10:30] = True
    return region("brush", {"format": "rle", "rle": encode_brush(mask)}, **changes)


def deliver(folder: Path, *bodies: Payload) -> None:
    with running_service(folder) as service:
        for body in bodies:
            service.webhook(body)


def test_predictions_accepted_in_bulk_are_kept(tmp_path: Path) -> None:
    deliver(tmp_path, recorded("webhook_annotations_created"))
    with journal_of(tmp_path) as journal:
        (found,) = journal.submissions()
    assert (found.event, found.annotation_id, found.task_id) == ("created", "3", "5")
    assert [r.rle is not None for r in found.regions] == [True]


@pytest.mark.parametrize("kind", [{}, [], None])
def test_a_region_of_no_type_loses_nothing_else(tmp_path: Path, kind: object) -> None:
    deliver(tmp_path, submission(brush(type=kind, id="bad"), brush(id="good")))
    with journal_of(tmp_path) as journal:
        (found,) = journal.submissions()
    assert [r.region_id for r in found.regions] == ["good"]


@pytest.mark.parametrize(
    "changes",
    [
        {"lead_time": 10**400},
        {"created_at": "0001-01-01T00:00:00+23:59", "updated_at": "9999-12-31T23:59:59-23:59"},
        {"created_at": "0001-01-01T00:00:00Z", "updated_at": "9999-12-31T23:59:59Z"},
        {"updated_at": "yesterday\ud800\0"},
        {"completed_by": {"id": {}}},
    ],
)
def test_malformed_fields_are_empty_and_block_nothing(
    tmp_path: Path, changes: Payload, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    deliver(tmp_path, submission(brush(), id=1, **changes), submission(brush(), id=2))
    with journal_of(tmp_path) as journal:
        found = list(journal.submissions())
        assert not list(journal.deliveries())
    assert [s.annotation_id for s in found] == ["1", "2"]
    assert all(len(s.regions) == 1 for s in found)
    assert found[0].lead_time_s in (None, 3.5)
    assert found[0].updated_at is None or "lead_time" in changes or "completed_by" in changes
    assert "Traceback" not in caplog.text


def test_a_report_that_nests_too_deeply_is_refused(tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with running_service(tmp_path) as service, pytest.raises(ProtocolError, match="nests"):
        service.webhook({**submission(), "extra": deep})
    while deep:  # or else its end would be deep as well
        deep = deep[0]


def test_an_unknown_action_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    deliver(tmp_path, {"action": "ANNOTATION_REVIEWED", "project": {"id": 1}})
    assert "webhook ANNOTATION_REVIEWED is not known, nothing of it is kept" in caplog.text


def events(folder: Path) -> list[dict[str, Any]]:
    with journal_of(folder) as journal:
        return [dict(event.payload) for event in journal.events(kind=SET_ASIDE)]


def test_a_message_that_cannot_be_understood_is_set_aside_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with journal_of(tmp_path) as journal:
        journal.keep_delivery("[1, 2")
    deliver(tmp_path)
    (event,) = events(tmp_path)
    assert event["body"] == "[1, 2" and "JSON" in event["error"]
    assert "set aside" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("no luck"), StoreError("a value is not taken")])
def test_a_message_that_always_fails_is_set_aside_and_told(
    tmp_path: Path,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    append = Journal.append_submissions

    def failing(journal: Journal, records: Any) -> Any:
        if records[0].annotation_id == "13":
            raise error
        return append(journal, records)

    monkeypatch.setattr(Journal, "append_submissions", failing)
    deliver(tmp_path, submission(id=13), *(submission(id=i) for i in range(MAX_TRIES)))
    (event,) = events(tmp_path)
    assert json.loads(event["body"])["annotation"]["id"] == 13
    assert str(error) in event["error"]
    assert caplog.text.count("set aside") == 1
    with journal_of(tmp_path) as journal:
        assert {s.annotation_id for s in journal.submissions()} == set("01234")
        assert not list(journal.deliveries())


def test_thousands_of_deletions_hold_up_nobody(tmp_path: Path) -> None:
    body = {
        "action": "ANNOTATIONS_DELETED",
        "annotations": [{"id": i} for i in range(3000)],
        "project": {"id": 1},
    }
    started = time.process_time()
    deliver(tmp_path, body, submission(brush(), id=5000))
    assert time.process_time() - started < 30
    with journal_of(tmp_path) as journal:
        assert journal.counts()["submissions"] == 3001


def test_a_polygon_of_a_hundred_thousand_corners_is_kept_without_a_mask(tmp_path: Path) -> None:
    corners = np.random.default_rng(0).uniform(0, 100, (100_000, 2)).tolist()
    size = {"original_width": 4000, "original_height": 4000}
    started = time.process_time()
    deliver(
        tmp_path, submission(region("polygon", {"points": corners}, id="huge", **size), brush())
    )
    assert time.process_time() - started < 20
    with journal_of(tmp_path) as journal:
        (found,) = journal.submissions()
    assert [(r.region_id, r.rle is None) for r in found.regions] == [
        ("huge", True),
        ("abcdefghij", False),
    ]
