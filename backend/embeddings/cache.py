"""The embedding cache: one encode per image and view, ever, also when ten clicks arrive at once.

Memory first, then the store, then the encoder. Whoever asks for what is being made already waits
for it; when making it fails, everyone who waited learns why and the next request tries again.

Features are rounded to half precision once, right after the encoder, and everything that is ever
returned was rounded: the first click, later ones and a replay next year see the same numbers.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace

import torch
from cachetools import LRUCache

from adaptation.errors import ModelError, StoreError
from adaptation.types import Embedding
from backend.embeddings.scheduler import EncodeGate, NoTurnError, Turn
from backend.embeddings.store import EmbeddingKey, EmbeddingStore
from backend.metrics import Metrics

logger = logging.getLogger(__name__)

Encode = Callable[[], Embedding]
"""Makes an embedding. It should only compute: what it needs is loaded before."""

_STORE_REST_S = 30.0
"""A store that failed is left alone for this long; clicks do not wait for it."""
_EXCLUSIVE_S = 120.0
"""How long another process may take to make the same entry before this one makes it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingStats:
    """What the cache did since it was made, and what it holds.

    Args:
        memory_hits: Answers from memory.
        store_hits: Answers from the store.
        encodes: Runs of the encoder that succeeded.
        failures: Runs of the encoder that failed.
        waits: Requests that waited for someone else's encode of the same image.
        timeouts: Requests that gave up.
        evictions: Embeddings that left the memory to make room.
        store_failures: Times that the store failed; it then rests for a while.
        memory_entries: Embeddings in memory now.
        memory_bytes: Bytes that they take now.
        in_flight: Embeddings being made now.
    """

    memory_hits: int
    store_hits: int
    encodes: int
    failures: int
    waits: int
    timeouts: int
    evictions: int
    store_failures: int
    memory_entries: int
    memory_bytes: int
    in_flight: int


_RESULTS = {
    "memory_hits": "memory_hit",
    "store_hits": "store_hit",
    "encodes": "encoded",
    "failures": "failed",
    "waits": "waited",
    "timeouts": "timed_out",
}
"""Counters -> what the metrics call it."""


@dataclass(slots=True)
class _Counters:
    memory_hits: int = 0
    store_hits: int = 0
    encodes: int = 0
    failures: int = 0
    waits: int = 0
    timeouts: int = 0
    store_failures: int = 0


class _AbandonedError(Exception):
    """The maker gave up before the encoder ran; one of those who wait takes over."""


class _TooLateError(Exception):
    """Those who wait did not get it in their time."""


@dataclass(slots=True)
class _Flight:
    """One embedding being made: the maker's place in the queue, and what the others wait for."""

    turn: Turn
    held: Embedding | None = None
    error: Exception | None = None
    is_over: threading.Event = field(default_factory=threading.Event)

    def land(self, held: Embedding) -> None:
        self.held = held
        self.is_over.set()

    def crash(self, error: Exception) -> None:
        self.error = error
        self.is_over.set()

    def wait(self, timeout_s: float | None) -> Embedding:
        if not self.is_over.wait(timeout_s):
            raise _TooLateError
        if self.error is not None:
            raise self.error
        assert self.held is not None
        return self.held


class _Deadline:
    """A moment after which a request gives up; none where no time is given."""

    def __init__(self, timeout_s: float | None) -> None:
        self._end = None if timeout_s is None else time.monotonic() + timeout_s

    def left(self) -> float | None:
        """Seconds left, never negative; None for no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def left_of(self, most: float) -> float:
        """Seconds left, at most `most`."""
        left = self.left()
        return most if left is None else min(left, most)


class MemoryLru(LRUCache[EmbeddingKey, Embedding]):
    """Embeddings in memory, bounded in bytes; the least recently used leave. Not thread-safe.

    Args:
        max_bytes: What the features may take together.
    """

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes, lambda embedding: embedding.n_bytes)
        self.evictions = 0

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keep an entry; one that alone is over the bound is not kept."""
        self.pop(key, None)
        if embedding.n_bytes <= self.maxsize:
            self[key] = embedding

    def popitem(self) -> tuple[EmbeddingKey, Embedding]:
        """Let the least recently used entry go."""
        self.evictions += 1
        return super().popitem()


