"""Images encoded before the first click asks for them, behind the clicks' back.

A few threads of low priority work the queue off, the task that was opened last in front. What they
make lands in the embedding cache, where a click that comes early joins the encode that runs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from adaptation.errors import StropError
from backend.embeddings.cache import EmbeddingCache, Encode
from backend.embeddings.store import EmbeddingKey
from backend.metrics import Metrics
from backend.threads import limit_torch_threads, lower_priority

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefetchTask:
    """One image to encode ahead of time.

    Args:
        name: Tasks of the same name are the same work, for instance "<project>/<task>".
        load: Reads the image; returns its key and how to encode it, or None where it need not
            be. Runs in the worker, before it waits for its turn at the encoder.
    """

    name: str
    load: Callable[[], tuple[EmbeddingKey, Encode] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefetchStats:
    """What the queue holds now and has done since it was made.

    Args:
        queued: Tasks that wait.
        running: Tasks being worked on.
        done: Tasks whose embedding is in the cache, or need not be.
        failed: Tasks that could not be read or encoded.
        duplicates: Tasks that were queued or running already when they came again.
        dropped: Tasks that found the queue full, or gave way to an urgent one.
    """

    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    duplicates: int = 0
    dropped: int = 0


class PrefetchQueue:
    """A bounded queue of images and the threads that encode them.

    The threads start with the first task. Each computes on `n_threads` cores and, on Linux, with
    lower priority than the threads of clicks: OpenMP gives every thread that calls torch helpers
    of its own, so both limits hold for the prefetch alone.

    Args:
        cache: Where the embeddings go.
        max_queued: Tasks that may wait.
        n_workers: Images worked on at once; a second one reads while the first is encoded.
        n_threads: Cores that one encode may use.
        niceness: Added to the threads' niceness, 0 to 19.
        metrics: Told of everything that is counted; None: nobody is.
    """

    def __init__(
        self,
        cache: EmbeddingCache,
        *,
        max_queued: int = 256,
        n_workers: int = 1,
        n_threads: int = 1,
        niceness: int = 5,
        metrics: Metrics | None = None,
    ) -> None:
        self._cache = cache
        self._metrics = Metrics() if metrics is None else metrics
        self._max_queued = max_queued
        self._n_workers = n_workers
        self._n_threads = n_threads
        self._niceness = niceness
        self._changed = threading.Condition()
        self._queue: deque[PrefetchTask] = deque()
        self._running: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._is_stopped = False
        self._stats = PrefetchStats()

    def submit(self, task: PrefetchTask, *, is_urgent: bool = False) -> bool:
        """Queue a task.

        Args:
            task: What to encode.
            is_urgent: Put it in front of all that is queued, itself included; in a full queue
                the last one gives way.

        Returns:
            Whether it was added; not if it was there already, the queue was full or stopped.
        """
        with self._changed:
            if self._is_stopped:
                return False
            is_known = self._forget(task.name) if is_urgent else self._is_queued(task.name)
            if task.name in self._running or (is_known and not is_urgent):
                self._count(duplicates=1)
                return False
            if len(self._queue) >= self._max_queued:
                self._count(dropped=1)
                if not is_urgent or not self._queue:
                    return False
                self._queue.pop()
            if is_urgent:
                self._queue.appendleft(task)
            else:
                self._queue.append(task)
            self._count(duplicates=int(is_known))
            self._start_threads()
            self._changed.notify_all()
            return not is_known

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Forget what is queued and let the running encodes finish.

        Returns:
            Whether they did in time; a thread that did not ends with its encode, or with the
            process.
        """
        with self._changed:
            self._is_stopped = True
            self._queue.clear()
            self._metrics.prefetch_queue.set(0)
            self._changed.notify_all()
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def stats(self) -> PrefetchStats:
        """Counters since the start and the present state."""
        with self._changed:
            return replace(self._stats, queued=len(self._queue), running=len(self._running))

    def _is_queued(self, name: str) -> bool:
        return any(task.name == name for task in self._queue)

    def _forget(self, name: str) -> bool:
        for task in self._queue:
            if task.name == name:
                self._queue.remove(task)
                return True
        return False

    def _count(self, **more: int) -> None:
        values = {name: getattr(self._stats, name) + n for name, n in more.items()}
        self._stats = replace(self._stats, **values)
        for name, n in more.items():
            self._metrics.prefetches.labels(name.removesuffix("s")).inc(n)
        self._metrics.prefetch_queue.set(len(self._queue))

    def _start_threads(self) -> None:
        while len(self._threads) < self._n_workers:
            name = f"prefetch-{len(self._threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        limit_torch_threads(self._n_threads)
        lower_priority(self._niceness)
        while (task := self._next()) is not None:
            has_worked = self._encode(task)
            with self._changed:
                self._running.remove(task.name)
                self._count(done=int(has_worked), failed=int(not has_worked))
                self._changed.notify_all()

    def _next(self) -> PrefetchTask | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_stopped)
            if self._is_stopped:
                return None
            task = self._queue.popleft()
            self._metrics.prefetch_queue.set(len(self._queue))
            self._running.add(task.name)
            return task

    def _encode(self, task: PrefetchTask) -> bool:
        try:
            job = task.load()
            if job is not None:
                self._cache.get(*job, is_background=True)
        except StropError as error:
            logger.warning("Did not prefetch %s: %s", task.name, error)
            return False
        except Exception:
            logger.exception("Did not prefetch %s.", task.name)
            return False
        return True
