from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.statistics import (
    bootstrap_interval,
    bootstrap_means,
    bootstrap_p_value,
    sign_test,
)


def test_an_interval_is_about_two_standard_errors_wide() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = bootstrap_interval(values, seed=1)
    error = values.std() / np.sqrt(len(values))
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error * 3)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error * 3)


def test_the_seed_decides_the_draws() -> None:
    values = np.arange(20.0)
    assert bootstrap_interval(values, 3) == bootstrap_interval(values, 3)
    assert bootstrap_interval(values, 3) != bootstrap_interval(values, 4)


def test_every_resample_is_drawn_in_whole_clusters() -> None:
    values = np.array([0.0, 0.0, 0.0, 1.0, 1.0])
    means = bootstrap_means(values, 0, clusters=["a", "a", "a", "b", "b"], n_draws=500)
    # Two clusters give three possible resamples: aa, ab, bb.
    assert set(np.unique(means)) == {0.0, 0.4, 1.0}


def test_clusters_that_are_alike_inside_widen_the_interval() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=10), 20)
    clusters = np.repeat(np.arange(10), 20).tolist()
    by_object = bootstrap_interval(values, 0)
    by_cluster = bootstrap_interval(values, 0, clusters=clusters)
    assert by_cluster.high - by_cluster.low > 2 * (by_object.high - by_object.low)


def test_one_object_has_an_interval_of_no_width() -> None:
    interval = bootstrap_interval(np.array([2.0]), 0)
    assert (interval.low, interval.high) == (2.0, 2.0)


def test_nothing_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        bootstrap_means(np.zeros(0), 0)
    with pytest.raises(ValueError, match="as many clusters"):
        bootstrap_means(np.zeros(3), 0, clusters=["a"])


def test_the_p_value_is_small_for_a_clear_difference_and_one_for_none() -> None:
    assert bootstrap_p_value(np.full(30, -1.0), 0, n_draws=1000) == 1 / 1000
    assert bootstrap_p_value(np.zeros(30), 0) == 1.0
    assert bootstrap_p_value(np.full(5, -1.0), 0) == 2 / 32, "five pairs cannot say more"
    even = np.array([-1.0, 1.0] * 20)
    assert bootstrap_p_value(even, 0) > 0.8


def test_the_sign_test_is_the_binomial_by_hand() -> None:
    # 9 fixed, 1 broken: 2 * (1 + 10) / 2^10.
    result = sign_test(np.array([-1.0] * 9 + [1.0] + [0.0] * 5))
    assert (result.n_lower, result.n_higher) == (9, 1)
    assert result.p_value == pytest.approx(22 / 1024)
    assert sign_test(np.zeros(4)).p_value == 1.0
