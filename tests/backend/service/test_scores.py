"""The score that Label Studio is told is to be expected; the journal keeps the decoder's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.insights.store import FactStore
from tests.backend.insights.kit import click_object, submit
from tests.backend.making import until
from tests.backend.payloads import keypoint
from tests.backend.service_kit import (
    WatchedSam,
    click_on,
    data_uri,
    interactions_of,
    journal_of,
    pixels_of,
    regions_of,
    running_service,
)


def test_a_click_is_told_the_iou_to_be_expected(tmp_path: Path) -> None:
    sam = WatchedSam()
    with journal_of(tmp_path) as journal:
        for number in range(80):
            name, task = f"o{number}", f"t{number}"
            click_object(journal, name, [10], task=task, predicted=0.5, decoder_id=sam.decoder_id)
            submit(journal, f"{number}", [(f"{name}-r0", 40)], task=task)  # IoU 10 / 40
        FactStore(tmp_path / "insights.db", journal).refresh()
    with running_service(tmp_path, sam) as service:
        scores = service.scores
        assert scores is not None
        until(lambda: scores.score("1", sam.decoder_id, 0.5, 1) < 0.4)
        answer = service.predict(click_on(data_uri(pixels_of()), keypoint(50, 50)))
        told = answer["results"][0]["score"]
        expected = scores.score("1", sam.decoder_id, 0.5, 1)
    (kept,) = (r for r in interactions_of(tmp_path) if r.task_id == "7")
    (shown,) = (c for c in kept.candidates if c.was_shown)
    assert regions_of(answer)[0]["score"] == told
    assert expected < 0.4 and told < shown.predicted_iou - 0.02
    assert told == pytest.approx(
        scores.score("1", sam.decoder_id, shown.predicted_iou, 1), abs=1e-4
    )


def test_without_insights_it_is_the_decoders_own(tmp_path: Path) -> None:
    with running_service(tmp_path, WatchedSam(), insights__is_on=False) as service:
        assert service.scores is None
        answer = service.predict(click_on(data_uri(pixels_of()), keypoint(50, 50)))
    (kept,) = interactions_of(tmp_path)
    (shown,) = (c for c in kept.candidates if c.was_shown)
    assert answer["results"][0]["score"] == pytest.approx(shown.predicted_iou, abs=1e-4)
