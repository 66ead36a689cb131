"""Annotations that were submitted while Strop did not run are fetched from Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.service.missed import MissedAnnotations
from backend.service.service import SegmentationService
from tests.backend.learning_kit import disk, painted
from tests.backend.making import until
from tests.backend.payloads import keypoint
from tests.backend.service_kit import (
    click_on,
    data_uri,
    journal_of,
    pixels_of,
    running_service,
)
from tests.backend.sites import LEGACY_TOKEN, LabelStudioSite


@pytest.fixture
def site() -> Iterator[LabelStudioSite]:
    site = LabelStudioSite()
    with site.running():
        yield site


def service_for(site: LabelStudioSite, folder: Path) -> Any:
    return running_service(
        folder, label_studio__url=site.url, label_studio__token=LEGACY_TOKEN, prefetch__is_on=False
    )


def clicked(service: SegmentationService, task: int) -> dict[str, Any]:
    tasks = [{"id": task, "data": {"image": data_uri(pixels_of())}, "project": 7}]
    return service.predict(
        {**click_on("", keypoint(50, 50, id=f"kp-{task}")), "tasks": tasks, "project": "7.1"}
    )


def annotation_of(answer: dict[str, Any], number: int, task: int, at: str) -> dict[str, Any]:
    annotation: dict[str, Any] = painted(answer, disk(), id=number, task=task)["annotation"]
    return {**annotation, "created_at": at, "updated_at": at, "project": 7}


def known_in(folder: Path) -> list[tuple[str, str | None, str, int]]:
    with journal_of(folder) as journal:
        found = journal.submissions()
        return [(s.annotation_id, s.task_id, s.event, len(s.regions)) for s in found]


LATER = "2199-01-01T00:00:00.000000Z"


def test_what_was_missed_is_fetched_once_at_the_next_start(
    site: LabelStudioSite, tmp_path: Path
) -> None:
    with service_for(site, tmp_path) as service:
        answer = clicked(service, 41)
    annotation = annotation_of(answer, 500, 41, LATER)
    old = annotation_of(answer, 400, 40, "2001-01-01T00:00:00Z")
    site.tasks = [
        {"id": 40, "data": {}, "annotations": [old], "updated_at": "2001-01-01T00:00:00Z"},
        {"id": 41, "data": {}, "annotations": [annotation], "updated_at": LATER},
    ]
    for _ in range(2):
        with service_for(site, tmp_path):
            until(lambda: bool(known_in(tmp_path)))
        assert known_in(tmp_path) == [("500", "41", "created", 1)]
    with journal_of(tmp_path) as journal:
        assert [link.how for link in journal.links()] == ["region_id"]


def test_an_edit_that_was_missed_comes_as_an_update(site: LabelStudioSite, tmp_path: Path) -> None:
    with service_for(site, tmp_path) as service:
        answer = clicked(service, 41)
        annotation = annotation_of(answer, 500, 41, "2199-01-01T00:00:00Z")
        body = {"action": "ANNOTATION_CREATED", "annotation": annotation, "project": {"id": 7}}
        service.webhook(body)
    edited = {**annotation, "updated_at": "2199-01-02T00:00:00Z"}
    site.tasks = [{"id": 41, "data": {}, "annotations": [edited], "updated_at": LATER}]
    with service_for(site, tmp_path):
        until(lambda: len(known_in(tmp_path)) == 2)
    assert [event for _, _, event, _ in known_in(tmp_path)] == ["created", "updated"]


def test_a_label_studio_that_is_away_is_one_line_in_the_log(
    site: LabelStudioSite, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with service_for(site, tmp_path) as service:
        clicked(service, 41)
        missed = service._missed
        assert isinstance(missed, MissedAnnotations)
        site.accepts = ()
        missed._guarded()
        assert "is not asked for missed annotations" in caplog.text
