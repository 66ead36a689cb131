"""Figures as SVG that stands in the page: no script, no file, no other host.

Colours are the page's CSS variables, so that light and dark follow the reader's choice, and paper
gets ink.  Each chart says in words what it shows; the page puts the same numbers in a table.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_COLOURS = {"#010101": "var(--ink)", "#020202": "var(--line)", "#030303": "var(--accent)"}
"""Stand-ins in the drawing, and the variables that they become."""

_INK, _LINE, _ACCENT = _COLOURS
_SIZE_INCHES = (6.0, 2.6)
_PLACE = (0.12, 0.2, 0.84, 0.74)
"""Left, bottom, width and height of the axes in the picture.

To have them found (`layout="constrained"`) takes twice as long as all the rest, and for a font that
browsers do not draw the labels in.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart, and the same numbers as rows.

    Args:
        title: What it shows.
        summary: In one sentence, for who does not see it.
        svg: The picture, an `<svg>` element.
        header: Of the table.
        rows: Of the table.
    """

    title: str
    summary: str
    svg: str
    header: tuple[str, str]
    rows: Sequence[tuple[str, str]]


def bars(title: str, values: Mapping[str, int], header: tuple[str, str], summary: str) -> Chart:
    """A bar for each entry, which is a count."""

    def draw(axes: Axes) -> None:
        axes.bar(range(len(values)), list(values.values()), color=_ACCENT)
        axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True))

    return _chart(title, values, header, summary, draw)


def line(title: str, values: Mapping[str, float], header: tuple[str, str], summary: str) -> Chart:
    """A line through the entries, from zero up."""

    def draw(axes: Axes) -> None:
        places = range(len(values))
        axes.plot(places, list(values.values()), color=_ACCENT, marker="o", markersize=3)

    return _chart(title, values, header, summary, draw)


def as_text(value: float) -> str:
    """A number as tables show it: whole ones whole, others with two places."""
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.2f}"


def _chart(
    title: str,
    values: Mapping[str, float],
    header: tuple[str, str],
    summary: str,
    draw: Callable[[Axes], None],
) -> Chart:
    figure = Figure(figsize=_SIZE_INCHES)
    axes = figure.add_axes(_PLACE)
    draw(axes)
    step = -(-len(values) // 8)
    names = list(values)
    axes.set_xticks(range(0, len(names), step), names[::step])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(header[0])
    axes.set_ylabel(header[1])
    _paint(axes)
    rows = [(name, as_text(value)) for name, value in values.items()]
    svg = _named(_svg(figure, title), title, summary)
    return Chart(title=title, summary=summary, svg=svg, header=header, rows=rows)


def _paint(axes: Axes) -> None:
    axes.patch.set_alpha(0)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)


def _svg(figure: Figure, title: str) -> str:
    """The picture with text as text, the same bytes for the same numbers."""
    stream = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    return svg[svg.index("<svg") :]


def _named(svg: str, title: str, summary: str) -> str:
    """One name for screen readers, the page's colours and its width."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    for stand_in, variable in _COLOURS.items():
        svg = svg.replace(stand_in, variable)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    label = escape(f"{title}. {summary}", quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
