"""Plots of a run: IoU over clicks, and the failure rate along the stream of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from adaptation.simulation.metrics import Metric
from training.evaluation.along import Along
from training.evaluation.harness import Mode
from training.evaluation.summary import ResultTable

_COLOURS = {"frozen": "#8a8f98", "adapted": "#d1495b"}
_SIZE_INCHES = (7.0, 4.2)
_DPI = 130


def plot_table(
    table: ResultTable, metrics: Sequence[Metric], title: str, target: float, folder: Path
) -> None:
    """All plots of a run, into its folder: IoU over clicks, and a stream for each failure rate."""
    plot_iou_over_clicks(table, title, target, folder / "iou_over_clicks.png")
    for metric in metrics:
        if metric.kind == "fr":
            name = metric.name.replace("@", "_at_")
            plot_stream(table, metric, title, folder / f"stream_{name}.png")


def plot_iou_over_clicks(table: ResultTable, title: str, target: float, path: Path) -> None:
    """Mean IoU after each click, with the range over the orders, as PNG."""
    figure, axes = _canvas(title)
    clicks = np.arange(1, table.n_clicks + 1)
    for mode in table.modes:
        per_order = np.stack(
            [table.values(mode, Metric("iou", int(n))).mean(axis=1) for n in clicks]
        )
        marker = "o" if len(clicks) == 1 else ""
        axes.plot(clicks, per_order.mean(axis=1), c=_COLOURS[mode], marker=marker, label=mode)
        axes.fill_between(
            clicks, per_order.min(axis=1), per_order.max(axis=1), color=_COLOURS[mode], alpha=0.2
        )
    axes.axhline(100 * target, color="black", linewidth=0.7, linestyle=":")
    axes.set_xlabel("clicks")
    axes.set_ylabel("mean IoU (%)")
    _save(figure, axes, path)


def plot_stream(table: ResultTable, metric: Metric, title: str, path: Path) -> None:
    """The running mean of a metric along the stream, with the range over the orders, as PNG."""
    figure, axes = _canvas(title)
    objects = np.arange(1, len(table.refs) + 1)
    for mode in table.modes:
        per_order = table.stream_curves(mode, metric)
        axes.plot(objects, per_order.mean(axis=0), color=_COLOURS[mode], label=mode)
        axes.fill_between(
            objects, per_order.min(axis=0), per_order.max(axis=0), color=_COLOURS[mode], alpha=0.2
        )
    axes.set_xlabel("objects annotated so far")
    axes.set_ylabel(f"{metric.name} so far (%)")
    axes.set_ylim(bottom=0)
    _save(figure, axes, path)


PANELS = {
    "clicks to 0.85": "clicks to IoU 0.85",
    "first mask IoU": "IoU of the first mask (%)",
    "corrections": "clicks after the first to the target",
}
"""Quantities that are drawn, and what is written above them."""


def plot_along(report_along: Mapping[str, Mapping[Mode, Along]], title: str, path: Path) -> None:
    """What an object cost by its place in the stream, with the range over the orders, as PNG.

    Means of five neighbours are drawn: single objects differ too much to show a trend.
    """
    panels = [name for name in PANELS if name in report_along]
    figure = Figure(figsize=(3.6 * len(panels), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for mode, along in report_along[name].items():
            places = np.arange(1, len(along.mean) + 1)
            mean, low, high = (_smooth(row) for row in (along.mean, along.low, along.high))
            axes.plot(places, mean, color=_COLOURS[mode], label=mode)
            axes.fill_between(places, low, high, color=_COLOURS[mode], alpha=0.2)
        axes.set_title(PANELS[name], fontsize=10)
        axes.set_xlabel("object of the stream")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=_DPI)


def _smooth(row: Sequence[float]) -> NDArray[np.float64]:
    """Means of each value and its two neighbours on either side, fewer at the ends."""
    padded = np.pad(np.asarray(row, np.float64), 2, constant_values=np.nan)
    return np.asarray(np.nanmean(np.lib.stride_tricks.sliding_window_view(padded, 5), axis=1))


def _canvas(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _save(figure: Figure, axes: Axes, path: Path) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=_DPI)
