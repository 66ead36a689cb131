"""Scores and truth: the error that is reported, and the curves that make it smaller."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from adaptation.journal import Journal
from backend.insights.calibration import (
    ScoreCurve,
    ScoreCurves,
    calibration_error,
    fitted,
    reliability,
)
from backend.insights.facts import ObjectFact
from backend.insights.scores import CalibratedScores
from backend.insights.store import FactStore
from tests.backend.insights.kit import START, click_object, submit


def fact(
    predicted: Sequence[float], ious: Sequence[float], *, seq: int = 1, decoder_id: str = "d"
) -> ObjectFact:
    return ObjectFact(
        project_id="1",
        task_id="1",
        annotation_id=str(seq),
        region_id="r",
        submission_seq=seq,
        position=0,
        submitted_at=START,
        annotator=None,
        label="cell",
        outcome="as shown",
        ious=tuple(ious),
        predicted=tuple(predicted),
        decoder_id=decoder_id,
    )


def test_the_error_is_the_mean_gap_of_tenths_weighted_by_their_masks() -> None:
    scores, ious = np.array([0.95, 0.95, 0.15, 1.0]), np.array([1.0, 0.5, 0.25, 0.9])
    # The last tenth: |0.95 - 1 + 0.95 - 0.5 + 1 - 0.9| = 0.5; the second one: |0.15 - 0.25| = 0.1.
    assert calibration_error(scores, ious) == pytest.approx((0.5 + 0.1) / 4)


def test_without_evidence_a_score_is_the_decoders_own() -> None:
    assert fitted([]) == ScoreCurves()
    assert [ScoreCurve().of(score) for score in (0.0, 0.4321, 1.0)] == [0.0, 0.4321, 1.0]
    assert ScoreCurve(0.5, 1.0).of(1.7) == 1.7, "what is no IoU is left as it is"


def test_many_objects_say_what_a_score_is_worth_and_a_few_say_little() -> None:
    said = fact([0.9], [0.6])
    assert fitted([said] * 300).of(0.9, 1) == pytest.approx(0.6, abs=0.03)
    assert 0.8 < fitted([said] * 2).of(0.9, 1) < 0.9


def test_first_and_later_masks_are_told_apart() -> None:
    curves = fitted([fact([0.9, 0.9, 0.9], [0.3, 0.95, 0.95])] * 200)
    assert curves.of(0.9, 1) == pytest.approx(0.3, abs=0.05)
    assert curves.of(0.9, 2) == curves.of(0.9, 3) == pytest.approx(0.95, abs=0.02)


def test_the_order_of_masks_never_changes() -> None:
    rng = np.random.default_rng(5)
    opposite = [fact([score], [1 - score]) for score in rng.uniform(0.02, 0.98, 400)]
    curve = fitted(opposite).first
    scores = np.linspace(0.02, 0.98, 49)
    assert np.all(np.diff([curve.of(score) for score in scores]) > 0)


def test_reliability_is_of_scores_that_had_not_seen_their_object() -> None:
    rng = np.random.default_rng(6)
    facts = [
        fact([score], [max(0.0, score - 0.25)], seq=n)
        for n, score in enumerate(rng.uniform(0.3, 0.99, 200))
    ]
    found = reliability(facts)
    assert found is not None and found.n == 200
    assert found.error_as_predicted == pytest.approx(0.25, abs=0.01)
    assert found.error < 0.08
    assert sum(tenth.n for tenth in found.tenths) == 200
    alone = reliability(facts[:5])
    assert alone is not None and alone.error == alone.error_as_predicted, "nothing came before"
    assert reliability([fact([], [], seq=1)]) is None


def test_scores_of_a_project_follow_its_own_submissions(tmp_path: Path) -> None:
    with Journal(f"sqlite:///{tmp_path}/journal.db") as journal:
        store = FactStore(tmp_path / "insights.db", journal)
        scores = CalibratedScores(store)
        for number in range(60):
            name, task = f"o{number}", str(number)
            click_object(journal, name, [10], task=task, predicted=0.8)
            submit(journal, f"{number}", [(f"{name}-r0", 40)], task=task)  # IoU 10 / 40
        click_object(journal, "other", [10], task="x", project="2", predicted=0.8)
        submit(journal, "200", [("own", 40)], task="x", project="2")
        assert scores.score("1", "d", 0.8, 1) == 0.8, "nothing was fitted yet"
        store.refresh()
        assert scores.refit() == 1 and scores.refit() == 0
        assert 0.25 < scores.score("1", "d", 0.8, 1) < 0.45, "sixty objects, and the prior"
        assert scores.score("1", "another decoder", 0.8, 1) == 0.8
        assert scores.score("1", "d", 0.8, 2) == 0.8 and scores.score("2", "d", 0.8, 1) == 0.8
        click_object(journal, "late", [40], task="late", predicted=0.8)
        submit(journal, "300", [("late-r0", 40)], task="late")
        store.refresh()
        before = scores.score("1", "d", 0.8, 1)
        assert scores.refit() == 1 and scores.score("1", "d", 0.8, 1) > before
