"""Prefetching: behind the clicks, never in their way, bounded, and stopped cleanly."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from adaptation.errors import ImageError
from backend.embeddings.cache import EmbeddingCache, Encode
from backend.embeddings.prefetch_queue import PrefetchQueue, PrefetchTask
from backend.embeddings.scheduler import EncodeGate, Turn
from backend.embeddings.store import EmbeddingKey
from backend.threads import limit_torch_threads
from tests.backend.making import Encoding, holds, key_of, until


@pytest.fixture
def cache() -> EmbeddingCache:
    return EmbeddingCache(memory_bytes=1 << 20, max_encodes=1)


@pytest.fixture
def queue(cache: EmbeddingCache) -> Iterator[PrefetchQueue]:
    queue = PrefetchQueue(cache, max_queued=3)
    yield queue
    assert queue.stop(10)


def task_of(encoding: Encoding) -> PrefetchTask:
    def load() -> tuple[EmbeddingKey, Encode]:
        return encoding.key, encoding

    return PrefetchTask(name=encoding.key.image_id, load=load)


def encodings(n: int) -> list[Encoding]:
    return [Encoding(key_of(number)) for number in range(n)]


def is_idle(queue: PrefetchQueue) -> bool:
    stats = queue.stats()
    return stats.queued == stats.running == 0


def hold(queue: PrefetchQueue) -> Encoding:
    """Keep the worker busy, so that what comes next is queued."""
    blocker = Encoding(key_of(99), is_held=True)
    assert queue.submit(task_of(blocker))
    assert blocker.begun.wait(10)
    return blocker


def test_the_first_click_finds_its_embedding(cache: EmbeddingCache, queue: PrefetchQueue) -> None:
    tasks = encodings(3)
    assert all(queue.submit(task_of(encoding)) for encoding in tasks)
    until(lambda: is_idle(queue))
    for encoding in tasks:
        cache.get(encoding.key, encoding)
    assert [encoding.runs for encoding in tasks] == [1, 1, 1]
    assert cache.stats().memory_hits == 3
    assert (queue.stats().done, queue.stats().queued, queue.stats().running) == (3, 0, 0)


def test_a_click_on_another_image_goes_before_all_that_is_queued(
    cache: EmbeddingCache, queue: PrefetchQueue
) -> None:
    blocker, queued = hold(queue), encodings(3)
    for encoding in queued:
        queue.submit(task_of(encoding))
    click = Encoding(key_of(50), is_held=True)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(cache.get, click.key, click)
        until(lambda: cache.stats().in_flight == 2)
        blocker.go.set()
        assert click.begun.wait(10)
        assert [encoding.runs for encoding in queued] == [0, 0, 0]
        click.go.set()
        answer.result(10)
    until(lambda: is_idle(queue))
    assert [encoding.runs for encoding in queued] == [1, 1, 1]


def test_a_click_joins_the_prefetch_of_its_image(
    cache: EmbeddingCache, queue: PrefetchQueue
) -> None:
    blocker = hold(queue)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(cache.get, blocker.key, blocker)
        until(lambda: cache.stats().waits == 1)
        blocker.go.set()
        answer.result(10)
    assert blocker.runs == 1


class NotingGate(EncodeGate):
    """A gate that tells when a turn was promoted."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots)
        self.promoted = threading.Event()

    def promote(self, turn: Turn) -> None:
        super().promote(turn)
        self.promoted.set()


def test_a_click_that_joins_a_waiting_prefetch_brings_it_forward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Three prefetches at the gate behind a click; a second click wants the last one's image.
    gate = NotingGate(1)
    monkeypatch.setattr("backend.embeddings.cache.EncodeGate", lambda slots: gate)
    cache = EmbeddingCache(memory_bytes=1 << 20, max_encodes=1)
    queue = PrefetchQueue(cache, n_workers=3)
    first_click, prefetches = Encoding(key_of(50), is_held=True), encodings(3)
    begun: list[str] = []

    def noting(encoding: Encoding) -> PrefetchTask:
        def encode() -> object:
            begun.append(encoding.key.image_id)
            return encoding()

        return PrefetchTask(name=encoding.key.image_id, load=lambda: (encoding.key, encode))  # type: ignore[arg-type, return-value]

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(cache.get, first_click.key, first_click)]
        assert first_click.begun.wait(10)
        for count, encoding in enumerate(prefetches, start=2):
            queue.submit(noting(encoding))
            until(lambda count=count: len(gate) == count - 1)  # type: ignore[misc]
        answers.append(pool.submit(cache.get, prefetches[2].key, prefetches[2]))
        assert gate.promoted.wait(10)
        first_click.go.set()
        for answer in answers:
            answer.result(10)
    until(lambda: is_idle(queue))
    assert begun == ["image-2", "image-0", "image-1"]
    assert queue.stop()


def test_a_click_on_a_queued_image_encodes_it_at_once(
    cache: EmbeddingCache, queue: PrefetchQueue
) -> None:
    blocker, (queued,) = hold(queue), encodings(1)
    queue.submit(task_of(queued))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(cache.get, queued.key, queued)
        until(lambda: cache.stats().in_flight == 2)
        blocker.go.set()
        answer.result(10)
    until(lambda: is_idle(queue))
    assert queued.runs == 1
    assert queue.stats().done == 2


