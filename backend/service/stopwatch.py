"""How long the stages of one request took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from backend.traces import Attributes, NoTraces, Traces


class Stopwatch:
    """Milliseconds by the name of the stage; for one thread.

    A stage that is entered inside of another one pauses the outer, so that the stages add up to
    no more than the total; one that is entered again goes on counting.

    Args:
        traces: Told of every stage; None: nobody is.
    """

    def __init__(self, traces: Traces | None = None) -> None:
        self._traces = NoTraces() if traces is None else traces
        self._started = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}
        self._open: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what runs inside."""
        self._charge()
        self._stages.setdefault(name, 0.0)
        self._open.append(name)
        try:
            with self._traces.span(name):
                yield
        finally:
            self._charge()
            self._open.pop()

    def tell(self, attributes: Attributes) -> None:
        """Say of what is measured what it is; traces show it."""
        self._traces.tell(attributes)

    def total_ms(self) -> float:
        """Milliseconds since the stopwatch was made."""
        return 1000 * (time.perf_counter() - self._started)

    def stages_ms(self) -> dict[str, float]:
        """Milliseconds of every stage so far, in the order of their first start."""
        return {name: round(value, 3) for name, value in self._stages.items()}

    def __str__(self) -> str:
        parts = [f"{name} {value:.0f}" for name, value in self._stages.items()]
        return f"{self.total_ms():.0f} ms ({', '.join(parts)})"

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._open:
            self._stages[self._open[-1]] += 1000 * (now - self._last)
        self._last = now
