"""A learner as a process: it waits for the lease, works under it, and ends when it is told to.

The lease is renewed by the thread that looks into the journal, so that a learner which does nothing
any more loses it.  Another learner that takes it over makes this one wait again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

from adaptation.errors import StoreError
from adaptation.journal import Journal, Lease, LeaseLostError
from adaptation.models.sam import PromptableSam
from backend.server.allocator import share_arenas, start_trimming
from backend.settings import Settings
from backend.wiring import load_sam
from backend.wiring.learner import build_learner

logger = logging.getLogger(__name__)

LEASE = "learning"

LOOK_S = 0.2
"""Between two looks into the journal."""

ASK_S = 1.0
"""Between two tries to get the lease at most."""

CLOSE_S = 5.0
"""What is being trained has this long to end."""


def holder_name() -> str:
    """Another one for each learner; says which machine and process it is, for people."""
    return f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"


class LearnerProcess:
    """Learns until it is told to stop.

    Args:
        settings: All of them.
        holder: Its name among the learners of the journal.
        ended: The name of a learner that is known to have ended, whose lease is free.
        beat: Called whenever it has looked, so that somebody may see that it does.
        is_orphan: Whether the process that started it has ended.
    """

    def __init__(
        self,
        settings: Settings,
        holder: str,
        *,
        ended: str | None = None,
        beat: Callable[[], object] = lambda: None,
        is_orphan: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings, self._holder, self._ended = settings, holder, ended
        self._beat, self._is_orphan = beat, is_orphan
        self._is_stopping = threading.Event()

    def stop(self) -> None:
        """End after what is being done; may be called by a signal's handler."""
        self._is_stopping.set()

    def run(self) -> None:
        """Learn.

        Raises:
            StropError: The model does not load, or the journal does not open.
        """
        share_arenas()
        model = load_sam(self._settings)
        start_trimming()
        while self._goes_on(0):
            journal = Journal(self._settings.journal_url)
            lease = self._wait_for_lease(journal)
            if lease is None:
                journal.close()
            else:
                self._work(model, journal, lease)

    def _wait_for_lease(self, journal: Journal) -> Lease | None:
        """The lease; None where it is told to stop before it gets it."""
        ttl_s, is_told = self._settings.learning.lease_s, False
        while True:
            lease = self._taken(journal, ttl_s)
            if lease is not None:
                return lease
            if not is_told:
                logger.info("another learner is at work: waiting for it to end")
                is_told = True
            if not self._goes_on(min(ASK_S, ttl_s / 4)):
                return None

    def _taken(self, journal: Journal, ttl_s: float) -> Lease | None:
        try:
            return journal.take_lease(LEASE, self._holder, ttl_s, self._ended)
        except StoreError as error:
            logger.warning("the lease is asked for again: %s", error)
            return None

    def _work(self, model: PromptableSam, journal: Journal, lease: Lease) -> None:
        """Learn until it is told to stop, or another learner has the lease."""
        journal.fence(lease)
        service = build_learner(self._settings, model, journal, lease)
        logger.info("learning, lease %d", lease.token)
        ttl_s, renewed_at = self._settings.learning.lease_s, time.monotonic()
        try:
            while self._goes_on(LOOK_S):
                with _patient("what waits is looked at again"):
                    service.look()
                self._beat()
                if time.monotonic() - renewed_at > ttl_s / 4:
                    with _patient("the lease is renewed again"):
                        journal.renew_lease(lease, ttl_s)
                        renewed_at = time.monotonic()
        except LeaseLostError as error:
            logger.warning("another learner has taken over: %s", error)
        finally:
            service.close(CLOSE_S)
            with contextlib.suppress(StoreError):
                journal.return_lease(lease)
            journal.close()

    def _goes_on(self, wait_s: float) -> bool:
        """Wait; whether to go on then."""
        self._beat()
        is_told = self._is_stopping.wait(wait_s)
        return not is_told and not self._is_orphan()


@contextlib.contextmanager
def _patient(what: str) -> Iterator[None]:
    """A journal that fails is asked again; one that refuses is not."""
    try:
        yield
    except LeaseLostError:
        raise
    except StoreError as error:
        logger.warning("%s: %s", what, error)


def stop_on_signals(process: LearnerProcess) -> None:
    """End on SIGTERM, and where a person started it on Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: process.stop())
