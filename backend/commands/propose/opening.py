"""A project as `strop propose` finds it: its tasks, what was submitted, and its images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from tqdm import tqdm

from adaptation.errors import ImageError, ProtocolError, SettingsError
from adaptation.journal import Journal, SubmissionRecord
from backend.embeddings.encoder import Encoder
from backend.label_studio.client import LabelStudioClient, Task
from backend.proposals.events import rejected_masks
from backend.proposals.knowledge import ProjectKnowledge
from backend.proposals.maker import MakerOptions, ProposalMaker, SeenTask
from backend.protocol import LabelConfig, TaskRef, parse_label_config
from backend.settings import Settings
from backend.wiring import (
    build_client,
    build_embeddings,
    build_images,
    build_reader,
    load_sam,
    use_threads,
)

logger = logging.getLogger(__name__)


class CountsFailures(Protocol):
    """A summary that tells how many images could not be read."""

    n_failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedProject:
    """One project, and what its proposals are made with.

    Args:
        project_id: Its number.
        config: Its labeling config.
        tasks: All of them.
        submitted: The latest submission of each task that the journal knows one of.
        client: Its Label Studio.
        journal: Where its work is kept.
        maker: Makes proposals.
        summary: Counts what cannot be read.
    """

    project_id: str
    config: LabelConfig
    tasks: tuple[Task, ...]
    submitted: dict[str, SubmissionRecord]
    client: LabelStudioClient
    journal: Journal
    maker: ProposalMaker
    summary: CountsFailures

    def is_labelled(self, task: Task) -> bool:
        """Whether somebody has submitted it."""
        return task.is_labeled or task.task_id in self.submitted

    def seen(self, task: Task) -> Iterator[SeenTask]:
        """The task with its image; nothing, and a line in the log, where that cannot be read."""
        ref = TaskRef(task_id=task.task_id, project_id=self.project_id, data=task.data)
        try:
            yield self.maker.see(ref, self.config)
        except (ImageError, ProtocolError) as error:
            self.summary.n_failed += 1
            logger.warning("task %s: %s", task.task_id, error)

    def learned(self) -> ProjectKnowledge:
        """All that the project's submissions and images teach.

        Raises:
            SettingsError: Nothing is labelled, and more of the same is wanted.
        """
        knowledge = self.maker.knowledge()
        rejected = rejected_masks(self.journal, self.project_id)
        look_for = self.maker.options.knowledge.look_for
        if look_for == "words":
            return knowledge
        looks_everywhere = look_for == "anomalies"
        wanted = [t for t in self.tasks if looks_everywhere or t.task_id in self.submitted]
        images = [(t, seen) for t in tqdm(wanted, desc="images") for seen in self.seen(t)]
        for _, seen in images:
            knowledge.see(seen.image)
        for task, seen in images:
            if task.task_id in self.submitted:
                masks = rejected.get(task.task_id, ())
                self.maker.learn(knowledge, seen, self.submitted[task.task_id], masks)
        if not looks_everywhere and not knowledge.n_judged:
            raise SettingsError(
                "Nothing is labelled in this project yet, as far as the journal knows: finish an "
                "object with Strop first, or look for anomalies (proposals.look_for=anomalies)."
            )
        return knowledge


@contextmanager
def opened(
    settings: Settings, project_id: int, options: MakerOptions, summary: CountsFailures
) -> Iterator[OpenedProject]:
    """Open a project, its journal and the model.

    Raises:
        SettingsError: No Label Studio is set.
        ProtocolError: The labeling config cannot be read.
        LabelStudioError: It cannot be reached, or the project is unknown.
    """
    client = build_client(settings)
    if client is None:
        raise SettingsError("Set label_studio.url and label_studio.token: whose tasks are meant?")
    use_threads(settings)
    config = parse_label_config(client.project(project_id).label_config)
    sam = load_sam(settings, show_progress=True)
    encoder = Encoder(sam, build_images(settings, client), build_embeddings(settings))
    with Journal(settings.journal_url) as journal:
        journal.link_pending()
        yield OpenedProject(
            project_id=str(project_id),
            config=config,
            tasks=tuple(tqdm(client.tasks(project_id), desc="tasks", unit="task")),
            submitted=_submitted(journal, str(project_id)),
            client=client,
            journal=journal,
            maker=ProposalMaker(
                sam, encoder, journal, options, build_reader(settings, show_progress=True)
            ),
            summary=summary,
        )


def _submitted(journal: Journal, project_id: str) -> dict[str, SubmissionRecord]:
    return {
        record.task_id: record
        for record in journal.submissions(project_id, current_only=True)
        if record.task_id is not None and not record.was_cancelled
    }
