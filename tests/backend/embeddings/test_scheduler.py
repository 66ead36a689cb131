"""The gate before the encoder: clicks first, in their order, a few at once."""

from __future__ import annotations

import threading
from types import TracebackType

import pytest

from backend.embeddings.scheduler import EncodeGate, NoTurnError, Turn
from tests.backend.making import until


class Race:
    """Turns that arrive one after another, each holding its place until all may go.

    Args:
        slots: Places at the gate.
        kinds: The turns in the order of their coming: c for a click, b for background.
    """

    def __init__(self, slots: int, kinds: str) -> None:
        self.gate = EncodeGate(slots)
        self.turns = [Turn(is_background=kind == "b") for kind in kinds]
        self._begun: list[Turn] = []
        self._go = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(turn,)) for turn in self.turns]

    def __enter__(self) -> Race:
        for count, thread in enumerate(self._threads, start=1):
            thread.start()
            until(lambda count=count: self._arrived >= count)  # type: ignore[misc]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._go.set()
        for thread in self._threads:
            thread.join(10)

    @property
    def begun(self) -> list[int]:
        """Which turns have begun, in their order."""
        return [self.turns.index(turn) for turn in self._begun]

    @property
    def _arrived(self) -> int:
        return len(self._begun) + len(self.gate._waiting)

    def _run(self, turn: Turn) -> None:
        with self.gate.take(turn):
            self._begun.append(turn)
            assert self._go.wait(10)


@pytest.mark.parametrize(
    ("kinds", "begun"), [("cbbcc", [0, 3, 4, 1, 2]), ("bbc", [0, 2, 1]), ("bc", [0, 1])]
)
def test_clicks_go_before_prefetches_in_their_order(kinds: str, begun: list[int]) -> None:
    with Race(1, kinds) as race:
        assert race.begun == [0]
    assert race.begun == begun


def test_a_prefetch_never_takes_the_last_of_several_places() -> None:
    with Race(2, "bbc") as race:
        assert race.begun == [0, 2], "the click began beside the first prefetch"
    assert race.begun == [0, 2, 1]


def test_clicks_may_take_all_places() -> None:
    with Race(2, "ccc") as race:
        assert race.begun == [0, 1]


def test_a_promoted_prefetch_goes_with_the_clicks() -> None:
    with Race(1, "cbbb") as race:
        race.gate.promote(race.turns[3])
    assert race.begun == [0, 3, 1, 2]


def test_a_turn_that_does_not_come_leaves_the_queue() -> None:
    gate, held, impatient = EncodeGate(1), Turn(is_background=False), Turn(is_background=False)
    with gate.take(held), pytest.raises(NoTurnError), gate.take(impatient, timeout_s=0.01):
        pytest.fail("it ran beside the other")
    assert not impatient.has_begun
    with gate.take(Turn(is_background=True), timeout_s=1):
        assert held.has_begun


def test_an_error_inside_gives_the_place_back() -> None:
    gate = EncodeGate(1)
    for _ in range(2):
        with pytest.raises(KeyError), gate.take(Turn(is_background=True), timeout_s=1):
            raise KeyError


def test_a_gate_needs_a_place() -> None:
    with pytest.raises(ValueError, match="at least one slot, got 0"):
        EncodeGate(0)
