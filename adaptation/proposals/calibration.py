"""Scores that hold: a small logistic model whose prior is the defaults.

With nothing accepted or rejected yet it says what the defaults say; with every answer it leans more
on what this project's annotators did, so that of the regions scored 0.9 nine in ten are accepted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Evidence = Mapping[str, float]
"""What speaks for or against a region or a patch, by name."""

N_STEPS = 25
"""Newton steps at most; a handful is enough where the fit is not degenerate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One kind of evidence.

    Args:
        centre: A usual value: it counts neither way.
        scale: How far from it is one unit.
        weight: Logits that a unit adds.
        spread: How far, in logits, the weight may be from the true one: a prior standard
            deviation.  0: the weight is fixed.
    """

    centre: float
    scale: float
    weight: float
    spread: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticModel:
    """The probability that a region is accepted, or that a patch belongs to one.

    Args:
        terms: The kinds of evidence it reads, by name.
        bias: Logit where all evidence is usual.
        bias_spread: Prior standard deviation of the bias.
    """

    terms: Mapping[str, Term]
    bias: float = 0.0
    bias_spread: float = 2.0

    def logit(self, evidence: Evidence) -> float:
        """Log odds; evidence that is missing counts as usual."""
        return self.bias + sum(
            term.weight * (evidence[name] - term.centre) / term.scale
            for name, term in self.terms.items()
            if name in evidence
        )

    def probability(self, evidence: Evidence) -> float:
        """In (0, 1)."""
        return float(_sigmoid(np.asarray(self.logit(evidence))))

    def logits(self, columns: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """The same for whole arrays of evidence, of one shape."""
        total: NDArray[np.float32] = np.float32(self.bias) + sum(
            (
                np.float32(term.weight / term.scale) * (columns[name] - np.float32(term.centre))
                for name, term in self.terms.items()
                if name in columns
            ),
            start=np.zeros((), np.float32),
        )
        return total

    def fitted(
        self,
        rows: Sequence[Evidence],
        accepted: Sequence[bool],
        weights: Sequence[float] | None = None,
    ) -> LogisticModel:
        """Fit to what was accepted and rejected, with this model as the prior.

        Args:
            rows: Evidence of each region or patch.
            accepted: What became of it.
            weights: Of the rows; 1 each by default.

        Returns:
            The most probable model; this one where there are no rows.
        """
        if not rows:
            return self
        design = np.array([[*self._units(row), 1.0] for row in rows])
        target = np.asarray(accepted, dtype=np.float64)
        count = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
        prior = np.array([*(t.weight for t in self.terms.values()), self.bias])
        spread = np.array([*(t.spread for t in self.terms.values()), self.bias_spread])
        found = _map_estimate(design, target, count, prior, spread)
        terms = {
            name: Term(centre=t.centre, scale=t.scale, weight=float(w), spread=t.spread)
            for (name, t), w in zip(self.terms.items(), found[:-1], strict=True)
        }
        return LogisticModel(terms=terms, bias=float(found[-1]), bias_spread=self.bias_spread)

    def _units(self, row: Evidence) -> list[float]:
        return [
            (row[name] - t.centre) / t.scale if name in row else 0.0
            for name, t in self.terms.items()
        ]


def _map_estimate(
    design: NDArray[np.float64],
    target: NDArray[np.float64],
    count: NDArray[np.float64],
    prior: NDArray[np.float64],
    spread: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Newton's method with step halving on the penalised log-likelihood, which is concave."""
    precision = 1 / np.maximum(spread, 1e-6) ** 2
    found = prior.copy()

    def loss(at: NDArray[np.float64]) -> float:
        logits = design @ at
        fit = np.sum(count * (np.logaddexp(0, logits) - target * logits))
        return float(fit + 0.5 * np.sum(precision * (at - prior) ** 2))

    for _ in range(N_STEPS):
        probs = _sigmoid(design @ found)
        gradient = design.T @ (count * (probs - target)) + precision * (found - prior)
        hessian = (design.T * (count * probs * (1 - probs))) @ design + np.diag(precision)
        step = np.linalg.solve(hessian, gradient)
        share, before = 1.0, loss(found)
        while share > 1e-4 and loss(found - share * step) > before:
            share /= 2
        found = found - share * step
        if np.abs(share * step).max() < 1e-8:
            break
    return found


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))


def expected_calibration_error(
    scores: Sequence[float], accepted: Sequence[bool], n_bins: int = 10
) -> float:
    """Mean distance of the scores from the share that is accepted, over bins of equal width.

    Args:
        scores: In [0, 1].
        accepted: What became of them.
        n_bins: How many bins; empty ones do not count.
    """
    values, truth = np.asarray(scores, float), np.asarray(accepted, float)
    if not len(values):
        return 0.0
    bins = np.minimum((values * n_bins).astype(int), n_bins - 1)
    gaps = (
        abs(values[bins == b].mean() - truth[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    )
    return float(sum(gaps))


PATCH_PRIOR = LogisticModel(
    terms={
        "base": Term(centre=0.5, scale=0.1, weight=1.0, spread=0.5),
        "anomalous": Term(centre=0.7, scale=0.1, weight=0.0, spread=1.0),
        "normal": Term(centre=0.9, scale=0.1, weight=0.0, spread=1.0),
    },
    bias=-3.0,
)
"""A patch: its generator's score, its likeness to anomalous and to normal references."""

REGION_PRIOR = LogisticModel(
    terms={
        "map": Term(centre=0.0, scale=1.0, weight=1.0, spread=1.0),
        "predicted_iou": Term(centre=0.75, scale=0.15, weight=0.7, spread=1.0),
        "log_area": Term(centre=-5.0, scale=2.0, weight=0.0, spread=1.0),
        "contrast": Term(centre=0.0, scale=1.0, weight=0.0, spread=1.0),
    },
    bias=-0.5,
)
"""A region: how far its score lies above its image's, in the image's own deviations; the model's
estimate of its mask; its share of the image; and how much the map drops outside of it."""
