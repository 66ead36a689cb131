"""What several workers know of one object: each as if it had answered the clicks before."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from adaptation.errors import StoreError
from adaptation.predictor.interactive import ObjectState
from adaptation.predictor.zoom import View
from adaptation.types import Box, Click
from backend.service.object_store import EntryName, FolderStore
from backend.service.prompt_state import DrawnBoxes, ObjectKey, ObjectStates, Place
from backend.service.shared_objects import (
    SharedBoxes,
    SharedStates,
    SharedTurns,
    packed,
    unpacked,
)

PLACE = Place("1", "7", "image", "Object")
KEY = ObjectKey(PLACE, "kp-1")
CLICKS = tuple(Click(x=10.0 * i, y=5, is_positive=i != 1) for i in range(6))
NAME = EntryName(task=("1", "7"), kind="test", parts=("a",))


def state(n_clicks: int, box: Box | None = None) -> ObjectState:
    logits = torch.randn(1, 1, 4, 6, generator=torch.Generator().manual_seed(n_clicks))
    return ObjectState(
        clicks=CLICKS[:n_clicks],
        box=box,
        view=View(0, 0, 60, 40),
        input_size=(40, 60),
        low_res_logits=logits,
    )


def worker(folder: Path) -> SharedStates:
    local = ObjectStates(max_objects=10, ttl_s=60)
    return SharedStates(FolderStore(folder, 100), local)


def test_a_worker_goes_on_from_what_another_one_answered(tmp_path: Path) -> None:
    first, second = worker(tmp_path), worker(tmp_path)
    box = Box(x0=1, y0=2, x1=30, y1=40)
    first.put(KEY, state(1), "decoder")
    second.put(KEY, state(2, box), "decoder")
    found = first.before(KEY, CLICKS[:3], box, "decoder")
    assert found is not None
    assert (found.clicks, found.box, found.view) == (CLICKS[:2], box, View(0, 0, 60, 40))
    assert torch.equal(found.low_res_logits, state(2).low_res_logits), "to the last bit"
    # A click that was taken back goes on from the state before it; another decoder from none.
    taken_back = second.before(KEY, CLICKS[:2], None, "decoder")
    assert taken_back is not None and len(taken_back.clicks) == 1
    assert second.before(KEY, CLICKS[:3], box, "another") is None


def test_a_submitted_task_is_forgotten_by_all_workers(tmp_path: Path) -> None:
    first, second = worker(tmp_path), worker(tmp_path)
    first.put(KEY, state(1))
    second.forget_task("1", "7")
    assert first.before(KEY, CLICKS[:2], None) is None


class _Failing(FolderStore):
    def load(self, name: EntryName) -> bytes | None:
        raise StoreError("it is gone")


def test_without_the_store_a_worker_answers_by_what_it_knows(tmp_path: Path) -> None:
    alone = SharedStates(_Failing(tmp_path, 100), ObjectStates(max_objects=10, ttl_s=60))
    alone.put(KEY, state(1))
    assert alone.before(KEY, CLICKS[:2], None) is not None


def test_damaged_states_are_none() -> None:
    whole = packed((("decoder", state(2)), ("decoder", state(1))))
    assert len(unpacked(whole)) == 2
    for damaged in (b"", b"no json", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        assert unpacked(damaged) == ()


def test_clicks_find_the_box_that_another_worker_was_told_of(tmp_path: Path) -> None:
    first, second = (
        DrawnBoxes(ttl_s=60, keeper=SharedBoxes(FolderStore(tmp_path, 100)), clock=lambda: 0.0)
        for _ in range(2)
    )
    box = Box(x0=100, y0=100, x1=200, y1=150)
    first.with_box(PLACE, "rect-1", box)
    click = ("a", Click(x=150, y=125, is_positive=True))
    assert second.with_clicks(PLACE, (click,)).rectangle == box
    moved = first.with_box(PLACE, "rect-1", Box(x0=90, y0=90, x1=210, y1=160))
    assert [name for name, _ in moved.clicks] == ["a"]
    second.forget_task("1", "7")
    assert first.with_clicks(PLACE, (click,)).box is None


def test_one_worker_at_a_time_computes_an_object_and_the_newest_wins(tmp_path: Path) -> None:
    """A waits for B, which answers a later request with all of A's clicks: A's is not wanted."""
    clock = iter([1.0, 2.0, 3.0])
    store = FolderStore(tmp_path, 100)
    store.now = lambda: next(clock)  # type: ignore[method-assign]
    first, second = SharedTurns(store), SharedTurns(store)
    found: list[bool] = []

    def ask_first() -> None:
        with first.take(KEY, frozenset("a")) as is_wanted:
            found.append(is_wanted)

    with store.exclusive(EntryName(task=("1", "7"), kind="turn", parts=("image", "Object", "kp-1")),
                         lambda: None):  # fmt: skip
        waiting = threading.Thread(target=ask_first)
        waiting.start()
        while not len(first):
            pass
        store.save(
            EntryName(task=("1", "7"), kind="turn", parts=("image", "Object", "kp-1")),
            b'[[2.5, ["a", "b"]]]',
        )
        assert not found, "another worker is at it"
    waiting.join(20)
    assert found == [False]
    # A click that was taken back afterwards came later than the answer, and is wanted.
    next(clock)
    clock = iter([4.0])
    with second.take(KEY, frozenset("a")) as is_wanted:
        assert is_wanted


def test_a_worker_that_is_killed_frees_what_it_held(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, 100)
    incoming, outgoing = os.pipe()
    child = os.fork()
    if child == 0:
        with store.exclusive(NAME, lambda: None):
            os.write(outgoing, b"!")
            threading.Event().wait()
    os.read(incoming, 1)

    def give_up() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError), store.exclusive(NAME, give_up):
        pass
    os.kill(child, 9)
    os.waitpid(child, 0)
    with store.exclusive(NAME, give_up):
        pass


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("backend.service.object_store.LOOK_S", 0.05)
    yield


def test_the_oldest_entries_leave(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, 8)
    names = [EntryName(task=("1", str(n)), kind="test", parts=()) for n in range(20)]
    for n, name in enumerate(names):
        store.save(name, b"x")
        path = store._path(name)
        os.utime(path, (n, n))
    store._make_room()
    assert [n for n, name in enumerate(names) if store.load(name)] == list(range(12, 20))
