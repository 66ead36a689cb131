"""How sure a number is: bootstrap intervals and exact paired tests, seeded.

Objects of one group (a patient, a tile, a road) are alike, so where groups exist an interval that
draws whole groups is given beside the one that draws objects (Field and Welsh 2007, "Bootstrapping
clustered data").
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Values = NDArray[np.float64]

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class Interval:
    """The middle 95 % (or another share) of a bootstrap distribution."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class SignTest:
    """An exact two-sided sign test on paired objects; on failures it is McNemar's exact test.

    Args:
        n_lower: Pairs in which the second value is lower (for failures: objects fixed).
        n_higher: Pairs in which it is higher (objects broken).
        p_value: Probability of a split at least as uneven if neither way were likelier.
    """

    n_lower: int
    n_higher: int
    p_value: float


def bootstrap_means(
    values: Values, seed: int, *, clusters: Sequence[Hashable] | None = None, n_draws: int = 4000
) -> Values:
    """Means of resamples with replacement.

    Args:
        values: `[N]`, at least one.
        seed: Of the draws.
        clusters: `[N]` names; whole clusters are drawn. None: objects are drawn.
        n_draws: Number of resamples.

    Returns:
        `[n_draws]`.
    """
    sums, sizes = _cluster_sums(values, clusters)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, n_draws, _CHUNK):
        n_here = min(_CHUNK, n_draws - start)
        drawn = rng.integers(0, len(sums), (n_here, len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    return np.concatenate(means)


def bootstrap_interval(
    values: Values,
    seed: int,
    *,
    clusters: Sequence[Hashable] | None = None,
    n_draws: int = 4000,
    share: float = 0.95,
) -> Interval:
    """Percentile interval of the mean; see `bootstrap_means`."""
    means = bootstrap_means(values, seed, clusters=clusters, n_draws=n_draws)
    tail = (1 - share) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def bootstrap_p_value(
    differences: Values,
    seed: int,
    *,
    clusters: Sequence[Hashable] | None = None,
    n_draws: int = 4000,
) -> float:
    """Two-sided p-value of a mean paired difference being 0, by the bootstrap.

    Twice the smaller share of resampled means on one side of 0.  Never below 1 / n_draws, nor below
    2^(1 - N), the least that the signs of N pairs can say: resamples of a handful of pairs that
    all point one way know no doubt.  Never above 1.
    """
    means = bootstrap_means(differences, seed, clusters=clusters, n_draws=n_draws)
    one_sided = min(float((means <= 0).mean()), float((means >= 0).mean()))
    n_units = len(differences) if clusters is None else len(set(clusters))
    least = max(1 / n_draws, 2.0 ** (1 - n_units))
    return float(np.clip(2 * one_sided, least, 1.0))


def sign_test(differences: Values) -> SignTest:
    """Exact test of the signs of paired differences `[N]`; equal pairs say nothing."""
    n_lower, n_higher = int((differences < 0).sum()), int((differences > 0).sum())
    if n_lower + n_higher == 0:
        return SignTest(0, 0, 1.0)
    result = binomtest(n_lower, n_lower + n_higher, 0.5)
    return SignTest(n_lower, n_higher, float(result.pvalue))


def _cluster_sums(values: Values, clusters: Sequence[Hashable] | None) -> tuple[Values, Values]:
    """Sum and size of every cluster, in the order of their first member."""
    if len(values) == 0:
        raise ValueError("nothing to resample: no values")
    if clusters is None:
        return values, np.ones_like(values)
    if len(clusters) != len(values):
        raise ValueError(f"{len(values)} values need as many clusters, got {len(clusters)}")
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(name, len(numbers)) for name in clusters])
    sums = np.bincount(index, weights=values).astype(np.float64)
    return sums, np.bincount(index).astype(np.float64)
