"""How well anomaly maps agree with masks of the defects: the source's metrics, and AUPRO.

Max-F1-pixel and max-F1-region are those of Cao et al. 2023 (section 5.1), at 400x400 pixels.  In
the source's published code a region-wise recall can exceed 1, because hits are counted among the
predicted regions and divided by the number of true ones; here a hit is one predicted and one true
region with an IoU above 0.6, of which each region has one at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from adaptation.masks import Mask
from adaptation.proposals.interface import ScoreMap

SIDE = 400
OVERLAP = 0.6
N_THRESHOLDS = 200
FPR_LIMIT = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class AnomalyMetrics:
    """Of one way of finding anomalies, all in percent.

    Args:
        max_f1_pixel: F1 of the pixels of all images at the best threshold.
        max_f1_region: F1 of the regions of all images at the best threshold.
        aupro: Mean share of each true region that is found, over the share of normal pixels that
            is found too, integrated up to 30 % and divided by it.
    """

    max_f1_pixel: float
    max_f1_region: float
    aupro: float

    def as_json(self) -> dict[str, float]:
        """Plain values."""
        return asdict(self)


def measure(
    maps: Sequence[ScoreMap], truths: Sequence[Mask], n_thresholds: int = N_THRESHOLDS
) -> AnomalyMetrics:
    """All metrics of maps and masks of one size each.

    Args:
        maps: ``[S, S]`` of each image, higher where it is less normal.
        truths: ``[S, S]`` of each image; empty for good ones.
        n_thresholds: Steps between the lowest and the highest score, for regions.
    """
    scores = np.stack(maps)
    labels = np.stack(truths)
    return AnomalyMetrics(
        max_f1_pixel=100 * max_f1(scores[labels], scores[~labels]),
        max_f1_region=100 * max_f1_region(maps, truths, n_thresholds),
        aupro=100 * aupro(maps, truths, n_thresholds),
    )


def max_f1(positive: NDArray[np.float32], negative: NDArray[np.float32]) -> float:
    """The largest F1 that a threshold on the scores reaches; exact.

    Args:
        positive: Scores of what is wanted, of any shape.
        negative: Scores of the rest.
    """
    if positive.size == 0:
        return 0.0
    wanted, rest = np.sort(positive, axis=None), np.sort(negative, axis=None)
    thresholds = np.unique(wanted)
    found = wanted.size - np.searchsorted(wanted, thresholds, side="left")
    surplus = rest.size - np.searchsorted(rest, thresholds, side="left")
    return float((2 * found / (found + surplus + wanted.size)).max())


def thresholds_of(maps: Sequence[ScoreMap], count: int) -> NDArray[np.float32]:
    """Evenly spaced thresholds below the highest score, the highest first."""
    low, high = min(float(m.min()) for m in maps), max(float(m.max()) for m in maps)
    return np.linspace(high, low, count, endpoint=False, dtype=np.float32)[1:]


def max_f1_region(
    maps: Sequence[ScoreMap], truths: Sequence[Mask], n_thresholds: int = N_THRESHOLDS
) -> float:
    """The largest region-wise F1 over all thresholds."""
    thresholds = thresholds_of(maps, n_thresholds)
    hits = np.zeros(len(thresholds))
    predicted = np.zeros(len(thresholds))
    n_true = 0
    for score_map, truth in zip(maps, truths, strict=True):
        true_labels, n_here = _components(truth)
        n_true += n_here
        for index, (labels, n_found) in enumerate(_cuts(score_map, thresholds)):
            predicted[index] += n_found
            hits[index] += _count_hits(labels, n_found, true_labels, n_here)
    return float((2 * hits / np.maximum(predicted + n_true, 1)).max(initial=0.0))


def _cuts(
    score_map: ScoreMap, thresholds: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.int32], int]]:
    """The components of a map above each threshold; where nothing was added, those before."""
    known, n_before = (np.zeros(score_map.shape, np.int32), 0), 0
    for threshold in thresholds:
        mask = score_map > threshold
        n_now = int(np.count_nonzero(mask))
        if n_now != n_before:
            known, n_before = _components(mask), n_now
        yield known


def _components(mask: Mask) -> tuple[NDArray[np.int32], int]:
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return np.asarray(labels, np.int32), count - 1


def _count_hits(
    found: NDArray[np.int32], n_found: int, true: NDArray[np.int32], n_true: int
) -> int:
    """Pairs with an IoU above the limit; above one half no region can be in two of them."""
    if not n_found or not n_true:
        return 0
    width = n_true + 1
    joint = np.bincount(
        found.ravel().astype(np.int64) * width + true.ravel(), minlength=(n_found + 1) * width
    ).reshape(n_found + 1, width)
    shared = joint[1:, 1:]
    union = joint[1:].sum(axis=1)[:, None] + joint[:, 1:].sum(axis=0)[None] - shared
    return int(np.count_nonzero(shared > OVERLAP * union))


def aupro(
    maps: Sequence[ScoreMap], truths: Sequence[Mask], n_thresholds: int = N_THRESHOLDS
) -> float:
    """Area under the per-region-overlap curve (Bergmann et al. 2020), up to 30 % of the rest."""
    thresholds = thresholds_of(maps, n_thresholds)
    ascending = thresholds[::-1]
    shares: list[NDArray[np.float64]] = []
    surplus, n_rest = np.zeros(len(thresholds)), 0
    for score_map, truth in zip(maps, truths, strict=True):
        labels, count = _components(truth)
        shares += [
            _share_above(score_map[labels == k], ascending)[::-1] for k in range(1, count + 1)
        ]
        rest = score_map[~truth]
        surplus += _share_above(rest, ascending)[::-1] * rest.size
        n_rest += rest.size
    if not shares or not n_rest:
        return 0.0
    x = np.concatenate([[0.0], surplus / n_rest, [1.0]])
    y = np.concatenate([[0.0], np.mean(shares, axis=0), [1.0]])
    inside = x < FPR_LIMIT
    x = np.append(x[inside], FPR_LIMIT)
    y = np.append(y[inside], np.interp(FPR_LIMIT, *_curve(surplus / n_rest, shares)))
    return float(np.trapezoid(y, x) / FPR_LIMIT)


def _curve(
    x: NDArray[np.float64], shares: list[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.concatenate([[0.0], x, [1.0]]), np.concatenate(
        [[0.0], np.mean(shares, axis=0), [1.0]]
    )


def _share_above(
    values: NDArray[np.float32], ascending: NDArray[np.float32]
) -> NDArray[np.float64]:
    ordered = np.sort(values)
    above = len(ordered) - np.searchsorted(ordered, ascending, side="right")
    return np.asarray(above / max(len(ordered), 1), np.float64)
