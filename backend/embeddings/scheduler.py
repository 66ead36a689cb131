"""Who may run the encoder now: clicks before prefetches, in the order of their coming."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass


class NoTurnError(Exception):
    """A request's turn did not come in the time that it had."""


@dataclass(slots=True, eq=False)
class Turn:
    """One request's place in the queue.

    Args:
        is_background: Whether every click goes before it; a click that joins changes that.
        has_begun: Whether its turn has come.
    """

    is_background: bool
    has_begun: bool = False


class EncodeGate:
    """Lets a few encodes run at once.

    Background turns begin only while no click waits, and never take the last place where there
    are several: a click then waits for no prefetch at all, and for one at most where there is
    a single place.

    Args:
        slots: How many may run at once.
    """

    def __init__(self, slots: int) -> None:
        if slots < 1:
            raise ValueError(f"a gate needs at least one slot, got {slots}")
        self._slots = slots
        self._background_slots = max(1, slots - 1)
        self._changed = threading.Condition()
        self._waiting: list[Turn] = []
        self._running = 0
        self._running_background = 0

    def __len__(self) -> int:
        """Requests that wait for their turn."""
        with self._changed:
            return len(self._waiting)

    @contextlib.contextmanager
    def take(self, turn: Turn, timeout_s: float | None = None) -> Iterator[None]:
        """Wait for the turn, and hold a slot inside the block.

        Raises:
            NoTurnError: It did not come in time; the block does not run.
        """
        was_background = self._begin(turn, timeout_s)
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._running_background -= was_background
                self._changed.notify_all()

    def promote(self, turn: Turn) -> None:
        """Let a background turn go with the clicks from now on."""
        with self._changed:
            if turn.is_background:
                turn.is_background = False
                self._changed.notify_all()

    def _begin(self, turn: Turn, timeout_s: float | None) -> bool:
        with self._changed:
            self._waiting.append(turn)
            try:
                if not self._changed.wait_for(lambda: self._may_begin(turn), timeout_s):
                    raise NoTurnError
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
            turn.has_begun = True
            self._running += 1
            self._running_background += turn.is_background
            return turn.is_background

    def _may_begin(self, turn: Turn) -> bool:
        if self._running >= self._slots:
            return False
        clicks = [other for other in self._waiting if not other.is_background]
        if clicks:
            return clicks[0] is turn
        return self._waiting[0] is turn and self._running_background < self._background_slots
