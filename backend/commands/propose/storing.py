"""`strop propose`: a whole project's proposals, stored as predictions in Label Studio."""

from __future__ import annotations

from dataclasses import dataclass

from tqdm import tqdm

from backend.commands.propose.opening import OpenedProject, opened
from backend.label_studio.client import Task
from backend.proposals.events import proposed_tasks
from backend.proposals.knowledge import ProjectKnowledge
from backend.settings import Settings
from backend.wiring import proposal_options


@dataclass(slots=True)
class ProposeSummary:
    """What became of a project's tasks.

    Args:
        n_regions: Proposed now.
        n_proposed: Tasks that got a prediction now.
        n_empty: Tasks in which nothing was found.
        n_known: Tasks that had these proposals already.
        n_labelled: Tasks that are annotated: they teach, and get no proposals.
        n_failed: Tasks whose image could not be read; the log names them.
    """

    n_regions: int = 0
    n_proposed: int = 0
    n_empty: int = 0
    n_known: int = 0
    n_labelled: int = 0
    n_failed: int = 0

    def __str__(self) -> str:
        return (
            f"{self.n_regions} regions proposed in {self.n_proposed} tasks, nothing found in "
            f"{self.n_empty}; {self.n_known} had these proposals already, {self.n_labelled} are "
            f"labelled, {self.n_failed} could not be read."
        )


def propose_project(settings: Settings, project_id: int) -> ProposeSummary:
    """Propose regions in all tasks that nobody has labelled, showing progress.

    May be stopped and started again: a task that has proposals made with the same knowledge is not
    looked at again; where more was labelled since, it gets new ones.

    Raises:
        SettingsError: No Label Studio is set, or there is nothing to look for yet.
        ProtocolError: The labeling config cannot hold proposals.
        LabelStudioError: It cannot be reached, or the project is unknown.
    """
    summary = ProposeSummary()
    with opened(settings, project_id, proposal_options(settings), summary) as project:
        knowledge = project.learned()
        for task in tqdm(_wanted(project, knowledge, summary), desc="proposals"):
            _propose(project, knowledge, task, summary)
    return summary


def _wanted(
    project: OpenedProject, knowledge: ProjectKnowledge, summary: ProposeSummary
) -> list[Task]:
    """Tasks that are neither labelled nor have these proposals already."""
    version = project.maker.version(knowledge)
    known = {
        item.task_id
        for item in proposed_tasks(project.journal, project.project_id)
        if item.version == version and item.is_stored
    }
    wanted = []
    for task in project.tasks:
        if project.is_labelled(task):
            summary.n_labelled += 1
        elif task.task_id in known:
            summary.n_known += 1
        else:
            wanted.append(task)
    return wanted


def _propose(
    project: OpenedProject, knowledge: ProjectKnowledge, task: Task, summary: ProposeSummary
) -> None:
    maker = project.maker
    for seen in project.seen(task):
        prediction = maker.propose(knowledge, seen, project.config, is_stored=True)
        if prediction.regions:
            # Stored first: after a crash between the two, a task gets them twice, never not.
            project.client.store_prediction(
                task.task_id,
                prediction.regions,
                score=round(prediction.record.score, 4),
                model_version=prediction.record.version,
            )
        maker.keep(project.project_id, prediction)
        summary.n_regions += len(prediction.record.regions)
        summary.n_proposed += bool(prediction.regions)
        summary.n_empty += not prediction.regions
