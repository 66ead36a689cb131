"""Embeddings in Redis, for workers on several machines.

Every entry is one string; a sorted set keeps the time of last use and a hash the sizes, so that the
entries stay within a bound of their own whatever else lives in that Redis. Eviction and accounting
happen in one script, hence at once for all workers.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import cast

from redis import Redis, RedisError
from redis.exceptions import LockError

from adaptation.errors import StoreError
from adaptation.types import Embedding
from backend.embeddings.store import DamagedEntryError, EmbeddingKey, StoreStats, pack, unpack

logger = logging.getLogger(__name__)

_PREFIX = "strop:embedding"
_USED, _SIZES, _TOTAL = f"{_PREFIX}:used", f"{_PREFIX}:sizes", f"{_PREFIX}:total"
_LOCK_S = 300.0
"""A worker that died frees its lock after this."""

_FORGET = """
local function forget(name)
  redis.call('DEL', ARGV[1] .. ':' .. name)
  redis.call('ZREM', KEYS[1], name)
  redis.call('DECRBY', KEYS[3], redis.call('HGET', KEYS[2], name) or 0)
  redis.call('HDEL', KEYS[2], name)
end
"""
_DROP = _FORGET + "forget(ARGV[2])"
_TOUCH = """
local now = redis.call('TIME')
redis.call('ZADD', KEYS[1], 'XX', now[1] * 1000000 + now[2], ARGV[2])
return redis.call('GET', ARGV[1] .. ':' .. ARGV[2])
"""
_SAVE = (
    _FORGET
    + """
forget(ARGV[2])
local now = redis.call('TIME')
redis.call('SET', ARGV[1] .. ':' .. ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[1], now[1] * 1000000 + now[2], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[2], #ARGV[3])
local total = redis.call('INCRBY', KEYS[3], #ARGV[3])
local evicted = 0
while total > tonumber(ARGV[4]) do
  forget(redis.call('ZRANGE', KEYS[1], 0, 0)[1])
  total = tonumber(redis.call('GET', KEYS[3]))
  evicted = evicted + 1
end
return evicted
"""
)


class RedisStore:
    """Embeddings in a Redis, bounded in bytes.

    Args:
        url: ``redis://[:password@]host:port/db``.
        max_bytes: What the entries may take together.
        timeout_s: How long Redis may stay silent before the store counts as failing.
    """

    def __init__(self, url: str, max_bytes: int, *, timeout_s: float = 2.0) -> None:
        self._redis = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s
        )
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._evicted = self._damaged = 0

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def load(self, key: EmbeddingKey) -> Embedding | None:
        """The entry, or None; a damaged one is removed."""
        data = self._run(_TOUCH, key.digest)
        if data is None:
            return None
        try:
            return unpack(cast(bytes, data), key)
        except DamagedEntryError as error:
            logger.warning("Dropped the stored embedding %s: %s.", key.digest, error)
            with self._lock:
                self._damaged += 1
            self._run(_DROP, key.digest)
            return None

    def save(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keep an entry; one that alone is over the bound is not kept."""
        data = pack(key, embedding)
        if len(data) > self._max_bytes:
            return
        evicted = self._run(_SAVE, key.digest, data, self._max_bytes)
        with self._lock:
            self._evicted += cast(int, evicted)

    @contextlib.contextmanager
    def exclusive(self, key: EmbeddingKey, timeout_s: float) -> Iterator[None]:
        """Hold the entry's lock, which Redis frees should the worker die."""
        lock = self._redis.lock(f"{_PREFIX}:lock:{key.digest}", timeout=_LOCK_S, sleep=0.05)
        is_held = False
        try:
            is_held = lock.acquire(blocking_timeout=timeout_s)
        except RedisError as error:
            logger.info("No lock on %s (%s).", key.digest, type(error).__name__)
        try:
            yield
        finally:
            if is_held:
                with contextlib.suppress(RedisError, LockError):
                    lock.release()

    def stats(self) -> StoreStats:
        """Counters: of all workers together, but evicted and damaged, which are this one's."""
        try:
            entries = self._redis.zcard(_USED)
            n_bytes = int(cast(bytes, self._redis.get(_TOTAL)) or 0)
        except RedisError as error:
            raise _store_error(error) from error
        with self._lock:
            return StoreStats(
                entries=entries, n_bytes=n_bytes, evicted=self._evicted, damaged=self._damaged
            )

    def _run(self, script: str, name: str, *args: bytes | int) -> object:
        try:
            return self._redis.eval(script, 3, _USED, _SIZES, _TOTAL, _PREFIX, name, *args)
        except RedisError as error:
            raise _store_error(error) from error


def _store_error(error: RedisError) -> StoreError:
    return StoreError(
        f"Redis cannot be used for embeddings ({type(error).__name__}). "
        "Check that it runs and that its address and password are right."
    )
