"""The curves of a run's log, as one picture: what was measured while training, over the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Row = Mapping[str, Any]
Panels = Mapping[str, Callable[[str], bool]]
"""What is drawn together: titles, and which names belong there."""


def plot_curves(rows: Sequence[Row], panels: Panels, path: Path, *, validation: str) -> None:
    """Draw the log as PNG, a panel for each title that has anything to show.

    Args:
        rows: Of the log; each has its ``step``, and numbers by name.
        panels: Which names go where.
        path: Of the picture; none is made where there is nothing to draw.
        validation: How the names of what was measured on validation items begin; such a line is
            drawn bold, over the thin one of the same name in training.
    """
    names = sorted({key.removeprefix(validation) for row in rows for key in row})
    drawn = {
        title: found
        for title, belongs in panels.items()
        if (found := [name for name in names if belongs(name)])
    }
    if not drawn:
        return
    figure = Figure(figsize=(4.6 * len(drawn), 3.6))
    for number, (title, found) in enumerate(drawn.items(), start=1):
        axes = figure.add_subplot(1, len(drawn), number)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
        for index, name in enumerate(found):
            _plot(axes, rows, (name, validation + name), f"C{index}")
        axes.legend(frameon=False, fontsize=7)
    figure.subplots_adjust(left=0.05, right=0.98, bottom=0.14)
    figure.savefig(path, dpi=100)


def _plot(axes: Axes, rows: Sequence[Row], keys: tuple[str, str], colour: str) -> None:
    """One name in training and in validation, whichever there is; the bolder one is labelled."""
    lines = {key: [(row["step"], row[key]) for row in rows if key in row] for key in keys}
    drawn = [(key, points) for key, points in lines.items() if points]
    for place, (key, points) in enumerate(drawn, start=1):
        is_last, is_validation = place == len(drawn), key == keys[1]
        axes.plot(
            *zip(*points, strict=True),
            color=colour,
            linewidth=1.8 if is_validation else 0.8,
            marker="o" if is_validation else None,
            markersize=3,
            label=keys[0] if is_last else None,
        )
