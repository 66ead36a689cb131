"""The face of the room: what the routes and `strop report` ask for."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from adaptation.errors import InputError
from adaptation.journal import FinishedObject, Journal
from adaptation.storage.album import Album
from backend.insights.facts import ObjectFact
from backend.insights.figures import Figures
from backend.insights.page import (
    confirm_command,
    confirm_roll_back,
    render_confirmation,
    render_project,
    render_projects,
    render_versions,
)
from backend.insights.sessions import SessionPanel
from backend.insights.shown import ShownProject, ShownProjects
from backend.insights.store import FactStore
from backend.insights.thumbnails import thumbnail
from backend.insights.versions import roll_back, versions_of
from backend.learning.commands import SessionCommand

PATIENCE_S = 0.4
"""A page counts for so long; what is left is counted behind it, and the page says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InsightsOptions:
    """What is shown.

    Args:
        learning_is_on: Whether sessions learn.
        with_annotators: Whether people are told apart.
        label_studio_url: Address that a browser reaches Label Studio at, for links; None: no links.
        takes_up_bases: Whether running servers look for another base decoder.
    """

    learning_is_on: bool = True
    with_annotators: bool = False
    label_studio_url: str | None = None
    takes_up_bases: bool = True


class Insights:
    """Figures, pages and pictures of what was labelled.  Safe to share between threads.

    Args:
        journal: What it is all derived from.
        store: Keeps the rows.
        album: Images for the pictures.
        options: What is shown.
        registry: Folder of the promoted base decoders.
        adapters: Folder of what sessions learned.
    """

    def __init__(
        self,
        journal: Journal,
        store: FactStore,
        album: Album,
        options: InsightsOptions,
        *,
        registry: Path,
        adapters: Path,
    ) -> None:
        self._journal, self._store, self._album, self._options = journal, store, album, options
        self._registry = registry
        self._shown = ShownProjects(
            store,
            adapters,
            learning_is_on=options.learning_is_on,
            with_annotators=options.with_annotators,
        )

    def projects_page(self, prefix: str) -> str:
        """HTML of the list of projects; `prefix` stands before the page's own addresses."""
        self._store.refresh(PATIENCE_S)
        return render_projects(self._store.projects(), prefix)

    def project_page(self, project_id: str, prefix: str) -> str:
        """HTML of one project, with its pictures as addresses."""
        self._store.refresh(PATIENCE_S)

        def address(fact: ObjectFact) -> str:
            return f"{prefix}/insights/object/{fact.submission_seq}/{fact.position}.jpg"

        return self._render(project_id, self._shown.of(project_id), address, prefix)

    def sessions(self, project_id: str) -> SessionPanel:
        """What a project's sessions know as of now."""
        self._store.refresh()
        return self._shown.panel(project_id)

    def versions_page(self, prefix: str) -> str:
        """HTML of the base decoders."""
        return render_versions(versions_of(self._registry), prefix)

    def confirmation_page(self, command: SessionCommand, token: str, prefix: str) -> str:
        """HTML that asks whether something is really to be asked of sessions.

        Args:
            command: What.
            token: That the form gives back.
            prefix: Stands before the page's own addresses.
        """
        return render_confirmation(confirm_command(command), token, prefix)

    def roll_back_page(self, token: str, prefix: str) -> str:
        """HTML that asks whether the base decoder before the one in use is to come back.

        Args:
            token: That the form gives back.
            prefix: Stands before the page's own addresses.

        Raises:
            InputError: Nothing was in use before.
        """
        panel = versions_of(self._registry)
        if panel.before is None:
            raise InputError(f"There is nothing to roll back to: {panel.current} is the first.")
        asked = confirm_roll_back(panel, self._options.takes_up_bases)
        return render_confirmation(asked, token, prefix)

    def roll_back(self, current: str, to: str, reason: str) -> None:
        """Bring back the base decoder that was in use before.

        Raises:
            StropError: See `versions.roll_back`.
        """
        roll_back(self._registry, current, to, reason)

    def report(self, project_id: str) -> str:
        """The same page as one file that needs no other."""
        self._store.refresh()
        return self._render(project_id, self._shown.now(project_id), self._inline, None)

    def recount(self) -> int:
        """Make all rows anew from the journal; returns how many tasks there are."""
        return self._store.recount()

    def figures(self, project_id: str) -> Figures:
        """A project's figures as of now, all of them counted."""
        self._store.refresh()
        return self._shown.figures(project_id)

    def picture(self, submission_seq: int, position: int) -> bytes:
        """JPEG of a submitted object.

        Raises:
            InputError: There is no such object, or its image is gone.
        """
        finished = self._finished(submission_seq, position)
        found = None if finished is None else thumbnail(self._album, finished)
        if found is None:
            raise InputError("There is no picture of this object: it, or its image, is gone.")
        return found

    def _render(
        self,
        project_id: str,
        shown: ShownProject,
        picture: Callable[[ObjectFact], str | None],
        prefix: str | None,
    ) -> str:
        figures = shown.sums.figures
        return render_project(
            project_id,
            figures,
            [(fact, picture(fact), self._link(fact)) for fact in figures.worst],
            shown.sums.charts,
            panel=shown.panel,
            n_behind=self._store.n_behind(),
            as_of=None if shown.is_current else shown.sums.made_at,
            prefix=prefix,
        )

    def _link(self, fact: ObjectFact) -> str | None:
        root = self._options.label_studio_url
        if root is None:
            return None
        return f"{root.rstrip('/')}/projects/{fact.project_id}/data?task={fact.task_id}"

    def _inline(self, fact: ObjectFact) -> str | None:
        finished = self._finished(fact.submission_seq, fact.position)
        content = None if finished is None else thumbnail(self._album, finished)
        if content is None:
            return None
        return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"

    def _finished(self, submission_seq: int, position: int) -> FinishedObject | None:
        fact = self._store.fact(submission_seq, position)
        if fact is None:
            return None
        for each in self._journal.objects(fact.project_id, fact.task_id):
            if (each.link.submission_seq, each.link.position) == (submission_seq, position):
                return each
        return None


def figures_json(figures: Figures) -> dict[str, Any]:
    """Figures as JSON values, the worst objects by their ids."""
    content = asdict(figures)
    content["by_day"] = {day.isoformat(): row for day, row in figures.by_day.items()}
    content["worst"] = [
        {
            "task_id": fact.task_id,
            "annotation_id": fact.annotation_id,
            "region_id": fact.region_id,
            "label": fact.label,
            "n_prompts": fact.n_prompts,
            "last_iou": fact.ious[-1],
        }
        for fact in figures.worst
    ]
    return content
