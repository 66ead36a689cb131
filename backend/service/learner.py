"""Everything behind the replies, in a process that answers nothing: `strop learn`.

It looks into the journal several times a second, and works when there is something new: kept
webhooks are taken in and linked, sessions are trained, what people asked of sessions is done.  At
the start, and after an outage, Label Studio is asked for what nobody heard of.
"""

from __future__ import annotations

from collections.abc import Callable

from adaptation.journal import Journal, SpoolingJournal, Waiting
from adaptation.models.sam import PromptableSam
from backend.insights.keeper import RowKeeper
from backend.label_studio.client import LabelStudioClient
from backend.learning.commands import ASKED, unanswered
from backend.learning.interface import Learning
from backend.metrics import Metrics
from backend.protocol import MAX_MASK_PIXELS
from backend.service.base_watcher import BaseWatcher
from backend.service.missed import MissedAnnotations
from backend.service.prompt_state import PromptState
from backend.service.submissions import SubmissionHandler

SERVING_STOPS_S = 10.0
"""Learning upon a base decoder that another one has replaced ends within this time."""


class LearnerService:
    """Takes in, links, and has sessions trained.  Used by one thread.

    Args:
        journal: What there is to do, and where it goes; the service closes it.
        intake: Keeps missed annotations also while the journal fails; the service closes it.
        memory: Of the objects in work, shared with who answers clicks; those of a submitted task
            are forgotten.
        learning: Trains sessions.
        max_pixels: Of an image whose masks are decoded.
        client: Tells what was submitted while nobody listened; None: nobody is asked.
        metrics: Told of what is taken in; None: nobody is.
        rows: Keeps the insights up to date; None: they are counted when somebody looks.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        intake: SpoolingJournal,
        memory: PromptState,
        learning: Learning,
        max_pixels: int = MAX_MASK_PIXELS,
        client: LabelStudioClient | None = None,
        metrics: Metrics | None = None,
        rows: RowKeeper | None = None,
    ) -> None:
        self._journal, self._intake, self._memory = journal, intake, memory
        self._learning, self._rows = learning, rows
        self._submissions = SubmissionHandler(
            journal, intake, memory, learning, max_pixels, metrics=metrics
        )
        self._missed: MissedAnnotations | None = None
        if client is not None:
            self._missed = MissedAnnotations(client, journal, self._submissions.receive)
        self._watcher: BaseWatcher | None = None
        self._seen = Waiting(0, 0, 0, 0)
        self._submissions.take_up()
        intake.start(self._submissions.take_up, self._look_for_missed)
        self._look_for_missed()
        if rows is not None:
            rows.start()

    def follow(self, watcher: BaseWatcher, learning: Callable[[PromptableSam], Learning]) -> None:
        """Learn upon every base decoder that a watcher finds, until the service is closed.

        Args:
            watcher: The service stops it.
            learning: Makes what learns upon a model.
        """
        self._watcher = watcher
        watcher.start(lambda sam: self._learn_with(learning(sam)))

    def look(self) -> None:
        """Begin what has to be done since the last look; returns at once.

        Raises:
            StoreError: The journal cannot be read.
        """
        found, before = self._journal.waiting(ASKED), self._seen
        if found == before:
            return
        if found.n_deliveries or found.n_unlinked:
            self._submissions.take_up()
        if found.last_event != before.last_event and unanswered(self._journal):
            self._learning.asked()
        self._seen = found

    def close(self, timeout_s: float = 10.0) -> None:
        """Finish what was begun, close the journal."""
        for helper in (self._watcher, self._missed, self._rows):
            if helper is not None:
                helper.stop(timeout_s)
        self._intake.close(timeout_s)
        self._submissions.close()
        self._learning.stop(timeout_s)
        self._memory.states.close()
        self._journal.close()

    def _learn_with(self, learning: Learning) -> None:
        before, self._learning = self._learning, learning
        self._submissions.learn_with(learning)
        before.stop(SERVING_STOPS_S)

    def _look_for_missed(self) -> None:
        if self._missed is not None:
            self._missed.look()
