"""The time of day that never goes back while a process runs.

Which clicks came before a submission is told by their times, where a region lost its id.  A clock
that is set back by an hour in between (by hand, by a virtual machine that is moved) would turn that
round, and what was clicked would count as painted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone


class SteadyClock:
    """UTC as the machine tells it, but no less than at the start and as long as has passed since.

    Set back, it goes on from where it was until the machine's clock has caught up; set forward, it
    follows at once, which is also what happens after a machine slept.  Safe to share between
    threads; processes that started before the clock was set back agree with one another.

    Args:
        wall: Seconds since 1970.
        monotonic: Seconds since some moment, never less than before.
    """

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall, self._monotonic = wall, monotonic
        self._lock = threading.Lock()
        self._ahead_s = wall() - monotonic()

    def now(self) -> datetime:
        """The time now, in UTC."""
        with self._lock:
            passed = self._monotonic()
            self._ahead_s = max(self._ahead_s, self._wall() - passed)
            return datetime.fromtimestamp(self._ahead_s + passed, timezone.utc)
