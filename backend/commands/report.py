"""`strop report`: a project's insights as one HTML file, or its figures as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from adaptation.errors import InputError
from adaptation.journal import Journal
from backend.insights.build import build_insights
from backend.insights.insights import figures_json
from backend.settings import Settings


def write_report(
    settings: Settings, project_id: str, out: Path | None, *, as_json: bool, recount: bool
) -> str:
    """Write a report; returns what to say.

    Args:
        settings: Name the journal and the album.
        project_id: Of the project.
        out: File; None returns the JSON itself.
        as_json: Figures instead of the page.
        recount: Make all rows anew from the journal first.

    Raises:
        InputError: The project has no submitted object, or the file cannot be written.
    """
    journal = Journal(settings.journal_url, create=False)
    try:
        insights = build_insights(settings, journal)
        if recount:
            insights.recount()
        figures = insights.figures(project_id)
        if not figures.n_objects:
            raise InputError(
                f"Project {project_id} has no submitted object in the journal {journal.location}."
            )
        if as_json:
            content = json.dumps(figures_json(figures), indent=2) + "\n"
        else:
            content = insights.report(project_id)
    finally:
        journal.close()
    if out is None:
        return content
    try:
        out.write_text(content, encoding="utf-8")
    except OSError as error:
        raise InputError(f"The report {out} cannot be written: {error.strerror}.") from error
    return f"wrote {out}"
