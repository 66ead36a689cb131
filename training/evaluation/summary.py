"""From the results of objects to the numbers of a table: means, intervals, paired tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptation.simulation.metrics import Curves, Metric, carried_forward
from adaptation.storage.datasets import ObjectRef
from training.evaluation.harness import Mode, ObjectResult
from training.evaluation.statistics import (
    Interval,
    SignTest,
    bootstrap_interval,
    bootstrap_p_value,
    sign_test,
)

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A metric's mean over objects (and orders), in the metric's unit.

    Args:
        mean: Over all objects; adapted, each object counts with its mean over the orders.
        interval: 95 %, objects drawn.
        group_interval: 95 %, groups drawn; None where objects have no groups.
        per_order: The mean of each order; a single one when frozen.
    """

    mean: float
    interval: Interval
    group_interval: Interval | None
    per_order: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Adapted minus frozen on the same objects.

    Args:
        mean: Of the paired differences, in the metric's unit.
        relative: `mean` over the frozen mean; None where that is 0.
        interval: 95 %, objects drawn.
        group_interval: 95 %, groups drawn; None without groups.
        p_value: Two-sided; for failure rates the exact sign test of the objects' means over the
            orders, for everything else the paired bootstrap.
        signs: The sign test of the objects' means over the orders.
        per_order: The sign test of each order; for failure rates McNemar's exact test.
    """

    mean: float
    relative: float | None
    interval: Interval
    group_interval: Interval | None
    p_value: float
    signs: SignTest
    per_order: tuple[SignTest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One metric, frozen and adapted, as far as they were run."""

    metric: Metric
    frozen: Estimate | None = None
    adapted: Estimate | None = None
    change: Change | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What clicks cost and whether they are obeyed, for one mode.

    Args:
        n_clicks: Masks shown.
        click_ms: Mean, median and 95th percentile from click to mask, without encoding.
        encode_ms: Mean of the views that had to be encoded in this run; None if all were cached.
        views_per_object: Encodings that an object needs when nothing is cached.
        disobeyed: Share of clicks that lie on the wrong side of their own answer, in percent.
        contradicted: Share of shown masks that contradict at least one click so far, in percent.
        learn_click_ms: Mean time of learning from a click.
        learn_mask_ms: Mean time of learning from a finished object.
    """

    n_clicks: int
    click_ms: tuple[float, float, float]
    encode_ms: float | None
    views_per_object: float
    disobeyed: float
    contradicted: float
    learn_click_ms: float
    learn_mask_ms: float


class ResultTable:
    """Results of one run, arranged by object.

    Args:
        results: Of one model on one set; every object in every order of a mode.
        n_clicks: Length of the curves.
    """

    def __init__(self, results: Iterable[ObjectResult], n_clicks: int) -> None:
        by_mode: dict[Mode, dict[int, dict[ObjectRef, ObjectResult]]] = {}
        for result in results:
            orders = by_mode.setdefault(result.slot.mode, {})
            orders.setdefault(result.slot.order, {})[result.ref] = result
        if not by_mode:
            raise ValueError("no results to sum up")
        self._results = by_mode
        self.n_clicks = n_clicks
        self.refs = sorted(
            {ref for orders in by_mode.values() for o in orders.values() for ref in o}
        )

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What was run, frozen first."""
        return tuple(mode for mode in ("frozen", "adapted") if mode in self._results)

    def all(self, mode: Mode) -> list[ObjectResult]:
        """Every result of a mode."""
        return [r for order in self._results[mode].values() for r in order.values()]

    def curves(self, mode: Mode, order: int) -> tuple[Curves, Curves]:
        """IoU and Dice curves `[N, n_clicks]` of the sorted objects."""
        results = [self._results[mode][order][ref] for ref in self.refs]
        return (
            carried_forward([r.ious for r in results], self.n_clicks),
            carried_forward([r.dices for r in results], self.n_clicks),
        )

    def values(self, mode: Mode, metric: Metric) -> Values:
        """The metric of every object in every order, `[orders, N]`, in the metric's unit."""
        rows = [metric.per_object(*self.curves(mode, o)) for o in sorted(self._results[mode])]
        return metric.scale * np.stack(rows)

    @property
    def n_orders(self) -> int:
        """Orders of the objects, the most of any mode."""
        return max(len(orders) for orders in self._results.values())

    def stream_curves(self, mode: Mode, metric: Metric) -> Values:
        """The running mean of a metric along the stream of every order, `[orders, N]`."""
        in_streams = self.in_streams(mode, metric)
        return np.asarray(in_streams.cumsum(axis=1) / np.arange(1, len(self.refs) + 1))

    def in_streams(self, mode: Mode, metric: Metric) -> Values:
        """The metric of every object by its place in the stream of every order, `[orders, N]`.

        Frozen objects are put into the adapted stream's order, so that both can be compared;
        sessions are interleaved, as if their annotators worked side by side.
        """
        return self._in_streams(
            mode, lambda order: metric.scale * metric.per_object(*self.curves(mode, order))
        )

    def seconds_in_streams(self, mode: Mode, think_s: float) -> Values:
        """Seconds that every object took, likewise: its clicks, measured, and thinking for each."""
        of_mode = self._results[mode]
        return self._in_streams(
            mode,
            lambda order: np.array(
                [
                    sum(of_mode[order][ref].click_s) + think_s * len(of_mode[order][ref].click_s)
                    for ref in self.refs
                ]
            ),
        )

    def _in_streams(self, mode: Mode, per_object: Callable[[int], Values]) -> Values:
        """Values of the sorted objects, put into the order of each stream."""
        guide, of_mode = self._results.get("adapted", self._results[mode]), self._results[mode]
        rows = []
        for order in range(self.n_orders):
            slots = guide[order if order in guide else min(guide)]
            stream = sorted(
                self.refs, key=lambda r: (slots[r].slot.position, slots[r].slot.session)
            )
            known = per_object(order if order in of_mode else min(of_mode))
            value_of = dict(zip(self.refs, known, strict=True))
            rows.append([value_of[ref] for ref in stream])
        return np.array(rows)


