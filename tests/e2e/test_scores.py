"""What an annotator sees of a mask's score and of the model's version, in a real Label Studio."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.insights.scores import CalibratedScores
from backend.insights.store import FactStore
from tests.e2e.browser import Browser
from tests.e2e.demo import Demo

pytestmark = pytest.mark.e2e


def test_an_accepted_region_shows_the_score_of_the_mask_that_was_shown(
    demo: Demo, browser: Browser, pictures: Path
) -> None:
    task = demo.task("coffee")
    browser.open_task(demo.project_id, task.task_id)
    browser.choose("Object")
    assert browser.click(48, 35) == []
    with demo.journal() as journal:
        record = list(journal.interactions(task_id=task.task_id))[-1]
        told = CalibratedScores(FactStore(demo.folder / "strop" / "insights.db", journal))
        told.refit()
    (shown,) = [candidate for candidate in record.candidates if candidate.was_shown]
    expected = told.score(demo.project_id, record.decoder_id, shown.predicted_iou, 1)
    score, version = f"{expected:.2f}", record.model_id
    assert score not in browser.text(), "a suggestion tells no score"
    browser.accept_all()
    text = browser.text()
    browser.screenshot(pictures / "score.jpg")
    assert score in text and f"{version}-" not in text, "nor does anything tell the version"
