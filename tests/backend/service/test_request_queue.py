"""Turns and slots: order within an object, none between objects, a bounded number at once."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from backend.service.request_queue import NewestWinsQueue, Slots
from tests.backend.making import until


def queue_up(turns: NewestWinsQueue, *requests: str) -> list[bool]:
    """Who is wanted, when these click ids ("ab": clicks a and b) wait behind one at work."""
    wanted: dict[str, bool] = {}

    def ask(ids: str) -> None:
        with turns.take("object", frozenset(ids)) as is_wanted:
            wanted[ids] = is_wanted

    with ThreadPoolExecutor(len(requests)) as pool:
        with turns.take("object", frozenset()):
            futures: list[Future[None]] = []
            for n, ids in enumerate(requests, start=2):
                futures.append(pool.submit(ask, ids))
                until(lambda n=n: len(turns) == n)  # type: ignore[misc]
        for future in futures:
            future.result(10)
    return [wanted[ids] for ids in requests]


def test_only_the_newest_of_growing_requests_is_wanted() -> None:
    assert queue_up(NewestWinsQueue(), "a", "ab", "abc") == [False, False, True]


def test_a_request_whose_clicks_the_later_one_does_not_hold_is_wanted() -> None:
    assert queue_up(NewestWinsQueue(), "abc", "ab") == [True, True]
    assert queue_up(NewestWinsQueue(), "ab", "ac") == [True, True]


def test_requests_of_different_objects_do_not_wait_for_each_other() -> None:
    turns = NewestWinsQueue()
    with turns.take("one", frozenset("a")), turns.take("two", frozenset("a")) as is_wanted:
        assert is_wanted


def test_a_failed_request_supersedes_nobody() -> None:
    turns = NewestWinsQueue()
    with pytest.raises(ValueError, match="broken"), turns.take("object", frozenset("ab")):
        raise ValueError("broken")
    with turns.take("object", frozenset("a")) as is_wanted:
        assert is_wanted


def test_nothing_is_left_behind() -> None:
    class Key:
        """An object's key of which it can be seen whether it is still held."""

    turns, key = NewestWinsQueue(), Key()
    held = weakref.ref(key)
    with pytest.raises(ValueError, match="broken"), turns.take(key, frozenset("a")):
        assert len(turns) == 1
        raise ValueError("broken")
    with turns.take(key, frozenset("ab")):
        pass
    del key
    gc.collect()
    assert len(turns) == 0 and held() is None


def test_a_lent_slot_is_free_for_others_and_comes_back() -> None:
    slots = Slots(1)
    inside = threading.Event()
    with ThreadPoolExecutor(1) as pool, slots.held():

        def other() -> None:
            with slots.held():
                inside.set()

        future = pool.submit(other)
        assert not inside.wait(0.05)
        with slots.lent():
            assert inside.wait(10)
        future.result(10)


def test_no_more_than_the_slots_are_at_work() -> None:
    slots, lock, at_work, most = Slots(2), threading.Lock(), [0], [0]
    barrier = threading.Barrier(2)

    def work() -> None:
        with slots.held():
            with lock:
                at_work[0] += 1
                most[0] = max(most[0], at_work[0])
            barrier.wait(10)
            with lock:
                at_work[0] -= 1

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work) for _ in range(6)]:
            future.result(10)
    assert most[0] == 2
