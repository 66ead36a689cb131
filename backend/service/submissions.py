"""The way of a submission: kept as it came, acknowledged, and only then understood.

Label Studio waits a second for a webhook, inside of the annotator's "Submit", and never asks
again.  So the message itself is made durable before the reply; its masks are decoded, kept and
linked with the clicks behind it, in order, on one thread.  What a crash leaves behind is taken up
at the next start; every step may be repeated.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from itertools import islice

from adaptation.errors import InputError, ProtocolError, StoreError, StropError
from adaptation.journal import Delivery, Journal, Receipt, SpoolingJournal, SubmissionRecord
from backend.learning.interface import Learning
from backend.metrics import Metrics
from backend.protocol import MAX_MASK_PIXELS, WebhookKind, parse_webhook
from backend.service.prompt_state import PromptState
from backend.service.records import submission_record

logger = logging.getLogger(__name__)

MAX_TRIES = 5
"""How often a message is tried, each time that another one arrives or Strop starts."""

BATCH = 100
"""Annotations of one message that are written at once: clicks wait for the journal meanwhile."""

SET_ASIDE = "delivery_set_aside"
"""Kind of the event that keeps a message which cannot be taken in."""


class SubmissionHandler:
    """Takes in what annotators submit, change and delete.  Safe to share between threads.

    Args:
        journal: Where it goes.
        intake: Keeps messages also while the journal fails.
        memory: Of the objects in work; those of a submitted task are forgotten.
        learning: Learns from it.
        finished: Told of every submission behind the reply, once it is kept; None: nobody is.
        max_pixels: Of an image whose masks are decoded.
        metrics: Told of every version that is new; None: nobody is.
        keeps_only: Whether another process takes in what is kept here.
    """

    def __init__(
        self,
        journal: Journal,
        intake: SpoolingJournal,
        memory: PromptState,
        learning: Learning,
        max_pixels: int = MAX_MASK_PIXELS,
        finished: Callable[[SubmissionRecord], None] | None = None,
        metrics: Metrics | None = None,
        keeps_only: bool = False,
    ) -> None:
        self._keeps_only = keeps_only
        self._metrics = Metrics() if metrics is None else metrics
        self._journal, self._intake = journal, intake
        self._memory, self._learning = memory, learning
        self._max_pixels = max_pixels
        self._finished = finished
        self._n_failures: Counter[int] = Counter()
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="submissions")

    def take_up(self) -> None:
        """Go on with what is unfinished: of the last run, or overtaken; returns at once."""
        self._run_behind(self._work_off)

    def receive(self, body: object) -> None:
        """Keep a webhook's message; when this returns it is durable.

        Events that submit nothing are acknowledged and forgotten.

        Raises:
            ProtocolError: It is no event of Label Studio.
            StoreError: It cannot be kept, neither in the journal nor in the spool.
        """
        event = parse_webhook(body)
        logger.info("webhook %s: project %s", event.action, event.project_id)
        if event.kind is WebhookKind.OTHER:
            logger.warning("webhook %s is not known, nothing of it is kept", event.action)
        if not event.submissions:
            return
        is_there = self._intake.keep_delivery(_as_text(body))
        for project_id, task_id in {(s.project_id, s.task_id) for s in event.submissions}:
            if project_id is not None and task_id is not None:
                self._memory.forget_task(project_id, task_id)
        if is_there:
            self._run_behind(self._work_off)

    def learn_with(self, learning: Learning) -> None:
        """From now on, this learns from what is submitted."""
        self._learning = learning

    def drain(self, timeout_s: float) -> None:
        """Wait until what is queued is done; TimeoutError where it took longer."""
        try:
            self._behind.submit(lambda: None).result(timeout_s)
        except FutureTimeoutError:  # TimeoutError itself from Python 3.11 on
            raise TimeoutError(f"Submissions were still at work after {timeout_s:g} s.") from None

    def close(self) -> None:
        """Finish what is queued."""
        self._behind.shutdown(wait=True)

    # Behind the reply ----------------------------------------------------------------------------

    def _run_behind(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except StoreError as error:
                logger.error("submissions wait for the journal: %s", error)
                self._intake.failed()
            except StropError as error:
                logger.error("submissions wait for the next one: %s", error)
            except Exception:
                logger.exception("submissions wait for the next one")

        if not self._keeps_only:
            self._behind.submit(guarded)

    def _work_off(self) -> None:
        for delivery in list(self._journal.deliveries()):
            try:
                self._take_in(delivery)
            except StoreError as error:
                self._journal.check_writable()  # raises where it is the journal that fails
                self._failed(delivery, error)
            except Exception as error:
                logger.exception("a submission failed; the next ones go on")
                self._failed(delivery, error)
        if self._journal.link_pending():
            self._learning.linked_late()

    def _take_in(self, delivery: Delivery) -> None:
        """Keep what a message says, link it and learn from it, and be done with it."""
        try:
            event = parse_webhook(json.loads(delivery.body))
        except (InputError, ValueError) as error:
            self._set_aside(delivery, error)
            return
        records = (
            submission_record(s, event.project_id or "", delivery.received_at, self._max_pixels)
            for s in event.submissions
        )
        while batch := list(islice(records, BATCH)):
            receipts = self._journal.append_submissions(batch)
            for record, receipt in zip(batch, receipts, strict=True):
                self._taken(record, receipt)
        self._finish(delivery)

    def _taken(self, record: SubmissionRecord, receipt: Receipt) -> None:
        """Link a submission that is in the journal, and learn from it."""
        logger.info(
            "annotation %s of task %s was %s with %d regions%s",
            record.annotation_id,
            record.task_id,
            record.event,
            len(record.regions),
            "" if receipt.is_new else "; it was known already",
        )
        if receipt.is_new:
            self._metrics.submissions.labels(record.event).inc()
            links = self._journal.link(record) if receipt.needs_link else []
            self._learning.finished(record, links)
            if self._finished is not None:
                self._finished(record)

    def _failed(self, delivery: Delivery, error: Exception) -> None:
        """Try a message again with the next ones, but not for ever."""
        self._n_failures[delivery.id] += 1
        if self._n_failures[delivery.id] >= MAX_TRIES:
            self._set_aside(delivery, error)
        else:
            logger.error("a submission is left for later: %s", error)

    def _set_aside(self, delivery: Delivery, error: Exception) -> None:
        """Keep a message that cannot be understood as an event, which is not tried again."""
        logger.error(
            "a webhook's message is set aside, as event %s of the journal: it cannot be taken in "
            "(%s: %s)",
            SET_ASIDE,
            type(error).__name__,
            error,
        )
        payload = {"body": delivery.body, "error": f"{type(error).__name__}: {error}"[:1000]}
        self._journal.append_event(SET_ASIDE, payload=payload)
        self._finish(delivery)

    def _finish(self, delivery: Delivery) -> None:
        self._n_failures.pop(delivery.id, None)
        self._journal.finish_delivery(delivery.id)


def _as_text(body: object) -> str:
    try:
        return json.dumps(body)
    except RecursionError:
        raise ProtocolError("The request's body nests too many lists and objects.") from None
