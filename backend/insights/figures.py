"""From rows to figures, by the definitions of `strop-train evaluate`.  Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from adaptation.simulation.metrics import Metric, carried_forward
from backend.insights.calibration import Reliability, reliability
from backend.insights.facts import ObjectFact
from backend.insights.store import LearnedRow

METRICS = (
    Metric("noc", 20, 0.85),
    Metric("noc", 20, 0.90),
    Metric("fr", 20, 0.85),
    Metric("fr", 20, 0.90),
    Metric("fr", 30, 0.90),
)
"""What is measured live, in the field's own words."""

MOST_CLICKS = 30
N_WORST = 12
HISTOGRAM_UP_TO = 12
"""Clicks from which on the histogram has one bar for all."""

_Z_95 = 1.959964


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean or a share with its 95 % interval, in the unit of its name.

    Args:
        name: What it is of.
        value: The estimate.
        low, high: Of the interval; Wilson's for shares, the normal one for means.
        n: Objects.
    """

    name: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Frozen beside adapted on the same clicks.

    Args:
        n: Objects that both were asked on.
        frozen_iou, adapted_iou: Means.
        difference: Of the two, with its interval.
        clicks_saved: An estimate: the difference over what one more click brings here.
        minutes_saved: These clicks at the median time between two.
        iou_per_click: What one more click brings, the assumption behind both.
        n_turned_back: How often a session fell back.
        skipped: Objects that were not learned from, by reason.
    """

    n: int
    frozen_iou: float
    adapted_iou: float
    difference: Estimate
    clicks_saved: float | None
    minutes_saved: float | None
    iou_per_click: float | None
    n_turned_back: int
    skipped: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Everything that the page of a project shows.

    Args:
        n_objects: Submitted regions in force; `n_clicked` of them came from clicks.
        n_tasks: Tasks that hold them.
        outcomes: Objects by how their mask came about.
        metrics: NoC and failure rates; empty without clicked objects.
        clicks: Mean clicks an object, with its interval; None without clicked objects.
        median_clicks: The median.
        histogram: Objects by clicks; the last entry counts that many and more.
        first_iou, last_iou: Of the first and the last mask shown with the one submitted.
        by_label: Label -> (objects, mean clicks, FR20@85 in percent).
        by_day: Day -> (objects, tasks).
        curve: Mean clicks of consecutive groups of objects, in their order: the learning curve.
        curve_size: Objects in a group.
        seconds_between: Median and 95th percentile of the time between two clicks; None without.
        latency: Stage -> (median, 95th percentile) in milliseconds.
        reliability: Whether scores say the truth; None where no mask with a score was shown.
        worst: Clicked objects, the one that took most first.
        gain: Of learning; None where no session learned.
        annotators: Annotator -> (objects, mean clicks, median seconds, share as shown); empty
            unless wanted.
    """

    n_objects: int
    n_clicked: int
    n_tasks: int
    outcomes: Mapping[str, int]
    metrics: Sequence[Estimate]
    clicks: Estimate | None
    median_clicks: float | None
    histogram: Mapping[str, int]
    first_iou: Estimate | None
    last_iou: Estimate | None
    by_label: Mapping[str, tuple[int, float, float]]
    by_day: Mapping[date, tuple[int, int]]
    curve: Sequence[float]
    curve_size: int
    seconds_between: tuple[float, float] | None
    latency: Mapping[str, tuple[float, float]]
    reliability: Reliability | None
    worst: Sequence[ObjectFact]
    gain: Gain | None
    annotators: Mapping[str, tuple[int, float, float, float]]


def figures_of(
    facts: Sequence[ObjectFact],
    learned: Iterable[LearnedRow] = (),
    timings: Iterable[Mapping[str, float]] = (),
    *,
    with_annotators: bool = False,
) -> Figures:
    """Count a project's rows.

    Args:
        facts: The rows, in the order of their submission.
        learned: What sessions said of objects; the last word of each counts.
        timings: Milliseconds by stage, one for each interaction.
        with_annotators: Whether people are told apart.
    """
    clicked = [fact for fact in facts if fact.ious]
    counts = np.array([fact.n_prompts for fact in clicked], dtype=np.float64)
    gaps = np.array([gap for fact in clicked for gap in fact.gaps_s])
    return Figures(
        n_objects=len(facts),
        n_clicked=len(clicked),
        n_tasks=len({fact.task_id for fact in facts}),
        outcomes=dict(Counter(fact.outcome for fact in facts)),
        metrics=_metrics(clicked),
        clicks=_mean("clicks per object", counts),
        median_clicks=float(np.median(counts)) if len(counts) else None,
        histogram=_histogram(clicked),
        first_iou=_mean("IoU after one click", np.array([fact.ious[0] for fact in clicked])),
        last_iou=_mean("IoU of the last mask", np.array([fact.ious[-1] for fact in clicked])),
        by_label=_by_label(clicked),
        by_day=_by_day(facts),
        curve=_curve(counts),
        curve_size=_group_size(len(counts)),
        seconds_between=_median_and_95(gaps) if len(gaps) else None,
        latency=_latency(timings),
        reliability=reliability(clicked),
        worst=sorted(clicked, key=lambda fact: (-fact.n_prompts, fact.ious[-1]))[:N_WORST],
        gain=_gain(clicked, list(learned), gaps),
        annotators=_by_annotator(facts) if with_annotators else {},
    )


def _metrics(clicked: Sequence[ObjectFact]) -> list[Estimate]:
    if not clicked:
        return []
    curves = carried_forward([fact.ious for fact in clicked], MOST_CLICKS)
    return [_estimate(metric, metric.per_object(curves, curves)) for metric in METRICS]


def _estimate(metric: Metric, values: NDArray[np.float64]) -> Estimate:
    if metric.kind == "noc":
        found = _mean(metric.name, values)
        assert found is not None
        return found
    return _share(metric.name, int(values.sum()), len(values))


def _share(name: str, count: int, n: int) -> Estimate:
    """In percent."""
    interval = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return Estimate(name, 100 * count / n, 100 * interval.low, 100 * interval.high, n)


def _mean(name: str, values: NDArray[np.float64]) -> Estimate | None:
    n = len(values)
    if n == 0:
        return None
    mean = float(values.mean())
    reach = _Z_95 * float(values.std(ddof=1)) / n**0.5 if n > 1 else 0.0
    return Estimate(name, mean, mean - reach, mean + reach, n)


def _histogram(clicked: Sequence[ObjectFact]) -> dict[str, int]:
    counted = Counter(min(fact.n_prompts, HISTOGRAM_UP_TO) for fact in clicked)
    names = {HISTOGRAM_UP_TO: f"{HISTOGRAM_UP_TO}+"}
    return {names.get(n, str(n)): counted[n] for n in range(1, HISTOGRAM_UP_TO + 1)}


def _by_label(clicked: Sequence[ObjectFact]) -> dict[str, tuple[int, float, float]]:
    groups: defaultdict[str, list[ObjectFact]] = defaultdict(list)
    for fact in clicked:
        groups[fact.label].append(fact)
    failing = Metric("fr", 20, 0.85)
    rows = {}
    for label, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        curves = carried_forward([fact.ious for fact in group], MOST_CLICKS)
        failed = 100 * float(failing.per_object(curves, curves).mean())
        rows[label] = len(group), float(np.mean([f.n_prompts for f in group])), failed
    return rows


def _by_day(facts: Sequence[ObjectFact]) -> dict[date, tuple[int, int]]:
    tasks: defaultdict[date, set[str]] = defaultdict(set)
    objects: Counter[date] = Counter()
    for fact in facts:
        day = fact.submitted_at.date()
        objects[day] += 1
        tasks[day].add(fact.task_id)
    return {day: (objects[day], len(tasks[day])) for day in sorted(objects)}


def _group_size(n: int) -> int:
    """Objects in a point of the learning curve: at most 40 points, at least five objects each."""
    return max(5, -(-n // 40))


def _curve(counts: NDArray[np.float64]) -> list[float]:
    size = _group_size(len(counts))
    return [float(counts[at : at + size].mean()) for at in range(0, len(counts) - size + 1, size)]


def _median_and_95(values: NDArray[np.float64]) -> tuple[float, float]:
    return float(np.median(values)), float(np.quantile(values, 0.95))


def _latency(timings: Iterable[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    stages: defaultdict[str, list[float]] = defaultdict(list)
    for each in timings:
        for stage, milliseconds in each.items():
            stages[stage].append(milliseconds)
        stages["all stages"].append(sum(each.values()))
    return {stage: _median_and_95(np.array(values)) for stage, values in stages.items()}


def _gain(
    clicked: Sequence[ObjectFact], learned: Sequence[LearnedRow], gaps: NDArray[np.float64]
) -> Gain | None:
    last_word = {(each.annotation_id, each.region_id): each for each in learned}
    in_force = {(fact.annotation_id, fact.region_id) for fact in clicked}
    known = [each for key, each in last_word.items() if key in in_force]
    if not known:
        return None
    differences = np.array([each.adapted_iou - each.frozen_iou for each in known])
    difference = _mean("adapted minus frozen IoU", differences)
    assert difference is not None
    slope = _iou_per_click(clicked)
    saved = float(differences.sum()) / slope if slope else None
    seconds = float(np.median(gaps)) if len(gaps) else None
    return Gain(
        n=len(known),
        frozen_iou=float(np.mean([each.frozen_iou for each in known])),
        adapted_iou=float(np.mean([each.adapted_iou for each in known])),
        difference=difference,
        clicks_saved=saved,
        minutes_saved=None if saved is None or seconds is None else saved * seconds / 60,
        iou_per_click=slope,
        n_turned_back=sum(each.turned_back for each in learned),
        skipped=dict(Counter(each.skipped for each in known if each.skipped)),
    )


def _iou_per_click(clicked: Sequence[ObjectFact]) -> float | None:
    """What one more click brings, over all objects with two clicks or more; None where nothing."""
    many = [fact for fact in clicked if fact.n_prompts > 1]
    gained = sum(fact.ious[-1] - fact.ious[0] for fact in many)
    clicks = sum(fact.n_prompts - 1 for fact in many)
    return gained / clicks if clicks and gained > 0 else None


def _by_annotator(facts: Sequence[ObjectFact]) -> dict[str, tuple[int, float, float, float]]:
    groups: defaultdict[str, list[ObjectFact]] = defaultdict(list)
    for fact in facts:
        groups[fact.annotator or "unknown"].append(fact)
    return {
        name: (
            len(group),
            float(np.mean([fact.n_prompts for fact in group])),
            float(np.median([sum(fact.gaps_s) for fact in group])),
            sum(fact.outcome == "as shown" for fact in group) / len(group),
        )
        for name, group in sorted(groups.items())
    }
