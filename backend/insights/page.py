"""Figures -> HTML: one document without scripts, readable on a phone, in the dark and on paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timezone
from functools import cache, partial
from importlib import metadata
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, select_autoescape

from adaptation.models.base_decoder import EMBEDDED
from backend.insights.charts import Chart, bars, line
from backend.insights.facts import ObjectFact
from backend.insights.figures import Figures
from backend.insights.sessions import SessionPanel
from backend.insights.versions import VersionsPanel
from backend.learning.commands import Action, SessionCommand

WORDS: Mapping[str, str] = {
    "NoC20@85": "mean clicks until the mask overlaps the submitted one by 85 %, 20 at most",
    "NoC20@90": "the same for 90 %",
    "FR20@85": "objects whose mask never got there within 20 clicks",
    "FR20@90": "the same for 90 %",
    "FR30@90": "the same for 90 % and 30 clicks",
}
"""What the metrics mean."""

ROLL_BACK = "/insights/versions/roll-back"
"""Below the prefix: asks whether, and does it."""

CONFIRMATIONS: Mapping[Action, tuple[str, str, str]] = {
    "forget": (
        "Forget annotation {command.annotation_id}?",
        "Its session becomes what it would be without it: what came after it is learned again. In "
        "Label Studio nothing changes; submitted once more, the annotation is learned once more.",
        "Forget it",
    ),
    "begin anew": (
        "Begin session {command.session} anew?",
        "All that it has learned is dropped, and clicks are answered by the decoder as it came, "
        "until it has learned from what is submitted from now on. In Label Studio nothing changes.",
        "Begin anew",
    ),
    "pause": (
        "Pause learning in project {command.project_id}?",
        "What was learned goes on answering clicks. What is submitted until learning goes on is "
        "not learned, later either; what is deleted is un-learned all the same.",
        "Pause learning",
    ),
    "resume": (
        "Go on learning in project {command.project_id}?",
        "What is submitted from now on is learned.",
        "Go on learning",
    ),
}
"""Question, consequence and button."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """What a page asks before something is done.

    Args:
        question, consequence, button: In words.
        fields: Hidden ones of the form.
        post_to: Where the form goes, below the prefix.
        back_to: Where "leave it as it is" leads, likewise.
        asks_why: Whether there is room for a reason.
    """

    question: str
    consequence: str
    button: str
    fields: Mapping[str, str]
    post_to: str
    back_to: str
    asks_why: bool = False


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
    charts: Sequence[Chart],
    *,
    panel: SessionPanel | None,
    n_behind: int,
    as_of: datetime | None,
    prefix: str | None,
) -> str:
    """A project's page.

    Args:
        project_id: Of the project.
        figures: What is shown.
        worst: Objects that took most clicks, each with its picture's and its task's address.
        charts: Of the figures.
        panel: What sessions know; None where learning is off.
        n_behind: Entries of the journal that are not counted yet.
        as_of: When the figures were added up; None where that is now.
        prefix: Before the page's own addresses; None where the page stands alone.
    """
    return _render(
        "project.html",
        title=f"Insights: project {project_id}",
        project_id=project_id,
        f=figures,
        worst=[_Worst(*each) for each in worst],
        charts=charts,
        words=WORDS,
        learning_is_on=panel is not None,
        panel=panel,
        n_behind=n_behind,
        as_of=as_of,
        ask_url=partial(ask_url, prefix or "", project_id),
        prefix=prefix,
    )


def ask_url(
    prefix: str, project_id: str, action: str, session: str = "", annotation_id: str = ""
) -> str:
    """Address of the page that confirms what is to be asked of sessions."""
    about = {"action": action, "session": session, "annotation_id": annotation_id}
    query = urlencode({name: value for name, value in about.items() if value})
    return f"{prefix}/insights/project/{quote(project_id, safe='')}/sessions?{query}"


def render_versions(panel: VersionsPanel, prefix: str) -> str:
    """The base decoders."""
    roll_back = f"{prefix}{ROLL_BACK}"
    return _render(
        "versions.html", title="Base decoders", panel=panel, roll_back=roll_back, prefix=prefix
    )


def confirm_command(command: SessionCommand) -> Confirmation:
    """The question before something is asked of sessions."""
    question, consequence, button = (
        text.format(command=command) for text in CONFIRMATIONS[command.action]
    )
    project = f"/insights/project/{quote(command.project_id, safe='')}"
    return Confirmation(
        question=question,
        consequence=consequence,
        button=button,
        fields={
            "action": command.action,
            "session": command.session,
            "annotation_id": command.annotation_id,
        },
        post_to=f"{project}/sessions",
        back_to=f"{project}#sessions",
    )


def confirm_roll_back(panel: VersionsPanel, takes_up_itself: bool) -> Confirmation:
    """The question before the version that was in use before is brought back.

    Args:
        panel: Of the versions; one was in use before.
        takes_up_itself: Whether running servers look for another base decoder.
    """
    assert panel.before is not None
    target = "the model's own decoder" if panel.before == EMBEDDED else f"version {panel.before}"
    when = "within seconds" if takes_up_itself else "when it is started anew"
    return Confirmation(
        question=f"Roll back to {target}?",
        consequence=f"It takes the place of {panel.current} {when}. Clicks in work are finished, "
        "no version is deleted, and what sessions learned upon either decoder is kept with it.",
        button="Roll back",
        fields={"current": panel.current, "to": panel.before},
        post_to=ROLL_BACK,
        back_to="/insights/versions",
        asks_why=True,
    )


def render_confirmation(asked: Confirmation, token: str, prefix: str) -> str:
    """The page before something is done; its form carries a token."""
    return _render("confirm.html", title=asked.question, asked=asked, token=token, prefix=prefix)


def render_message(title: str, text: str, prefix: str) -> str:
    """A page that says something."""
    return _render("message.html", title=title, text=text, prefix=prefix)


def charts_of(figures: Figures) -> list[Chart]:
    """Clicks an object takes, clicks over time, objects per day; none without clicked objects."""
    if not figures.n_clicked:
        return []
    size = figures.curve_size
    curve = {str((i + 1) * size): value for i, value in enumerate(figures.curve)}
    days = {_day(day, figures.by_day): row[0] for day, row in figures.by_day.items()}
    charts = [
        bars(
            "Clicks an object takes",
            figures.histogram,
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


def _day(day: date, days: Iterable[date]) -> str:
    """A day's name among others."""
    is_one_year = len({each.year for each in days}) == 1
    return day.strftime("%d %b") if is_one_year else day.strftime("%d %b %y")


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
