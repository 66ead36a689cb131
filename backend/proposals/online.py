"""Proposals while people label: made behind the replies, answered to tasks as they are opened.

One thread of low priority does everything.  An opened task is answered at once, with what is ready
or with nothing; what is ready was made for the tasks after the one that was opened or submitted
last.  Nothing here raises: without proposals, labeling goes on as it was.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import Lock

from adaptation.errors import StropError
from adaptation.journal import Journal, SubmissionRecord
from backend.label_studio.client import LabelStudioClient
from backend.proposals.events import judge, rejected_masks
from backend.proposals.knowledge import ProjectKnowledge
from backend.proposals.maker import Prediction, ProposalMaker
from backend.protocol import LabelConfig, PredictRequest, TaskRef
from backend.threads import limit_torch_threads, lower_priority

logger = logging.getLogger(__name__)

NICENESS = 8
MAX_READY = 256
MAX_TASKS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A task as it was opened last, with its project's config of that moment."""

    task: TaskRef
    config: LabelConfig


class OnlineProposals:
    """Makes and gives proposals.  Safe to share between threads.

    Args:
        maker: Makes them.
        journal: Keeps them, and what becomes of them.
        client: Tells the tasks after the opened one; None: only an opened task itself is looked
            at, and its proposals are there when it is opened again.
        next_tasks: How many tasks after the opened one.
        n_threads: Cores of one computation.
    """

    def __init__(
        self,
        maker: ProposalMaker,
        journal: Journal,
        client: LabelStudioClient | None = None,
        *,
        next_tasks: int = 3,
        n_threads: int = 1,
    ) -> None:
        self._maker, self._journal = maker, journal
        self._client, self._next_tasks = client, next_tasks
        self._lock = Lock()
        self._ready: OrderedDict[tuple[str, str], Prediction] = OrderedDict()
        self._opened: OrderedDict[tuple[str, str], _Opened] = OrderedDict()
        self._knowledge: dict[str, ProjectKnowledge] = {}
        self._worker = ThreadPoolExecutor(
            1, "proposals", initializer=_slow_down, initargs=(n_threads,)
        )

    def opened(self, request: PredictRequest) -> Prediction | None:
        """A task was opened: what is ready for it, or None; returns at once."""
        if len(request.tasks) != 1:
            return None
        (task,) = request.tasks
        key = task.project_id, task.task_id
        with self._lock:
            self._opened[key] = _Opened(task=task, config=request.label_config)
            self._opened.move_to_end(key)
            while len(self._opened) > MAX_TASKS:
                self._opened.popitem(last=False)
            ready = self._ready.pop(key, None)
        if ready is not None:
            # The journal's order is what annotators saw: offered when it is given, not when made.
            self._run(lambda: self._maker.keep(task.project_id, ready))
        self._run(lambda: self._look_ahead(task, request.label_config, itself=ready is None))
        return ready

    def finished(self, submission: SubmissionRecord) -> None:
        """An annotation was submitted: what was proposed is judged by it; returns at once."""
        self._run(lambda: self._learn(submission))

    def wait_idle(self, timeout_s: float) -> None:
        """Wait until all that was asked for so far is done; TimeoutError after the time."""
        self._worker.submit(lambda: None).result(timeout_s)

    def stop(self) -> None:
        """Drop what waits; returns when what runs has ended."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    # In the worker --------------------------------------------------------------------------------

    def _run(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except StropError as error:
                logger.warning("no proposals: %s", error)
            except Exception:
                logger.exception("no proposals")

        try:
            self._worker.submit(guarded)
        except RuntimeError:
            logger.debug("the service is stopping: no more proposals")

    def _learn(self, submission: SubmissionRecord) -> None:
        judge(self._journal, submission)
        if submission.task_id is None or submission.was_cancelled or submission.event == "deleted":
            return
        project_id = submission.project_id
        with self._lock:
            opened = self._opened.get((project_id, submission.task_id))
            # What was made before is made again with what is known now.
            for key in [k for k in self._ready if k[0] == project_id]:
                del self._ready[key]
        if opened is None:
            return
        seen = self._maker.see(opened.task, opened.config)
        knowledge = self._of(project_id)
        knowledge.see(seen.image)
        rejected = rejected_masks(self._journal, project_id).get(submission.task_id, ())
        self._maker.learn(knowledge, seen, submission, rejected)
        self._look_ahead(opened.task, opened.config, itself=False)

    def _look_ahead(self, task: TaskRef, config: LabelConfig, *, itself: bool) -> None:
        for ahead in ([task] if itself else []) + self._after(task):
            self._make(ahead, config)

    def _make(self, task: TaskRef, config: LabelConfig) -> None:
        key = task.project_id, task.task_id
        with self._lock:
            is_ready = key in self._ready
        if is_ready or self._is_labelled(task):
            return
        seen = self._maker.see(task, config)
        knowledge = self._of(task.project_id)
        knowledge.see(seen.image)
        made = self._maker.propose(knowledge, seen, config, is_stored=False)
        if not made.regions:
            return
        with self._lock:
            self._ready[key] = made
            while len(self._ready) > MAX_READY:
                self._ready.popitem(last=False)

    def _is_labelled(self, task: TaskRef) -> bool:
        """Whether somebody has submitted it: proposals would only be in the way."""
        known = self._journal.submissions(task.project_id, task.task_id, current_only=True)
        return any(True for _ in known)

    def _after(self, task: TaskRef) -> list[TaskRef]:
        if self._client is None or not self._next_tasks:
            return []
        tasks = self._client.tasks(
            task.project_id,
            after_id=task.task_id,
            only_unlabeled=True,
            page_size=self._next_tasks,
        )
        return [
            TaskRef(task_id=t.task_id, project_id=task.project_id, data=t.data)
            for t in islice(tasks, self._next_tasks)
        ]

    def _of(self, project_id: str) -> ProjectKnowledge:
        """Used by the worker alone."""
        if project_id not in self._knowledge:
            self._knowledge[project_id] = self._maker.knowledge()
        return self._knowledge[project_id]


def _slow_down(n_threads: int) -> None:
    limit_torch_threads(n_threads)
    lower_priority(NICENESS)
