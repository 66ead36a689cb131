"""What an object costs by its place in the stream: objects 1 to 5 against 11 to 20.

The figure that works on learning while labeling report (MultiverSeg, arXiv 2412.15058): does the
eleventh object of a session take less than the first?  Objects differ, so the frozen decoder's
figures on the same objects, in the same order, stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adaptation.simulation.metrics import Metric
from training.evaluation.harness import Mode
from training.evaluation.summary import ResultTable, Values

EARLY, LATE = slice(0, 5), slice(10, 20)
"""Places in the stream that are compared: objects 1 to 5, and 11 to 20."""

THINK_S = 1.5
"""Seconds that an annotator is taken to need for each click, besides waiting for its mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Along:
    """One quantity over the stream, for one mode.

    Args:
        mean: By the place in the stream, over the orders.
        low: The least of the orders.
        high: The greatest.
    """

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Objects 1 to 5 of the streams against 11 to 20, for one quantity.

    Args:
        early: Mean of each mode over objects 1 to 5.
        late: Mean of each mode over objects 11 to 20.
        of_frozen: By how many percent the adapted figure differs from the frozen one on objects 11
            to 20; None where one is missing, or the frozen one is 0.
    """

    early: Mapping[Mode, float]
    late: Mapping[Mode, float]
    of_frozen: float | None


def quantities(table: ResultTable, target: float) -> dict[str, dict[Mode, Values]]:
    """What is followed, by name and mode: ``[orders, N]`` in the order of the streams.

    Clicks to the target and to 0.85 where that is less; the IoU of the first mask in percent;
    corrections, which are clicks to the target after the first; seconds, which are the clicks that
    were made, each with its measured time and :data:`THINK_S`.
    """
    clicks = {
        f"clicks to {t:.2f}": Metric("noc", table.n_clicks, t)
        for t in (0.85, target)
        if t <= target
    }
    found = {
        name: {mode: table.in_streams(mode, metric) for mode in table.modes}
        for name, metric in clicks.items()
    }
    to_target = found[f"clicks to {target:.2f}"]
    found["corrections"] = {mode: values - 1 for mode, values in to_target.items()}
    first = Metric("iou", 1)
    found["first mask IoU"] = {mode: table.in_streams(mode, first) for mode in table.modes}
    found["seconds"] = {mode: table.seconds_in_streams(mode, THINK_S) for mode in table.modes}
    return found


def along_stream(values: Values) -> Along:
    """The mean over the orders by the place in the stream, of ``[orders, N]``, and its range."""
    rows = (values.mean(axis=0), values.min(axis=0), values.max(axis=0))
    mean, low, high = (tuple(float(v) for v in row) for row in rows)
    return Along(mean=mean, low=low, high=high)


def progress(of_modes: Mapping[Mode, Values]) -> Progress | None:
    """Objects 1 to 5 against 11 to 20; None where streams are shorter than eleven objects."""
    if any(values.shape[1] <= LATE.start for values in of_modes.values()):
        return None
    early = {mode: float(values[:, EARLY].mean()) for mode, values in of_modes.items()}
    late = {mode: float(values[:, LATE].mean()) for mode, values in of_modes.items()}
    frozen, adapted = late.get("frozen"), late.get("adapted")
    of_frozen = 100 * (adapted / frozen - 1) if frozen and adapted is not None else None
    return Progress(early=early, late=late, of_frozen=of_frozen)


def progress_lines(found: Mapping[str, Progress | None]) -> Sequence[str]:
    """The comparison as lines of text, nothing where streams are too short."""
    lines = []
    for name, each in found.items():
        if each is None:
            continue
        modes = ", ".join(
            f"{mode} {each.early[mode]:.2f} -> {each.late[mode]:.2f} "
            f"({_percent(each.late[mode], each.early[mode])})"
            for mode in each.early
        )
        beside = "" if each.of_frozen is None else f"; adapted on 11-20: {each.of_frozen:+.0f} %"
        lines.append(f"  {name}: {modes}{beside}")
    if lines:
        head = "objects 1-5 -> 11-20 of the streams (of frozen: on the same objects; seconds with "
        lines.insert(0, f"{head}{THINK_S:.1f} s of thinking a click):")
    return lines


def _percent(late: float, early: float) -> str:
    return f"{100 * (late / early - 1):+.0f} %" if early else "from 0"


def ranges(values: Mapping[Mode, Values]) -> dict[Mode, Along]:
    """:func:`along_stream` of every mode."""
    return {mode: along_stream(np.asarray(each)) for mode, each in values.items()}
