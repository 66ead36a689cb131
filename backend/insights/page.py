"""Figures -> HTML: one document without scripts, readable on a phone, in the dark and on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from importlib import metadata

from jinja2 import Environment, PackageLoader, select_autoescape

from backend.insights.charts import Chart, bars, line
from backend.insights.facts import ObjectFact
from backend.insights.figures import Figures

WORDS: Mapping[str, str] = {
    "NoC20@85": "mean clicks until the mask overlaps the submitted one by 85 %, 20 at most",
    "NoC20@90": "the same for 90 %",
    "FR20@85": "objects whose mask never got there within 20 clicks",
    "FR20@90": "the same for 90 %",
    "FR30@90": "the same for 90 % and 30 clicks",
}
"""What the metrics mean."""


@dataclass(frozen=True, slots=True)
class _Worst:
    fact: ObjectFact
    picture: str | None
    link: str | None


def render_projects(projects: Mapping[str, int], prefix: str) -> str:
    """The list of projects; `prefix` stands before the page's own addresses."""
    return _render("projects.html", title="Insights", projects=projects, prefix=prefix)


def render_project(
    project_id: str,
    figures: Figures,
    worst: Sequence[tuple[ObjectFact, str | None, str | None]],
    *,
    learning_is_on: bool,
    prefix: str | None,
) -> str:
    """A project's page.

    Args:
        project_id: Of the project.
        figures: What is shown.
        worst: Objects that took most clicks, each with its picture's and its task's address.
        learning_is_on: Whether sessions learn.
        prefix: Before the page's own addresses; None where the page stands alone.
    """
    return _render(
        "project.html",
        title=f"Insights: project {project_id}",
        project_id=project_id,
        f=figures,
        worst=[_Worst(*each) for each in worst],
        charts=_charts(figures),
        words=WORDS,
        learning_is_on=learning_is_on,
        prefix=prefix,
    )


def _charts(figures: Figures) -> list[Chart]:
    if not figures.n_clicked:
        return []
    size = figures.curve_size
    curve = {str((i + 1) * size): value for i, value in enumerate(figures.curve)}
    days = {day.strftime("%d %b"): float(row[0]) for day, row in figures.by_day.items()}
    charts = [
        bars(
            "Clicks an object takes",
            {name: float(n) for name, n in figures.histogram.items()},
            ("clicks", "objects"),
            f"Half of the objects take {figures.median_clicks:.0f} clicks or fewer.",
        ),
        bars("Objects per day", days, ("day", "objects"), f"{figures.n_objects} in all."),
    ]
    if len(curve) > 1:
        first, last = figures.curve[0], figures.curve[-1]
        charts.insert(
            1,
            line(
                "Clicks over the object's number",
                curve,
                ("objects so far", "mean clicks"),
                f"From {first:.1f} clicks on the first {size} objects to {last:.1f} on the last.",
            ),
        )
    return charts


@cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("backend.insights"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(template: str, **values: object) -> str:
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return (
        _templates()
        .get_template(template)
        .render(version=metadata.version("strop"), made_at=now, **values)
    )
