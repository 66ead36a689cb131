"""Who computes when: one request an object at a time, the newest wins, few decodes at once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

Check = Callable[[], object]
"""Raises what should end the waiting."""

LOOK_S = 0.5
"""Between two checks of a request that waits."""


@contextmanager
def _acquired(lock: threading.Lock | threading.Semaphore, check: Check) -> Iterator[None]:
    while not lock.acquire(timeout=LOOK_S):
        check()
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True, slots=True, eq=False)
class _Ticket:
    number: int
    click_ids: frozenset[str]

    def is_superseded_by(self, other: _Ticket) -> bool:
        """Whether the other came later and asks for everything that this one asks for."""
        return other.number > self.number and other.click_ids >= self.click_ids


@dataclass(slots=True)
class _Line:
    """The requests of one object: at most one at work, the others waiting."""

    at_work: threading.Lock = field(default_factory=threading.Lock)
    present: int = 0
    waiting: list[_Ticket] = field(default_factory=list)
    answered: list[_Ticket] = field(default_factory=list)


class Turns(Protocol):
    """Who computes an object's next answer; see :class:`NewestWinsQueue`."""

    def take(
        self, key: Hashable, click_ids: frozenset[str], check: Check = lambda: None
    ) -> AbstractContextManager[bool]:
        """Wait for the object's turn; False where the answer is not wanted any more."""

    def __len__(self) -> int:
        """Requests at work and waiting in this process."""


class NewestWinsQueue:
    """Lets the requests of one object through one by one, those of different objects at once."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count()

    @contextmanager
    def take(
        self, key: Hashable, click_ids: frozenset[str], check: Check = lambda: None
    ) -> Iterator[bool]:
        """Wait for the object's turn; yields False where the answer is not wanted any more.

        That is so when a later request with at least the same clicks waits already, or was
        answered meanwhile: Label Studio shows the newest answer only.

        Args:
            key: The object.
            click_ids: The ids of the request's clicks.
            check: Called now and then while it waits; what it raises ends the waiting.
        """
        line, ticket = self._join(key, click_ids)
        try:
            with _acquired(line.at_work, check):
                with self._lock:
                    later = (*line.waiting, *line.answered)
                    is_wanted = not any(ticket.is_superseded_by(other) for other in later)
                    line.waiting.remove(ticket)
                yield is_wanted
                with self._lock:
                    line.answered.append(ticket)
        finally:
            self._leave(key, line, ticket)

    def __len__(self) -> int:
        """Requests at work and waiting, of all objects."""
        with self._lock:
            return sum(line.present for line in self._lines.values())

    def _join(self, key: Hashable, click_ids: frozenset[str]) -> tuple[_Line, _Ticket]:
        with self._lock:
            line = self._lines.setdefault(key, _Line())
            ticket = _Ticket(next(self._numbers), click_ids)
            line.present += 1
            line.waiting.append(ticket)
        return line, ticket

    def _leave(self, key: Hashable, line: _Line, ticket: _Ticket) -> None:
        with self._lock:
            if ticket in line.waiting:
                line.waiting.remove(ticket)
            line.present -= 1
            if not line.present:
                del self._lines[key]


class Slots:
    """A bounded number of computations at once.

    Args:
        n_slots: How many.
    """

    def __init__(self, n_slots: int) -> None:
        self._free = threading.BoundedSemaphore(n_slots)

    @contextmanager
    def held(self, check: Check = lambda: None) -> Iterator[None]:
        """Compute in a slot; waits for a free one, calling ``check`` now and then."""
        with _acquired(self._free, check):
            yield

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Inside of :meth:`held`: give the slot away while waiting for something else."""
        self._free.release()
        try:
            yield
        finally:
            self._free.acquire()