def test_the_same_task_is_queued_once(queue: PrefetchQueue) -> None:
    blocker, (encoding,) = hold(queue), encodings(1)
    assert queue.submit(task_of(encoding))
    assert not queue.submit(task_of(encoding))
    assert not queue.submit(task_of(blocker))
    assert queue.stats().duplicates == 2
    assert queue.stats().queued == 1
    blocker.go.set()


def test_the_task_that_was_opened_goes_first(queue: PrefetchQueue) -> None:
    blocker, order = hold(queue), list[str]()

    def noted(number: int) -> PrefetchTask:
        def load() -> tuple[EmbeddingKey, Encode]:
            order.append(str(number))
            return key_of(number), Encoding(key_of(number))

        return PrefetchTask(name=str(number), load=load)

    for number in (0, 1):
        queue.submit(noted(number))
    assert queue.submit(noted(2), is_urgent=True)
    assert not queue.submit(noted(1), is_urgent=True), "it was there, and is in front now"
    blocker.go.set()
    until(lambda: is_idle(queue))
    assert order == ["1", "2", "0"]


def test_a_full_queue_takes_only_what_is_urgent(queue: PrefetchQueue) -> None:
    blocker, tasks = hold(queue), encodings(5)
    assert [queue.submit(task_of(encoding)) for encoding in tasks[:4]] == [True, True, True, False]
    assert queue.submit(task_of(tasks[4]), is_urgent=True)
    assert (queue.stats().queued, queue.stats().dropped) == (3, 2)
    blocker.go.set()
    until(lambda: is_idle(queue))
    assert [encoding.runs for encoding in tasks] == [1, 1, 0, 0, 1]


def test_what_cannot_be_prefetched_is_left_to_the_click(
    cache: EmbeddingCache, queue: PrefetchQueue, caplog: pytest.LogCaptureFixture
) -> None:
    unreadable = Encoding(key_of(0), errors=[ImageError("It is a video.")])
    broken = Encoding(key_of(1), errors=[RuntimeError("out of memory")])
    fine = Encoding(key_of(2))
    for encoding in (unreadable, broken, fine):
        queue.submit(task_of(encoding))
    until(lambda: is_idle(queue))
    assert (queue.stats().failed, queue.stats().done) == (2, 1)
    assert "Did not prefetch image-0: It is a video." in caplog.text
    assert "out of memory" in caplog.text
    assert cache.get(unreadable.key, unreadable).image_id == "image-0"


def test_stopping_forgets_the_queue_and_lets_the_running_one_finish(
    cache: EmbeddingCache,
) -> None:
    queue = PrefetchQueue(cache)
    blocker, queued = hold(queue), encodings(2)
    for encoding in queued:
        queue.submit(task_of(encoding))
    stopping = threading.Thread(target=queue.stop, args=(10,))
    stopping.start()
    until(lambda: queue.stats().queued == 0)
    blocker.go.set()
    stopping.join(10)
    assert holds(cache, blocker.key)
    assert [encoding.runs for encoding in queued] == [0, 0]
    assert not queue.submit(task_of(queued[0]))


def test_stopping_does_not_wait_for_ever(cache: EmbeddingCache) -> None:
    queue = PrefetchQueue(cache)
    blocker = hold(queue)
    assert not queue.stop(0.01)
    blocker.go.set()
    assert queue.stop(10)


def test_an_unused_queue_starts_no_thread(cache: EmbeddingCache) -> None:
    before = threading.active_count()
    queue = PrefetchQueue(cache)
    assert threading.active_count() == before
    assert is_idle(queue)
    assert queue.stop()


# Its share of the machine -------------------------------------------------------------------


@pytest.fixture
def two_torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_torch_threads")
def test_the_limit_on_cores_holds_for_its_thread_alone() -> None:
    def limited() -> tuple[int, int]:
        limit_torch_threads(1)
        counts = torch.get_num_threads()
        with ThreadPoolExecutor(1) as other:
            return counts, other.submit(torch.get_num_threads).result()

    with ThreadPoolExecutor(1) as pool:
        own, of_a_new_thread = pool.submit(limited).result()
    assert (own, of_a_new_thread, torch.get_num_threads()) == (1, 2, 2)


@pytest.mark.usefixtures("two_torch_threads")
def test_prefetching_uses_its_cores_and_priority_only(cache: EmbeddingCache) -> None:
    seen: list[tuple[int, int]] = []

    def load() -> tuple[EmbeddingKey, Encode]:
        thread = threading.get_native_id()
        seen.append((torch.get_num_threads(), os.getpriority(os.PRIO_PROCESS, thread)))
        return key_of(), Encoding(key_of())

    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    queue = PrefetchQueue(cache, n_threads=1, niceness=3)
    queue.submit(PrefetchTask(name="task", load=load))
    until(lambda: is_idle(queue))
    assert queue.stop()
    ((n_threads, niceness),) = seen
    assert n_threads == 1
    assert torch.get_num_threads() == 2
    if sys.platform == "linux":
        assert niceness == min(19, own + 3)
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
