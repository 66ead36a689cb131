"""What a score is worth: the predicted IoU beside the IoU with what was submitted.  Pure.

Platt scaling of the decoder's predicted IoU, apart for an object's first mask and for its later
ones, towards the IoU of the shown mask with the submitted one::

    sigmoid(slope * logit(score) + offset)

with a prior that the decoder is right (slope 1, offset 0), so that a few objects change little.  It
never changes the order of masks.  Platt 1999; the targets are IoUs in place of classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from backend.insights.facts import ObjectFact

Values = NDArray[np.float64]

PRIOR = 3.0
"""Precision of slope and offset: they hold on to their prior as fifteen masks would."""

N_OBJECTS = 500
"""Objects of the past that scores are fitted to, the newest ones."""

N_TENTHS = 10
LEAST_SLOPE = 0.05
"""Below it a higher score would hardly mean more."""

_N_NEWTON = 20
_LEAST = 1e-6
"""Of a step, below which it is over."""
_MARGIN = 0.01
"""Scores nearer than this to 0 or 1 are taken as so near: their logits are bounded."""


@dataclass(frozen=True, slots=True)
class ScoreCurve:
    """A predicted IoU -> the IoU to be expected; the default changes nothing."""

    slope: float = 1.0
    offset: float = 0.0

    def of(self, score: float) -> float:
        """A score in [0, 1]; one that is out of range or not finite is returned as it is."""
        if (self.slope, self.offset) == (1.0, 0.0) or not 0 <= score <= 1:
            return score
        return float(_sigmoid(self.slope * _logit(np.array(score)) + self.offset))


@dataclass(frozen=True, slots=True)
class ScoreCurves:
    """One for an object's first mask, and one for its later masks."""

    first: ScoreCurve = ScoreCurve()
    later: ScoreCurve = ScoreCurve()

    def of(self, score: float, n_prompts: int) -> float:
        """A mask's score after so many clicks and boxes."""
        return (self.first if n_prompts == 1 else self.later).of(score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenth:
    """Masks whose score lies in one tenth.

    Args:
        n: How many.
        score, iou: Mean score, mean IoU with what was submitted.
    """

    n: int
    score: float
    iou: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Whether scores say the truth.

    Args:
        n: Masks that were shown.
        error: Expected calibration error of the scores, by tenths (Naeini et al. 2015), in IoU.
        error_as_predicted: The same of the decoder's own predicted IoUs.
        tenths: The scores beside the truth, the lowest first; empty tenths are left out.
    """

    n: int
    error: float
    error_as_predicted: float
    tenths: Sequence[Tenth]


def fitted(facts: Iterable[ObjectFact]) -> ScoreCurves:
    """The curves that finished objects speak for."""
    pairs = [pair for fact in facts for pair in _pairs(fact)]
    first = [pair[1:] for pair in pairs if pair[0] == 1]
    later = [pair[1:] for pair in pairs if pair[0] > 1]
    return ScoreCurves(_fit(first), _fit(later))


def reliability(clicked: Sequence[ObjectFact]) -> Reliability | None:
    """How true the scores were, each by the curves that the objects before it speak for.

    Args:
        clicked: A project's clicked objects, in the order of their submission.

    Returns:
        None where no mask with a score was shown.
    """
    shown, predicted, ious = [], [], []
    for begin, end in pairwise(_blocks(len(clicked))):
        block = clicked[begin:end]
        before = clicked[max(0, begin - N_OBJECTS) : begin]
        curves = fitted(f for f in before if f.decoder_id == block[0].decoder_id)
        for number, score, iou in (pair for fact in block for pair in _pairs(fact)):
            shown.append(min(max(curves.of(score, number), 0.0), 1.0))
            predicted.append(min(max(score, 0.0), 1.0))
            ious.append(iou)
    if not ious:
        return None
    truth, scores = np.array(ious), np.array(shown)
    return Reliability(
        n=len(ious),
        error=calibration_error(scores, truth),
        error_as_predicted=calibration_error(np.array(predicted), truth),
        tenths=list(_tenths(scores, truth)),
    )


def calibration_error(scores: Values, ious: Values) -> float:
    """Expected calibration error, sum_b (n_b / n) |mean score - mean IoU| over tenths b.

    Args:
        scores: ``[N]`` in [0, 1].
        ious: ``[N]`` in [0, 1].
    """
    sums = np.bincount(_tenth_of(scores), weights=scores - ious, minlength=N_TENTHS)
    return float(np.abs(sums).sum() / len(scores))


def _tenth_of(scores: Values) -> NDArray[np.int64]:
    return np.clip((scores * N_TENTHS).astype(np.int64), 0, N_TENTHS - 1)


def _tenths(scores: Values, ious: Values) -> Iterator[Tenth]:
    places = _tenth_of(scores)
    for place in range(N_TENTHS):
        chosen = places == place
        if chosen.any():
            yield Tenth(
                n=int(chosen.sum()),
                score=float(scores[chosen].mean()),
                iou=float(ious[chosen].mean()),
            )


def _blocks(n: int) -> Iterator[int]:
    """Where blocks of objects begin and end: curves are fitted anew forty times at most."""
    size = max(5, -(-n // 40))
    yield from range(0, n, size)
    yield n


def _pairs(fact: ObjectFact) -> Iterator[tuple[int, float, float]]:
    """Number of prompts, predicted IoU and IoU of each mask that was shown."""
    for number, (score, iou) in enumerate(zip(fact.predicted, fact.ious, strict=False), start=1):
        if 0 < score <= 1:  # 0 where nothing was shown yet
            yield number, score, iou


def _fit(pairs: Sequence[tuple[float, float]]) -> ScoreCurve:
    """Newton's method on the penalised cross-entropy; a step that overshoots is shortened.

    Logits are taken from their mean, so that what all scores lack is no matter of the slope.
    """
    if not pairs:
        return ScoreCurve()
    scores, ious = np.array(pairs).T
    logits = _logit(scores)
    middle = float(logits.mean())
    design = np.column_stack([logits - middle, np.ones(len(pairs))])
    prior = np.array([1.0, middle])
    found, loss = prior, _loss(prior, prior, design, ious)
    for _ in range(_N_NEWTON):
        said = _sigmoid(design @ found)
        slopes = design.T @ (said - ious) + PRIOR * (found - prior)
        curvature = (design * (said * (1 - said))[:, None]).T @ design + PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, slopes)
        while (then := _loss(found - step, prior, design, ious)) > loss and _is_long(step):
            step = step / 2
        if not _is_long(step):
            break
        found, loss = found - step, then
    slope = max(float(found[0]), LEAST_SLOPE)
    return ScoreCurve(slope, float(found[1]) - slope * middle)


def _is_long(step: Values) -> bool:
    return bool(np.abs(step).max() > _LEAST)


def _loss(curve: Values, prior: Values, design: Values, ious: Values) -> float:
    """Cross-entropy, and the prior's half squared distance."""
    logits = design @ curve
    entropy = np.logaddexp(0, logits) - ious * logits
    return float(entropy.sum() + PRIOR / 2 * ((curve - prior) ** 2).sum())


def _logit(scores: Values) -> Values:
    bounded = np.clip(scores, _MARGIN, 1 - _MARGIN)
    return np.asarray(np.log(bounded / (1 - bounded)))


def _sigmoid(values: Values) -> Values:
    return np.asarray(1 / (1 + np.exp(-values)))
