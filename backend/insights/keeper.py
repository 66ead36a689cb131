"""Keeps the rows up to date behind everything else, so that a page has next to nothing to count."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from adaptation.errors import StropError
from backend.insights.store import FactStore
from backend.threads import lower_priority

logger = logging.getLogger(__name__)

EVERY_S = 15.0
"""Between two looks at the journal."""

STRETCH_S = 2.0
"""Counted at a stretch, before it is looked whether to end."""

NICENESS = 10


class RowKeeper:
    """Brings the rows up to date every few seconds, on a thread of its own.

    Args:
        store: Of the rows, for this thread alone; others open the file themselves.
        then: Done with the rows after each look, and once before the first.
        every_s: Seconds between two looks.
        counts: Whether this process counts, or reads what another one has counted.
    """

    def __init__(
        self,
        store: FactStore,
        then: Sequence[Callable[[], object]] = (),
        every_s: float = EVERY_S,
        *,
        counts: bool = True,
    ) -> None:
        self._store, self._then, self._every_s = store, then, every_s
        self._counts = counts
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="insights", daemon=True)

    def start(self) -> None:
        """Begin; the first look comes after the first wait."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """End; what is not counted yet is counted by whoever looks next."""
        self._is_stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        lower_priority(NICENESS)
        self._do(self._follow)
        while not self._is_stopping.wait(self._every_s):
            self._do(self._look)

    def _look(self) -> None:
        while self._counts and self._store.refresh(STRETCH_S) and not self._is_stopping.is_set():
            pass
        self._follow()

    def _follow(self) -> None:
        for work in self._then:
            if not self._is_stopping.is_set():
                work()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except StropError as error:
            logger.warning("the insights are not brought up to date: %s", error)
        except Exception:
            logger.exception("the insights are not brought up to date")
