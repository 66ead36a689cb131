"""What a real Label Studio says of annotations that were saved while nobody listened."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptation.journal import Journal, PromptRecord, SubmissionRecord
from backend.label_studio.client import LabelStudioClient
from backend.protocol import parse_webhook
from backend.protocol.brush_rle import encode_brush
from backend.service.missed import MARGIN, MissedAnnotations
from backend.service.records import submission_record
from tests.adaptation.journal.samples import interaction
from tests.e2e.demo import Demo

pytestmark = pytest.mark.e2e

SIZE = (40, 60)


def brush(region_id: str, width: int) -> dict[str, Any]:
    mask = np.zeros(SIZE, np.bool_)
    mask[5:20, 5 : 5 + width] = True
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": ["Object"]}
    place = {"from_name": "brush", "to_name": "image", "type": "brushlabels"}
    size = {"original_height": SIZE[0], "original_width": SIZE[1], "image_rotation": 0}
    return {"id": region_id, "value": value, **place, **size}


def annotate(client: LabelStudioClient, task_id: str, width: int) -> str:
    body = {"result": [brush("one", width)], "lead_time": 1.5}
    answer = client.http.send_json("POST", f"/api/tasks/{task_id}/annotations/", body)
    return str(answer["id"])


def changed_since(client: LabelStudioClient, project_id: str, since: datetime) -> set[str]:
    found = client.annotated_tasks(project_id, changed_since=since)
    return {annotation["id"] for task in found for annotation in task.annotations}


def fetched(client: LabelStudioClient, journal: Journal) -> Sequence[SubmissionRecord]:
    """What a look for missed annotations brings, kept as a webhook would be."""
    records: list[SubmissionRecord] = []

    def receive(body: dict[str, Any]) -> None:
        event = parse_webhook(body)
        for submission in event.submissions:
            record = submission_record(
                submission, event.project_id or "", datetime.now(timezone.utc)
            )
            journal.append_submission(record)
            records.append(record)

    MissedAnnotations(client, journal, receive).fetch()
    return records


def test_only_what_changed_later_is_asked_for(demo: Demo) -> None:
    client, task = demo.client(), demo.task("5-cat")
    before = datetime.now(timezone.utc)
    time.sleep(1)
    annotation_id = annotate(client, task.task_id, width=10)
    time.sleep(1)
    between = datetime.now(timezone.utc)
    assert int(annotation_id) in changed_since(client, demo.project_id, before)
    assert int(annotation_id) not in changed_since(client, demo.project_id, between)
    time.sleep(1)
    change = {"result": [brush("one", 20)]}
    client.http.send_json("PATCH", f"/api/annotations/{annotation_id}/", change)
    assert int(annotation_id) in changed_since(client, demo.project_id, between)


def test_what_was_saved_and_changed_is_fetched_once(demo: Demo, tmp_path: Path) -> None:
    client, task = demo.client(), demo.task("6-coffee")
    clicked = interaction(
        project_id=demo.project_id,
        task_id=task.task_id,
        created_at=datetime.now(timezone.utc) + MARGIN,
        prompt=PromptRecord(),
    )
    time.sleep(1)
    annotation_id = annotate(client, task.task_id, width=10)
    with Journal(f"sqlite:///{tmp_path / 'journal.db'}") as journal:
        journal.append_interaction(clicked)
        created = fetched(client, journal)[-1]
        assert (created.annotation_id, created.event) == (annotation_id, "created")
        assert created.task_id == task.task_id and created.lead_time_s == 1.5
        (region,) = created.regions
        assert region.rle is not None and region.rle.size == SIZE
        fetched(client, journal)  # an hour before it, too: what others have annotated there
        assert fetched(client, journal) == []

        time.sleep(3)  # a change within two seconds of its creation counts as that
        change = {"result": [brush("one", 20)]}
        client.http.send_json("PATCH", f"/api/annotations/{annotation_id}/", change)
        (updated,) = fetched(client, journal)
        assert (updated.annotation_id, updated.event) == (annotation_id, "updated")
        assert fetched(client, journal) == []
        found = journal.submissions(annotation_id=annotation_id, current_only=True)
        assert list(found) == [updated]
