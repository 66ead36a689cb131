"""The way of a submission: kept as it came, acknowledged, and only then understood.

Label Studio waits a second for a webhook, inside of the annotator's "Submit", and never asks
again.  So the message itself is made durable before the reply; its masks are decoded, kept and
linked with the clicks behind it, in order, on one thread.  What a crash leaves behind is taken up
at the next start; every step may be repeated.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from adaptation.errors import InputError, StoreError, StropError
from adaptation.journal import Delivery, Journal, SubmissionRecord
from backend.learning.interface import Learning
from backend.protocol import parse_webhook
from backend.service.clicks import PromptState
from backend.service.records import submission_record

logger = logging.getLogger(__name__)


class SubmissionHandler:
    """Takes in what annotators submit, change and delete.  Safe to share between threads.

    Args:
        journal: Where it goes.
        memory: Of the objects in work; those of a submitted task are forgotten.
        learning: Learns from it.
        finished: Told of every submission behind the reply, once it is kept; None: nobody is.
    """

    def __init__(
        self,
        journal: Journal,
        memory: PromptState,
        learning: Learning,
        finished: Callable[[SubmissionRecord], None] | None = None,
    ) -> None:
        self._journal, self._memory, self._learning = journal, memory, learning
        self._finished = finished
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="submissions")

    def take_up(self) -> None:
        """Go on with what is unfinished: of the last run, or overtaken; returns at once."""
        self._run_behind(self._work_off)

    def receive(self, body: object) -> None:
        """Keep a webhook's message; when this returns it is durable.

        Events that submit nothing are acknowledged and forgotten.

        Raises:
            ProtocolError: It is no event of Label Studio.
            StoreError: It cannot be kept.
        """
        event = parse_webhook(body)
        logger.info("webhook %s: project %s", event.action, event.project_id)
        if not event.submissions:
            return
        self._journal.keep_delivery(json.dumps(body))
        for submission in event.submissions:
            if submission.project_id is not None and submission.task_id is not None:
                self._memory.forget_task(submission.project_id, submission.task_id)
        self._run_behind(self._work_off)

    def learn_with(self, learning: Learning) -> None:
        """From now on, this learns from what is submitted."""
        self._learning = learning

    def close(self) -> None:
        """Finish what is queued."""
        self._behind.shutdown(wait=True)

    # Behind the reply ----------------------------------------------------------------------------

    def _run_behind(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except StropError as error:
                logger.error("submissions wait for the next one: %s", error)
            except Exception:
                logger.exception("submissions wait for the next one")

        self._behind.submit(guarded)

    def _work_off(self) -> None:
        for delivery in list(self._journal.deliveries()):
            try:
                for record in _records(delivery):
                    self._keep(record)
                self._journal.finish_delivery(delivery.id)
            except StoreError:
                raise
            except Exception:
                logger.exception("a submission is left for later; the next ones go on")
        self._journal.link_pending()

    def _keep(self, record: SubmissionRecord) -> None:
        receipt = self._journal.append_submission(record)
        logger.info(
            "annotation %s of task %s was %s with %d regions%s",
            record.annotation_id,
            record.task_id,
            record.event,
            len(record.regions),
            "" if receipt.is_new else "; it was known already",
        )
        if receipt.is_new:
            self._learning.finished(record, self._journal.link(record))
            if self._finished is not None:
                self._finished(record)


def _records(delivery: Delivery) -> list[SubmissionRecord]:
    """What a message says; nothing where it cannot be understood, so that it blocks no other."""
    try:
        event = parse_webhook(json.loads(delivery.body))
        return [
            submission_record(submission, event.project_id or "", delivery.received_at)
            for submission in event.submissions
        ]
    except (InputError, ValueError) as error:
        logger.error("a webhook's message is dropped: %s", error)
        return []
