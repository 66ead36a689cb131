from __future__ import annotations

import math

import numpy as np
import pytest

from adaptation.proposals.calibration import (
    PATCH_PRIOR,
    LogisticModel,
    Term,
    expected_calibration_error,
)

PRIOR = LogisticModel(terms={"map": Term(centre=1.0, scale=2.0, weight=1.5)}, bias=-0.5)


def draws(n: int, weight: float, bias: float) -> tuple[list[dict[str, float]], list[bool]]:
    rng = np.random.default_rng(0)
    values = rng.normal(1.0, 2.0, n)
    odds = 1 / (1 + np.exp(-(weight * (values - 1.0) / 2.0 + bias)))
    return [{"map": float(v)} for v in values], (rng.random(n) < odds).tolist()


def test_without_answers_the_defaults_hold() -> None:
    assert PRIOR.fitted([], []) is PRIOR
    assert PRIOR.probability({"map": 3.0}) == pytest.approx(1 / (1 + math.exp(-1.0)))


def test_missing_evidence_counts_as_usual() -> None:
    assert PRIOR.logit({}) == PRIOR.logit({"map": 1.0}) == -0.5


def test_a_few_answers_move_the_defaults_a_little_and_many_overrule_them() -> None:
    few = PRIOR.fitted(*draws(4, -2.0, 1.0))
    many = PRIOR.fitted(*draws(4000, -2.0, 1.0))
    assert -1.5 < few.terms["map"].weight < 1.5
    assert many.terms["map"].weight == pytest.approx(-2.0, abs=0.15)
    assert many.bias == pytest.approx(1.0, abs=0.15)


def test_the_fit_is_the_maximum_of_the_posterior() -> None:
    rows, accepted = draws(50, 1.0, 0.0)
    found = PRIOR.fitted(rows, accepted)

    def loss(weight: float, bias: float) -> float:
        x = np.array([(r["map"] - 1.0) / 2.0 for r in rows])
        logits = weight * x + bias
        fit = np.sum(np.logaddexp(0, logits) - np.array(accepted) * logits)
        return float(fit + (weight - 1.5) ** 2 / 2 + (bias + 0.5) ** 2 / 8)

    best = loss(found.terms["map"].weight, found.bias)
    for dw, db in [(0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)]:
        assert loss(found.terms["map"].weight + dw, found.bias + db) > best


def test_separable_answers_stay_finite() -> None:
    rows = [{"map": float(v)} for v in range(10)]
    found = PRIOR.fitted(rows, [v >= 5 for v in range(10)])
    assert math.isfinite(found.terms["map"].weight)
    assert found.probability({"map": 9.0}) > 0.8 > 0.2 > found.probability({"map": 0.0})


def test_fitted_scores_hold() -> None:
    rows, accepted = draws(4000, 2.0, -1.0)
    found = PRIOR.fitted(rows[:2000], accepted[:2000])
    error = expected_calibration_error([found.probability(r) for r in rows[2000:]], accepted[2000:])
    assert error < 0.03
    assert expected_calibration_error([0.9] * 4, [True, True, False, False]) == pytest.approx(0.4)


def test_arrays_get_the_same_logits_as_single_rows() -> None:
    columns = {"base": np.array([0.4, 0.9], np.float32), "normal": np.array([0.2, 1], np.float32)}
    expected = [
        PATCH_PRIOR.logit({name: float(c[i]) for name, c in columns.items()}) for i in range(2)
    ]
    assert PATCH_PRIOR.logits(columns).tolist() == pytest.approx(expected, rel=1e-5)
