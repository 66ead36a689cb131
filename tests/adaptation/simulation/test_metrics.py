from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from adaptation.simulation.metrics import (
    Metric,
    carried_forward,
    clicks_needed,
    failures,
    first_success,
    strict_failures,
    table_metrics,
)

# Four objects: at once; on the last click of a budget of 3; only on the 4th; never.
CURVES = np.array(
    [
        [0.95, 0.95, 0.95, 0.95],
        [0.10, 0.50, 0.90, 0.90],
        [0.10, 0.50, 0.60, 0.91],
        [0.10, 0.20, 0.30, 0.40],
    ]
)

curves = arrays(
    np.float64, st.tuples(st.integers(1, 6), st.integers(2, 8)), elements=st.floats(0, 1, width=32)
)


def test_an_object_keeps_its_last_value() -> None:
    stacked = carried_forward([[0.2, 0.9], [0.1, 0.2, 0.3, 0.4]], 3)
    np.testing.assert_array_equal(stacked, [[0.2, 0.9, 0.9], [0.1, 0.2, 0.3]])


def test_a_run_without_clicks_is_refused() -> None:
    with pytest.raises(ValueError, match="without a single click"):
        carried_forward([[]], 3)


def test_first_success_counts_clicks_from_one_and_reaching_exactly_is_enough() -> None:
    np.testing.assert_array_equal(first_success(CURVES, 0.90), [1, 3, 4, 0])


def test_clicks_needed_is_capped_at_the_budget() -> None:
    np.testing.assert_array_equal(clicks_needed(CURVES, 0.90, 3), [1, 3, 3, 3])
    np.testing.assert_array_equal(clicks_needed(CURVES, 0.90, 4), [1, 3, 4, 4])


def test_success_on_the_last_click_fails_by_the_older_count_only() -> None:
    np.testing.assert_array_equal(failures(CURVES, 0.90, 3), [0, 0, 1, 1])
    np.testing.assert_array_equal(strict_failures(CURVES, 0.90, 3), [0, 1, 1, 1])


def test_a_later_drop_does_not_take_success_back() -> None:
    np.testing.assert_array_equal(failures(np.array([[0.5, 0.9, 0.3]]), 0.85, 3), [0])


@given(curves, st.floats(0.05, 1))
def test_the_older_count_is_never_kinder_and_more_clicks_never_hurt(
    ious: np.ndarray, threshold: float
) -> None:
    budget = ious.shape[1]
    assert (strict_failures(ious, threshold, budget) >= failures(ious, threshold, budget)).all()
    assert (failures(ious, threshold, budget) <= failures(ious, threshold, budget - 1)).all()
    needed = clicks_needed(ious, threshold, budget)
    assert ((needed >= 1) & (needed <= budget)).all()


@pytest.mark.parametrize(
    ("metric", "name", "values"),
    [
        (Metric("noc", 4, 0.9), "NoC4@90", [1, 3, 4, 4]),
        (Metric("fr", 4, 0.85), "FR4@85", [0, 0, 0, 1]),
        (Metric("fr_strict", 4, 0.9), "FR4@90 (>=)", [0, 0, 1, 1]),
        (Metric("iou", 2), "mIoU@2", [0.95, 0.5, 0.5, 0.2]),
        (Metric("dice", 1), "Dice@1", [1.9, 0.2, 0.2, 0.2]),
    ],
)
def test_a_metric_names_and_computes_itself(metric: Metric, name: str, values: list[float]) -> None:
    assert metric.name == name
    np.testing.assert_allclose(metric.per_object(CURVES, 2 * CURVES), values)


def test_the_usual_table_has_the_fields_numbers() -> None:
    names = [m.name for m in table_metrics(30, 0.90)]
    assert names[:6] == ["NoC20@80", "NoC20@85", "NoC20@90", "FR20@85", "FR20@90", "FR30@90"]
    assert names[6:9] == ["FR20@85 (>=)", "FR20@90 (>=)", "FR30@90 (>=)"]
    assert "mIoU@30" in names and "Dice@5" in names


def test_a_lower_target_leaves_out_what_it_cannot_measure() -> None:
    names = [m.name for m in table_metrics(20, 0.85)]
    assert not any("@90" in name for name in names)
    assert "FR20@85" in names


def test_a_single_prompt_has_no_count_of_clicks() -> None:
    assert [m.name for m in table_metrics(1, 0.90)] == ["FR1@85", "FR1@90", "mIoU@1", "Dice@1"]
