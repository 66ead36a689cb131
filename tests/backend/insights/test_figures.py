"""Figures from rows: by hand on few objects, and by evaluation's own functions on many."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptation.simulation.metrics import carried_forward, clicks_needed, failures
from backend.insights.facts import ObjectFact
from backend.insights.figures import figures_of
from backend.insights.store import LearnedRow
from tests.backend.insights.kit import START


def fact(number: int, ious: tuple[float, ...], **changes: object) -> ObjectFact:
    base = ObjectFact(
        project_id="1",
        task_id=str(number // 2),
        annotation_id=str(number),
        region_id="r",
        submission_seq=number,
        position=0,
        submitted_at=START + timedelta(hours=10 * number),
        annotator="7",
        label="cell",
        outcome="as shown" if ious else "painted",
        ious=ious,
        gaps_s=(2.0,) * max(0, len(ious) - 1),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def learned(number: int, frozen: float, adapted: float, **changes: object) -> LearnedRow:
    base = LearnedRow(
        seq=number,
        session="project-1",
        version="v",
        at=START.isoformat(),
        annotation_id=str(number),
        region_id="r",
        frozen_iou=frozen,
        adapted_iou=adapted,
        turned_back=0,
        skipped=None,
    )
    return base._replace(**changes)  # type: ignore[arg-type]


def test_what_a_project_took() -> None:
    facts = [fact(0, (0.5, 1.0)), fact(1, (0.9,)), fact(2, ()), fact(3, (0.2, 0.3, 0.5, 0.6))]
    figures = figures_of(facts)
    assert (figures.n_objects, figures.n_clicked, figures.n_tasks) == (4, 3, 2)
    assert figures.outcomes == {"as shown": 3, "painted": 1}
    assert figures.clicks is not None and figures.clicks.value == pytest.approx(7 / 3)
    assert figures.median_clicks == 2
    assert figures.histogram["1"] == 1 and figures.histogram["4"] == 1
    metrics = {estimate.name: estimate.value for estimate in figures.metrics}
    assert metrics["NoC20@85"] == pytest.approx((2 + 1 + 20) / 3)
    assert metrics["FR20@85"] == pytest.approx(100 / 3)
    assert [worst.annotation_id for worst in figures.worst] == ["3", "0", "1"]
    assert list(figures.by_day.values()) == [(2, 1), (2, 1)]


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=35), min_size=1, max_size=30))
def test_metrics_are_those_of_the_evaluation(runs: list[list[float]]) -> None:
    figures = figures_of([fact(i, tuple(run)) for i, run in enumerate(runs)])
    curves = carried_forward(runs, 30)
    found = {estimate.name: estimate for estimate in figures.metrics}
    assert found["NoC20@90"].value == pytest.approx(clicks_needed(curves, 0.9, 20).mean())
    assert found["FR30@90"].value == pytest.approx(100 * failures(curves, 0.9, 30).mean())
    for estimate in figures.metrics:
        assert estimate.low <= estimate.value + 1e-9 and estimate.value <= estimate.high + 1e-9


def test_intervals_hold_the_truth_nine_times_in_ten() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        facts = [fact(i, (1.0,) if rng.random() < 0.7 else (0.1,)) for i in range(60)]
        share = {e.name: e for e in figures_of(facts).metrics}["FR20@85"]
        inside += share.low <= 30 <= share.high
    assert inside >= 180


def test_gain_saves_clicks_by_what_a_click_brings_here() -> None:
    facts = [fact(0, (0.5, 0.7)), fact(1, (0.4, 0.5, 0.6)), fact(2, (0.9,))]
    said = [
        learned(0, 0.5, 0.9),
        learned(0, 0.5, 0.6),  # asked again: the last word counts
        learned(1, 0.6, 0.7, turned_back=1),
        learned(2, 0.9, 0.9, skipped="too small"),
        learned(9, 0.1, 0.9),  # deleted since
    ]
    gain = figures_of(facts, said).gain
    assert gain is not None and gain.n == 3
    assert gain.difference.value == pytest.approx(0.2 / 3)
    assert gain.iou_per_click == pytest.approx(0.4 / 3)
    assert gain.clicks_saved == pytest.approx(0.2 / (0.4 / 3))
    assert gain.minutes_saved == pytest.approx(1.5 * 2 / 60)
    assert gain.n_turned_back == 1 and gain.skipped == {"too small": 1}


def test_without_clicks_there_is_nothing_to_measure() -> None:
    for facts in ([], [fact(0, ())]):
        figures = figures_of(facts)
        assert figures.metrics == [] and figures.clicks is None and figures.gain is None
        assert figures.seconds_between is None and figures.latency == {}


def test_people_are_told_apart_only_where_wanted() -> None:
    facts = [fact(0, (0.5, 1.0)), fact(1, (1.0,), annotator=None)]
    assert figures_of(facts).annotators == {}
    told = figures_of(facts, with_annotators=True).annotators
    assert told == {"7": (1, 2.0, 2.0, 1.0), "unknown": (1, 1.0, 0.0, 1.0)}


def test_latency_by_stage() -> None:
    figures = figures_of([], timings=[{"decode": 10.0, "draw": 2.0}, {"decode": 30.0}])
    assert figures.latency["decode"] == pytest.approx((20, 29))
    assert figures.latency["all stages"][0] == pytest.approx(21)


def test_the_learning_curve_has_points_of_equal_size() -> None:
    figures = figures_of([fact(i, (0.5,) * (6 if i < 10 else 2)) for i in range(20)])
    assert figures.curve_size == 5 and figures.curve == [6, 6, 2, 2]
