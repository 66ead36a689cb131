"""Which project of Label Studio holds the rankings of which: the journal remembers."""

from __future__ import annotations

from adaptation.errors import InputError
from adaptation.journal import Journal
from backend.commands.ranking.tasks import INSTRUCTION, is_ranking_config, label_config
from backend.label_studio.client import LabelStudioClient, LabelStudioError, Project

EVENT = "ranking_project"
"""Kind of the journal's events that say so; the newest of a project counts."""

_TITLE_LENGTH = 50


def ranking_projects(journal: Journal, project_id: str | None = None) -> dict[str, str]:
    """The ranking project's number by the number of the project whose prompts it holds."""
    events = journal.events(project_id, kind=EVENT)
    return {str(e.project_id): str(e.payload["ranking_project_id"]) for e in events}


def find_ranking_project(
    journal: Journal, client: LabelStudioClient, project_id: str
) -> Project | None:
    """The ranking project of a project, if one was made and is still there.

    Raises:
        InputError: It was turned into something else.
    """
    number = ranking_projects(journal, project_id).get(project_id)
    project = None if number is None else look_up(client, number)
    if project is not None and not is_ranking_config(project.label_config):
        raise InputError(
            f"Project {number} of Label Studio held the rankings of project {project_id}, and its "
            "labeling config is another one now: give it back, or delete the project and run "
            "`strop ranking create` again."
        )
    return project


def make_ranking_project(journal: Journal, client: LabelStudioClient, source: Project) -> Project:
    """A new ranking project for the prompts of a project; the journal is told."""
    project = client.create_project(
        f"Ranking: {source.title}"[:_TITLE_LENGTH],
        label_config(),
        expert_instruction=INSTRUCTION,
        show_instruction=True,
    )
    payload = {"ranking_project_id": project.project_id, "label_studio": client.url}
    journal.append_event(EVENT, project_id=source.project_id, payload=payload)
    return project


def look_up(client: LabelStudioClient, project_id: str) -> Project | None:
    """A project; None where Label Studio has none of this number."""
    try:
        return client.project(project_id)
    except LabelStudioError as error:
        if error.status == 404:
            return None
        raise
