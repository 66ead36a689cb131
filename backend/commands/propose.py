"""`strop propose`: a whole project's proposals, stored as predictions in Label Studio."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tqdm import tqdm

from adaptation.errors import ImageError, ProtocolError, SettingsError
from adaptation.journal import Journal, SubmissionRecord
from backend.embeddings.encoder import Encoder
from backend.label_studio.client import LabelStudioClient, Task
from backend.proposals.events import proposed_tasks, rejected_masks
from backend.proposals.knowledge import ProjectKnowledge
from backend.proposals.maker import ProposalMaker, SeenTask
from backend.protocol import LabelConfig, TaskRef, parse_label_config
from backend.settings import Settings
from backend.wiring import (
    build_client,
    build_embeddings,
    build_images,
    load_sam,
    proposal_options,
    use_threads,
)

logger = logging.getLogger(__name__)


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
    client = build_client(settings)
    if client is None:
        raise SettingsError("Set label_studio.url and label_studio.token: whose tasks are meant?")
    use_threads(settings)
    config = parse_label_config(client.project(project_id).label_config)
    sam = load_sam(settings, show_progress=True)
    encoder = Encoder(sam, build_images(settings, client), build_embeddings(settings))
    with Journal(settings.journal_url) as journal:
        journal.link_pending()
        maker = ProposalMaker(sam, encoder, journal, proposal_options(settings))
        return _Run(client, journal, maker, config, str(project_id)).go()


class _Run:
    """One project: first all that is known of it, then the proposals."""

    def __init__(
        self,
        client: LabelStudioClient,
        journal: Journal,
        maker: ProposalMaker,
        config: LabelConfig,
        project_id: str,
    ) -> None:
        self._client, self._journal, self._maker = client, journal, maker
        self._config, self._project_id = config, project_id
        self._summary = ProposeSummary()

    def go(self) -> ProposeSummary:
        tasks = list(tqdm(self._client.tasks(self._project_id), desc="tasks", unit="task"))
        submitted = {
            record.task_id: record
            for record in self._journal.submissions(self._project_id, current_only=True)
            if record.task_id is not None and not record.was_cancelled
        }
        knowledge = self._learned(tasks, submitted)
        for task in tqdm(self._open_tasks(tasks, submitted, knowledge), desc="proposals"):
            self._propose(knowledge, task)
        return self._summary

    def _learned(
        self, tasks: Iterable[Task], submitted: dict[str, SubmissionRecord]
    ) -> ProjectKnowledge:
        knowledge = self._maker.knowledge()
        rejected = rejected_masks(self._journal, self._project_id)
        looks_everywhere = self._maker.options.knowledge.look_for == "anomalies"
        wanted = [t for t in tasks if looks_everywhere or t.task_id in submitted]
        images = [(t, seen) for t in tqdm(wanted, desc="images") for seen in self._seen(t)]
        for _, seen in images:
            knowledge.see(seen.image)
        for task, seen in images:
            if task.task_id in submitted:
                masks = rejected.get(task.task_id, ())
                self._maker.learn(knowledge, seen, submitted[task.task_id], masks)
        if not looks_everywhere and not knowledge.n_judged:
            raise SettingsError(
                "Nothing is labelled in this project yet, as far as the journal knows: finish an "
                "object with Strop first, or look for anomalies (proposals.look_for=anomalies)."
            )
        return knowledge

    def _open_tasks(
        self,
        tasks: Iterable[Task],
        submitted: dict[str, SubmissionRecord],
        knowledge: ProjectKnowledge,
    ) -> list[Task]:
        version = self._maker.version(knowledge)
        known = {
            item.task_id
            for item in proposed_tasks(self._journal, self._project_id)
            if item.version == version and item.is_stored
        }
        wanted = []
        for task in tasks:
            if task.is_labeled or task.task_id in submitted:
                self._summary.n_labelled += 1
            elif task.task_id in known:
                self._summary.n_known += 1
            else:
                wanted.append(task)
        return wanted

    def _propose(self, knowledge: ProjectKnowledge, task: Task) -> None:
        for seen in self._seen(task):
            prediction = self._maker.propose(knowledge, seen, self._config, is_stored=True)
            if prediction.regions:
                # Stored first: after a crash between the two, a task gets them twice, never not.
                self._client.store_prediction(
                    task.task_id,
                    prediction.regions,
                    score=round(prediction.record.score, 4),
                    model_version=prediction.record.version,
                )
            self._maker.keep(self._project_id, prediction)
            self._summary.n_regions += len(prediction.record.regions)
            self._summary.n_proposed += bool(prediction.regions)
            self._summary.n_empty += not prediction.regions

    def _seen(self, task: Task) -> Iterator[SeenTask]:
        """The task with its image; nothing, and a line in the log, where that cannot be read."""
        ref = TaskRef(task_id=task.task_id, project_id=self._project_id, data=task.data)
        try:
            yield self._maker.see(ref, self._config)
        except (ImageError, ProtocolError) as error:
            self._summary.n_failed += 1
            logger.warning("task %s: %s", task.task_id, error)
