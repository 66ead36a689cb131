"""The service: Label Studio's questions and their answers; no HTTP, no global state."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from adaptation.errors import ProtocolError
from adaptation.journal import Journal, SpoolingJournal
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import InteractivePredictor
from backend.embeddings.encoder import Encoder
from backend.embeddings.prefetch import Prefetcher
from backend.images.album_writer import AlbumWriter
from backend.insights.keeper import RowKeeper
from backend.insights.scores import CalibratedScores
from backend.label_studio.client import LabelStudioClient
from backend.learning.commands import SessionCommand, ask
from backend.learning.interface import Learning, NoLearning
from backend.metrics import Metrics
from backend.proposals.online import OnlineProposals
from backend.protocol import (
    MAX_MASK_PIXELS,
    parse_label_config,
    parse_predict,
    parse_setup,
    render_nothing,
    render_prediction,
)
from backend.service.base_watcher import BaseWatcher
from backend.service.clicks import ClickHandler, ClickOptions, ServedModel
from backend.service.missed import MissedAnnotations
from backend.service.patience import BusyError, Patience
from backend.service.prompt_state import PromptState
from backend.service.stopwatch import Stopwatch
from backend.service.submissions import SubmissionHandler
from backend.service.unshown import UnshownMasks
from backend.traces import NoTraces, Traces

__all__ = ["BusyError", "SegmentationService"]

logger = logging.getLogger(__name__)


class SegmentationService:
    """Answers Label Studio.  Safe to share between threads.

    Args:
        interaction: The click path, with its model.
        encoder: Gives embeddings of tasks' images.
        journal: Keeps everything; the service closes it.
        intake: Keeps what arrives also while the journal fails; the service closes it.
        memory: Of the objects in work.
        ahead: Encodes what will be clicked on next; None: nothing is encoded ahead.
        learning: Gives weights and learns.
        keeper: Keeps the images that were clicked on; None: they are not kept.
        options: How clicks are answered.
        max_waiting: Clicks in work and waiting, of all objects; more are refused.
        proposals: Proposes regions in opened tasks; None: nothing is proposed.
        max_pixels: Of an image; submitted masks of larger ones are not decoded.
        client: Tells what was submitted while nobody listened; None: nobody is asked.
        metrics: Told of clicks, submissions and what serves; None: nobody is.
        traces: Told of every request to predict; None: nobody is.
        rows: Keeps the insights up to date; the service starts and stops it.
        is_worker: Whether a learner in another process takes in what is kept here.
        scores: Says what masks are to be expected to be worth; None: the decoder's own word.
    """

    def __init__(
        self,
        *,
        interaction: InteractivePredictor,
        encoder: Encoder,
        journal: Journal,
        intake: SpoolingJournal,
        memory: PromptState,
        ahead: Prefetcher | None = None,
        learning: Learning | None = None,
        keeper: AlbumWriter | None = None,
        options: ClickOptions | None = None,
        max_waiting: int = 28,
        proposals: OnlineProposals | None = None,
        max_pixels: int = MAX_MASK_PIXELS,
        client: LabelStudioClient | None = None,
        metrics: Metrics | None = None,
        traces: Traces | None = None,
        rows: RowKeeper | None = None,
        is_worker: bool = False,
        scores: CalibratedScores | None = None,
    ) -> None:
        self._traces = NoTraces() if traces is None else traces
        self.metrics = Metrics() if metrics is None else metrics
        """What is counted of this service."""
        self.scores = scores
        """What masks are to be expected to be worth; None where nothing is counted."""
        learning = learning or NoLearning()
        self._journal, self._intake, self._ahead = journal, intake, ahead
        self._learning, self._keeper, self._memory = learning, keeper, memory
        self._proposals = proposals
        self._submissions = SubmissionHandler(
            journal,
            intake,
            memory,
            learning,
            max_pixels,
            None if proposals is None else proposals.finished,
            self.metrics,
            is_worker,
        )
        self._unshown = UnshownMasks(journal.append_candidates)
        self._clicks = ClickHandler(
            served=ServedModel(interaction=interaction, learning=learning),
            encoder=encoder,
            journal=intake,
            memory=memory,
            ahead=ahead,
            unshown=self._unshown,
            link_late=self._submissions.take_up,
            keeper=keeper,
            options=options or ClickOptions(),
            metrics=self.metrics,
            scores=scores,
        )
        self._tell_what_serves()
        self._submissions.take_up()
        self._missed: MissedAnnotations | None = None
        if client is not None:
            self._missed = MissedAnnotations(client, journal, self._submissions.receive)
        intake.start(self._submissions.take_up, self._unshown.retry, self._look_for_missed)
        self._look_for_missed()
        self._max_waiting = max_waiting
        self._places = threading.BoundedSemaphore(max_waiting)
        self._watcher: BaseWatcher | None = None
        self._rows = rows
        if rows is not None:
            rows.start()

    @property
    def model_version(self) -> str:
        """Name and digest of the model, as Label Studio keeps them with predictions."""
        return self._clicks.served.version

    @property
    def served(self) -> ServedModel:
        """What answers clicks now."""
        return self._clicks.served

    @property
    def journal(self) -> Journal:
        """What is kept of everything; for reading."""
        return self._journal

    @property
    def is_spooling(self) -> bool:
        """Whether clicks and submissions are kept, but not in the journal yet."""
        return self._intake.is_spooling

    def swap(self, served: ServedModel, timeout_s: float = 10.0) -> None:
        """Answer with another base decoder from now on.

        Clicks in work finish with the one they began with; its learning ends behind them.
        """
        before = self._learning
        self._clicks.served, self._learning = served, served.learning
        self._tell_what_serves()
        self._submissions.learn_with(served.learning)
        before.stop(timeout_s)

    def follow(self, watcher: BaseWatcher, served: Callable[[PromptableSam], ServedModel]) -> None:
        """Take up every base decoder that a watcher finds, until the service is closed.

        Args:
            watcher: The service stops it.
            served: Makes what answers clicks with a model.
        """
        self._watcher = watcher
        watcher.start(lambda sam: self.swap(served(sam)))

    def setup(self, body: object) -> dict[str, Any]:
        """A project was connected or opened: says the version, logs what is wrong with its config.

        A useless labeling config is no error here: Label Studio would refuse the connection, and
        the config can be mended afterwards.
        """
        request = parse_setup(body)
        for problem in _config_problems(request.label_config_text):
            logger.warning("labeling config of project %s: %s", request.project_id, problem)
        return {"model_version": self.model_version}

    def predict(self, body: object, is_gone: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """Answer clicks; where tasks were only opened, have their images encoded.

        Args:
            body: The request's JSON.
            is_gone: Whether its client has hung up.

        Raises:
            StropError: See `adaptation.errors` for what becomes of each kind; BusyError.
        """
        with self._traces.span("predict"):
            return self._predict(body, Stopwatch(self._traces), Patience(is_gone))

    def _predict(self, body: object, watch: Stopwatch, patience: Patience) -> dict[str, Any]:
        with watch.stage("parse"):
            request = parse_predict(body)
        if request.clicked is not None:
            with self._admitted():
                return self._clicks.answer(request, request.clicked, watch, patience)
        if not request.is_interactive and self._ahead is not None:
            self._ahead.opened(request)
        if not request.is_interactive and self._proposals is not None:
            proposed = self._proposals.opened(request)
            if proposed is not None:
                record = proposed.record
                return render_prediction(proposed.regions, record.score, record.version)
        return render_nothing(request, self.model_version)

    def webhook(self, body: object) -> None:
        """Keep what was submitted; it is durable when this returns.

        Raises:
            ProtocolError: It is no event of Label Studio.
            StoreError: It cannot be kept.
        """
        self._submissions.receive(body)

    def ask(self, command: SessionCommand) -> None:
        """Ask something of a project's sessions; it is durable when this returns.

        Raises:
            StoreError: It cannot be kept.
        """
        ask(self._journal, command)
        self._learning.asked()

    def drain(self, timeout_s: float = 60.0) -> None:
        """Wait for what runs behind the replies: the journal has all, learning what was submitted.

        Raises:
            TimeoutError: It took longer.
        """
        self._unshown.drain(timeout_s)
        self._submissions.drain(timeout_s)

    def _look_for_missed(self) -> None:
        if self._missed is not None:
            self._missed.look()

    def close(self, timeout_s: float = 10.0) -> None:
        """Drop what was to be encoded ahead, finish what was submitted, close the journal."""
        if self._watcher is not None:
            self._watcher.stop(timeout_s)
        if self._ahead is not None:
            self._ahead.stop(timeout_s)
        if self._missed is not None:
            self._missed.stop(timeout_s)
        if self._rows is not None:
            self._rows.stop(timeout_s)
        self._intake.close(timeout_s)
        self._submissions.close()
        self._unshown.close()
        if self._proposals is not None:
            self._proposals.stop()
        self._memory.states.close()
        self._learning.stop(timeout_s)
        if self._keeper is not None:
            self._keeper.stop()
        self._journal.close()
        self._traces.stop(timeout_s)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Refuse a click at once when too many wait: health checks need threads too."""
        if not self._places.acquire(blocking=False):
            self.metrics.clicks_refused.inc()
            raise BusyError(
                f"{self._max_waiting} clicks are waiting already: click again in a moment, or "
                "raise server.threads."
            )
        try:
            with self.metrics.click_in_progress():
                yield
        finally:
            self._places.release()

    def _tell_what_serves(self) -> None:
        sam = self.served.sam
        self.metrics.serves(sam.model_id, sam.decoder_id)


def _config_problems(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    try:
        return parse_label_config(text).problems()
    except ProtocolError as error:
        return (str(error),)
