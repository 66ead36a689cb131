"""Masks that the decoder made and nobody saw: drawn and kept behind the reply.

What people were shown is in the journal before they see it.  The other masks of a click are there
for those who tune decoders; they follow within a moment, and where the process is killed in that
moment, they are missing.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError

from adaptation.errors import StoreError
from adaptation.journal import CandidateRecord
from backend.threads import limit_torch_threads, lower_priority

logger = logging.getLogger(__name__)

MAX_WAITING = 8
"""Clicks whose masks wait to be drawn: each holds the decoder's output, some ten megabytes."""

MAX_UNKEPT = 1000
"""Clicks whose masks are drawn, a few kilobytes each, and wait for a journal that fails."""

NICENESS = 5

Draw = Callable[[], Sequence[CandidateRecord]]
Keep = Callable[[str, Sequence[CandidateRecord]], bool]


class UnshownMasks:
    """Draws masks and keeps them, one click after the other.  Safe to share between threads.

    Args:
        keep: Writes the masks of a request down; False where the request is not there yet.
    """

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._places = threading.BoundedSemaphore(MAX_WAITING)
        self._unkept: deque[tuple[str, Sequence[CandidateRecord]]] = deque()
        self._behind = ThreadPoolExecutor(
            1, thread_name_prefix="masks", initializer=_give_way_to_clicks
        )

    def later(self, request_id: str, draw: Draw) -> None:
        """Have a request's further masks drawn and kept; returns at once.

        Where too many wait already they are drawn here and now, so that none is lost.
        """
        if self._places.acquire(blocking=False):
            self._behind.submit(self._work, request_id, draw)
            return
        masks = draw()
        self._behind.submit(self._take, request_id, masks)

    def retry(self) -> None:
        """Try what the journal did not take; returns at once."""
        self._behind.submit(self._keep_all)

    def drain(self, timeout_s: float = 60.0) -> None:
        """Wait until what waits now is done; TimeoutError where it took longer."""
        try:
            self._behind.submit(lambda: None).result(timeout_s)
        except FutureTimeoutError:  # TimeoutError itself from Python 3.11 on
            raise TimeoutError(f"Masks were still drawn after {timeout_s:g} s.") from None

    def close(self) -> None:
        """Finish what waits."""
        self._behind.shutdown(wait=True)
        if self._unkept:
            logger.error("masks of %d clicks that were not shown are lost", len(self._unkept))

    # Behind the reply, on the one thread ----------------------------------------------------------

    def _work(self, request_id: str, draw: Draw) -> None:
        try:
            masks = draw()
        except Exception:
            logger.exception("the masks of click %s that were not shown are not kept", request_id)
            return
        finally:
            self._places.release()
        self._take(request_id, masks)

    def _take(self, request_id: str, masks: Sequence[CandidateRecord]) -> None:
        if len(self._unkept) >= MAX_UNKEPT:
            lost, _ = self._unkept.popleft()
            logger.error("the masks of click %s that were not shown are not kept", lost)
        self._unkept.append((request_id, masks))
        self._keep_all()

    def _keep_all(self) -> None:
        """Keep what the journal takes; the rest waits, since its click may be in the spool."""
        waiting, self._unkept = self._unkept, deque()
        while waiting:
            request_id, masks = waiting.popleft()
            try:
                if not self._keep(request_id, masks):
                    self._unkept.append((request_id, masks))
            except StoreError as error:
                logger.debug("masks that were not shown wait for the journal: %s", error)
                self._unkept.extend([(request_id, masks), *waiting])
                return
            except Exception:
                logger.exception("the masks of click %s that were not shown are lost", request_id)


def _give_way_to_clicks() -> None:
    limit_torch_threads(1)
    lower_priority(NICENESS)