def rows_of(table: ResultTable, metrics: Sequence[Metric], seed: int, groups: bool) -> list[Row]:
    """Every metric with its intervals and tests.

    Args:
        table: The results.
        metrics: Rows to compute.
        seed: Of the bootstrap.
        groups: Whether objects have groups worth resampling.
    """
    clusters = [ref.group for ref in table.refs] if groups else None
    rows = []
    for metric in metrics:
        values = {mode: table.values(mode, metric) for mode in table.modes}
        estimates = {mode: estimate(v, seed, clusters) for mode, v in values.items()}
        change = None
        if len(values) == 2:
            change = compare(values["frozen"], values["adapted"], metric, seed, clusters)
        rows.append(
            Row(
                metric=metric,
                frozen=estimates.get("frozen"),
                adapted=estimates.get("adapted"),
                change=change,
            )
        )
    return rows


def estimate(values: Values, seed: int, clusters: Sequence[str] | None) -> Estimate:
    """Mean and intervals of `[orders, N]` values."""
    per_object = values.mean(axis=0)
    return Estimate(
        mean=float(per_object.mean()),
        interval=bootstrap_interval(per_object, seed),
        group_interval=_group_interval(per_object, seed, clusters),
        per_order=tuple(float(v) for v in values.mean(axis=1)),
    )


def compare(
    frozen: Values, adapted: Values, metric: Metric, seed: int, clusters: Sequence[str] | None
) -> Change:
    """Paired differences of `[1, N]` frozen and `[orders, N]` adapted values."""
    differences = adapted - frozen
    per_object = differences.mean(axis=0)
    signs = sign_test(per_object)
    is_failure = metric.kind in ("fr", "fr_strict")
    base = float(frozen.mean())
    return Change(
        mean=float(per_object.mean()),
        relative=float(per_object.mean()) / base if base else None,
        interval=bootstrap_interval(per_object, seed),
        group_interval=_group_interval(per_object, seed, clusters),
        p_value=signs.p_value if is_failure else bootstrap_p_value(per_object, seed),
        signs=signs,
        per_order=tuple(sign_test(row) for row in differences),
    )


def _group_interval(values: Values, seed: int, clusters: Sequence[str] | None) -> Interval | None:
    return None if clusters is None else bootstrap_interval(values, seed, clusters=clusters)


def pace_of(results: Sequence[ObjectResult]) -> Pace:
    """Times and obedience over the results of one mode."""
    click_ms = 1e3 * np.array([s for r in results for s in r.click_s])
    n_clicks = len(click_ms)
    n_encoded = sum(r.n_encoded for r in results)
    encode_s = sum(r.encode_s for r in results)
    return Pace(
        n_clicks=n_clicks,
        click_ms=(
            float(click_ms.mean()),
            float(np.quantile(click_ms, 0.5)),
            float(np.quantile(click_ms, 0.95)),
        ),
        encode_ms=1e3 * encode_s / n_encoded if n_encoded else None,
        views_per_object=float(np.mean([r.n_views for r in results])),
        disobeyed=100 * float(np.mean([d for r in results for d in r.disobeyed])),
        contradicted=100 * float(np.mean([c > 0 for r in results for c in r.contradicted])),
        learn_click_ms=1e3 * sum(r.learn_click_s for r in results) / n_clicks,
        learn_mask_ms=1e3 * sum(r.learn_mask_s for r in results) / len(results),
    )
