"""What interactive segmentation is judged by, from the IoU after every click.

The field's own definitions (RITM, Sofiiuk et al. 2021, arXiv 2102.06583; Schön et al. 2024,
arXiv 2404.08421), as pure functions on curves: `[N, M]` float64, the IoU (or Dice) of each of N
objects after 1..M clicks in [0, 1].  An object whose annotator stopped early keeps its last value.
All results are per object, `[N]`, so that the caller can average, pair and resample them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Curves = NDArray[np.float64]
Values = NDArray[np.float64]

Kind = Literal["noc", "fr", "fr_strict", "iou", "dice"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a result table.

    Args:
        kind: "noc" mean clicks to the threshold, "fr" share that never reaches it, "fr_strict"
            RITM's older count of failures, "iou" and "dice" the mean after `clicks` clicks.
        clicks: The budget, or the number of clicks after which is measured.
        threshold: IoU to reach; 0 where none is needed.
    """

    kind: Kind
    clicks: int
    threshold: float = 0.0

    @property
    def name(self) -> str:
        """As the field writes it: NoC20@85, FR20@85, FR20@85 (>=), mIoU@5, Dice@5."""
        percent = f"{100 * self.threshold:.3g}"
        return {
            "noc": f"NoC{self.clicks}@{percent}",
            "fr": f"FR{self.clicks}@{percent}",
            "fr_strict": f"FR{self.clicks}@{percent} (>=)",
            "iou": f"mIoU@{self.clicks}",
            "dice": f"Dice@{self.clicks}",
        }[self.kind]

    @property
    def scale(self) -> float:
        """Factor of the per-object values in tables: 100 for shares and overlaps, else 1."""
        return 1.0 if self.kind == "noc" else 100.0

    @property
    def is_better_lower(self) -> bool:
        """Whether less is better."""
        return self.kind in ("noc", "fr", "fr_strict")

    def per_object(self, ious: Curves, dices: Curves) -> Values:
        """The metric of every object, `[N]`; its mean is the metric."""
        if self.kind == "noc":
            return clicks_needed(ious, self.threshold, self.clicks)
        if self.kind == "fr":
            return failures(ious, self.threshold, self.clicks)
        if self.kind == "fr_strict":
            return strict_failures(ious, self.threshold, self.clicks)
        return (ious if self.kind == "iou" else dices)[:, self.clicks - 1]


def carried_forward(runs: Sequence[Sequence[float]], n_clicks: int) -> Curves:
    """Stack runs of different lengths; after its last click an object keeps its value.

    Args:
        runs: One value for each click made; at least one each.
        n_clicks: Columns of the result; longer runs are cut.

    Returns:
        `[N, n_clicks]`.
    """
    curves = np.empty((len(runs), n_clicks))
    for row, run in zip(curves, runs, strict=True):
        if not run:
            raise ValueError("a run without a single click has no value to carry forward")
        made = min(len(run), n_clicks)
        row[:made] = run[:made]
        row[made:] = run[made - 1]
    return curves


def first_success(ious: Curves, threshold: float) -> NDArray[np.int64]:
    """The click, counted from 1, after which the IoU first reaches the threshold; 0 for never."""
    reached = ious >= threshold
    first = reached.argmax(axis=1) + 1
    return np.where(reached.any(axis=1), first, 0).astype(np.int64)


def clicks_needed(ious: Curves, threshold: float, budget: int) -> Values:
    """Clicks to the threshold within the budget; the whole budget where it is not reached."""
    first = first_success(ious[:, :budget], threshold)
    return np.where(first > 0, first, budget).astype(np.float64)


def failures(ious: Curves, threshold: float, budget: int) -> Values:
    """1 for an object that never reaches the threshold within the budget, else 0."""
    return np.asarray(first_success(ious[:, :budget], threshold) == 0, dtype=np.float64)


def strict_failures(ious: Curves, threshold: float, budget: int) -> Values:
    """RITM's older count: as `failures`, but success on the very last click is a failure too."""
    return np.asarray(clicks_needed(ious, threshold, budget) >= budget, dtype=np.float64)


def table_metrics(max_clicks: int, target: float, usual_budget: int = 20) -> tuple[Metric, ...]:
    """The rows of a result table.

    Thresholds above the target are left out: the annotator stops at the target.

    Args:
        max_clicks: Clicks an object got at most.
        target: IoU at which the annotator stopped.
        usual_budget: Budget of all rows but the failure rate at the target, which uses all clicks.
    """
    budget = min(usual_budget, max_clicks)
    reachable = [t for t in (0.80, 0.85, 0.90, 0.95) if t <= target + 1e-9]
    failing = reachable[-2:] or [target]
    rows = [Metric("noc", budget, t) for t in reachable] if max_clicks > 1 else []
    budgets = [(budget, t) for t in failing]
    if max_clicks > budget:
        budgets.append((max_clicks, failing[-1]))
    rows += [Metric("fr", clicks, t) for clicks, t in budgets]
    if max_clicks > 1:
        rows += [Metric("fr_strict", clicks, t) for clicks, t in budgets]
    steps = [n for n in (1, 2, 3, 5, 10, 20, 30) if n <= max_clicks]
    rows += [Metric("iou", n) for n in steps]
    return tuple(rows + [Metric("dice", n) for n in steps])