class EmbeddingCache:
    """Gives every image's embedding, encoding it at most once.

    Args:
        memory_bytes: What embeddings may take in memory, in half precision.
        store: Where they outlive the process; None keeps them in memory only.
        max_encodes: Images encoded at once. With 2 or more, one place is never taken by a
            prefetch, so that a click's image is encoded beside it at once.
        metrics: Told of everything that is counted; None: nobody is.
    """

    def __init__(
        self,
        *,
        memory_bytes: int,
        store: EmbeddingStore | None = None,
        max_encodes: int = 2,
        metrics: Metrics | None = None,
    ) -> None:
        self._store = store
        self._metrics = Metrics() if metrics is None else metrics
        self._gate = EncodeGate(max_encodes)
        self._lock = threading.Lock()  # guards all below; never held while anything slow runs
        self._memory = MemoryLru(memory_bytes)
        self._flights: dict[EmbeddingKey, _Flight] = {}
        self._counters = _Counters()
        self._store_rests_until = 0.0

    def get(
        self,
        key: EmbeddingKey,
        encode: Encode,
        *,
        timeout_s: float | None = None,
        is_background: bool = False,
    ) -> Embedding:
        """The embedding of a key, from wherever it is had first.

        Args:
            key: What is wanted.
            encode: Makes it where it is nowhere; runs in this thread, and at most in one.
            timeout_s: How long to wait for others; the own encode is not interrupted.
            is_background: Whether every click goes before this request.

        Returns:
            The embedding, its features in float32 on the CPU, rounded to what float16 can hold;
            the tensor is the caller's own.

        Raises:
            StoreError: The time is over.
            ModelError: The encoder made something that cannot be used.
            Exception: Whatever `encode` raises, also for all who waited for it.
        """
        deadline = _Deadline(timeout_s)
        try:
            while True:
                with contextlib.suppress(_AbandonedError):
                    return _restored(self._get(key, encode, deadline, is_background))
        except (_TooLateError, NoTurnError) as error:
            self._count("timeouts")
            raise StoreError(
                f"The image was not encoded within {timeout_s:g} s; try again in a moment."
            ) from error

    def stats(self) -> EmbeddingStats:
        """Counters since the start and the present state."""
        with self._lock:
            counters = {f.name: getattr(self._counters, f.name) for f in fields(_Counters)}
            return EmbeddingStats(
                **counters,
                evictions=self._memory.evictions,
                memory_entries=len(self._memory),
                memory_bytes=int(self._memory.currsize),
                in_flight=len(self._flights),
            )

    def _get(
        self, key: EmbeddingKey, encode: Encode, deadline: _Deadline, is_background: bool
    ) -> Embedding:
        with self._lock:
            held = self._memory.get(key)
            flight = None if held is not None else self._flights.get(key)
            is_maker = held is None and flight is None
            if is_maker:
                flight = self._flights[key] = _Flight(Turn(is_background=is_background))
        if held is not None:
            self._count("memory_hits")
            return held
        assert flight is not None
        if is_maker:
            return self._make(key, flight, encode, deadline)
        self._count("waits")
        if not is_background:
            self._gate.promote(flight.turn)
        return flight.wait(deadline.left())

    def _make(
        self, key: EmbeddingKey, flight: _Flight, encode: Encode, deadline: _Deadline
    ) -> Embedding:
        """Get an embedding that is not in memory, for all who wait for it."""
        try:
            held = self._load(key)
            if held is not None:
                self._land(key, flight, held)
                return held
            with self._exclusive(key, deadline):
                held = self._load(key)  # another process may have made it meanwhile
                if held is not None:
                    self._land(key, flight, held)
                    return held
                held = self._encode(key, flight, encode, deadline)
                self._land(key, flight, held)
                self._save(key, held)
                return held
        except BaseException as error:
            self._fail(key, flight, error)
            raise

    def _land(self, key: EmbeddingKey, flight: _Flight, held: Embedding) -> None:
        with self._lock:
            evictions = self._memory.evictions
            self._memory.put(key, held)
            del self._flights[key]
            self._metrics.evictions.inc(self._memory.evictions - evictions)
            self._metrics.embedding_bytes.set(self._memory.currsize)
        flight.land(held)

    def _fail(self, key: EmbeddingKey, flight: _Flight, error: BaseException) -> None:
        with self._lock:
            if self._flights.get(key) is not flight:
                return
            del self._flights[key]
        if isinstance(error, Exception) and flight.turn.has_begun:
            flight.crash(error)
        else:
            flight.crash(_AbandonedError())

    def _encode(
        self, key: EmbeddingKey, flight: _Flight, encode: Encode, deadline: _Deadline
    ) -> Embedding:
        with self._gate.take(flight.turn, deadline.left()):
            start = time.perf_counter()
            try:
                held = _rounded(key, encode())
            except BaseException:
                self._count("failures")
                raise
        seconds = time.perf_counter() - start
        self._count("encodes")
        self._metrics.encode_seconds.observe(seconds)
        logger.info("Encoded %s of image %s in %.2f s.", key.view.size, key.image_id[:12], seconds)
        return held

    def _load(self, key: EmbeddingKey) -> Embedding | None:
        held: Embedding | None = None
        with self._using_store() as store:
            held = None if store is None else store.load(key)
        if held is not None:
            self._count("store_hits")
        return held

    def _save(self, key: EmbeddingKey, held: Embedding) -> None:
        with self._using_store() as store:
            if store is not None:
                store.save(key, held)

    @contextlib.contextmanager
    def _exclusive(self, key: EmbeddingKey, deadline: _Deadline) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            with self._using_store() as store:
                if store is not None:
                    lock = store.exclusive(key, deadline.left_of(_EXCLUSIVE_S))
                    stack.enter_context(lock)
            yield

    @contextlib.contextmanager
    def _using_store(self) -> Iterator[EmbeddingStore | None]:
        """The store where it works; a failing one costs warmth and never a click."""
        is_resting = time.monotonic() < self._store_rests_until
        try:
            yield None if is_resting else self._store
            if not is_resting and self._store is not None:
                self._metrics.degraded.labels("embeddings").set(0)
        except StoreError as error:
            logger.warning("%s Going on without it for %.0f s.", error, _STORE_REST_S)
            self._store_rests_until = time.monotonic() + _STORE_REST_S
            self._metrics.degraded.labels("embeddings").set(1)
            with self._lock:
                self._counters.store_failures += 1

    def _count(self, name: str) -> None:
        with self._lock:
            setattr(self._counters, name, getattr(self._counters, name) + 1)
        self._metrics.embeddings.labels(_RESULTS[name]).inc()


def _rounded(key: EmbeddingKey, embedding: Embedding) -> Embedding:
    """What is kept of a fresh embedding: its features in float16 on the CPU."""
    if embedding.encoder_id != key.encoder_id:
        raise ModelError(
            f"The embedding was made by encoder {embedding.encoder_id}, wanted was encoder "
            f"{key.encoder_id}."
        )
    features = embedding.features.detach().to("cpu", torch.float16).contiguous()
    if not features.sum(dtype=torch.float32).isfinite():  # cheaper than to look at each
        raise ModelError("The encoder's features are not finite in half precision.")
    return replace(embedding, features=features)


def _restored(held: Embedding) -> Embedding:
    return replace(held, features=held.features.float())
