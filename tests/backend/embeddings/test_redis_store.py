"""Embeddings in a real Redis."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from redis import Redis, RedisError

from adaptation.errors import StoreError
from backend.embeddings.cache import EmbeddingCache
from backend.embeddings.redis_store import RedisStore
from tests.backend.making import Encoding, embedding_of, key_of, packed, until

pytestmark = pytest.mark.redis

ENTRY_BYTES = len(packed(key_of()))
ROOMY = 100 * ENTRY_BYTES


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    with Redis.from_url(url) as client:
        try:
            return bool(client.ping())
        except RedisError:
            return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Redis that STROP_TEST_REDIS_URL names (its database is emptied), else one of our own."""
    named = os.environ.get("STROP_TEST_REDIS_URL")
    if named:
        yield named
        return
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs STROP_TEST_REDIS_URL or redis-server")
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    command = [program, "--port", str(port), "--save", "", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        url = f"redis://127.0.0.1:{port}/0"
        until(lambda: answers(url))
        yield url
        process.terminate()


@pytest.fixture
def url(server: str) -> str:
    with Redis.from_url(server) as client:
        client.flushdb()
    return server


@pytest.fixture
def store(url: str) -> Iterator[RedisStore]:
    store = RedisStore(url, ROOMY)
    yield store
    store.close()


def save(store: RedisStore, *numbers: int) -> None:
    for number in numbers:
        store.save(key_of(number), embedding_of(key_of(number), is_half=True))


def held(store: RedisStore, n: int) -> list[int]:
    return [number for number in range(n) if store.load(key_of(number)) is not None]


def test_another_worker_finds_the_entry(store: RedisStore, url: str) -> None:
    save(store, 0)
    other = RedisStore(url, ROOMY)
    found = other.load(key_of())
    other.close()
    assert found is not None
    assert torch.equal(found.features, embedding_of(key_of(), is_half=True).features)
    assert store.load(key_of(1)) is None


def test_entries_stay_within_their_bound(url: str) -> None:
    store = RedisStore(url, 3 * ENTRY_BYTES + 10)
    save(store, 0, 1, 2)
    assert store.load(key_of(0)) is not None
    save(store, 3)
    assert held(store, 4) == [0, 2, 3], "the least recently used left"
    stats = store.stats()
    assert (stats.entries, stats.n_bytes, stats.evicted) == (3, 3 * ENTRY_BYTES, 1)
    save(store, 3, 3)
    assert store.stats().n_bytes == 3 * ENTRY_BYTES, "an entry that is saved again counts once"
    store.close()


def test_an_entry_over_the_bound_is_not_kept(url: str) -> None:
    store = RedisStore(url, ENTRY_BYTES - 1)
    save(store, 0)
    assert (held(store, 1), store.stats().entries) == ([], 0)
    store.close()


def test_an_entry_that_redis_itself_threw_out_upsets_no_count(store: RedisStore, url: str) -> None:
    save(store, 0, 1)
    with Redis.from_url(url) as client:
        for name in client.scan_iter(f"*{key_of(0).digest}"):
            client.delete(name)
    assert held(store, 2) == [1]
    save(store, 0)
    assert store.stats().n_bytes == 2 * ENTRY_BYTES


def test_a_damaged_entry_is_dropped(store: RedisStore, url: str) -> None:
    save(store, 0)
    with Redis.from_url(url) as client:
        (name,) = client.scan_iter(f"*{key_of(0).digest}")
        client.set(name, b"rubbish")
    assert store.load(key_of()) is None
    stats = store.stats()
    assert (stats.entries, stats.n_bytes, stats.damaged) == (0, 0, 1)


def test_workers_encode_an_image_once(url: str) -> None:
    stores = [RedisStore(url, ROOMY) for _ in range(3)]
    caches = [EmbeddingCache(memory_bytes=1 << 20, store=store) for store in stores]
    encode = Encoding(key_of(), is_held=True)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(cache.get, key_of(), encode) for cache in caches]
        assert encode.begun.wait(10)
        until(lambda: all(cache.stats().in_flight for cache in caches))
        encode.go.set()
        for future in futures:
            future.result(10)
    assert encode.runs == 1
    for store in stores:
        store.close()


def test_a_lock_that_is_not_had_in_time_holds_nobody_up(store: RedisStore) -> None:
    has_lock, go = threading.Event(), threading.Event()

    def hog() -> None:
        with store.exclusive(key_of(), 1):
            has_lock.set()
            assert go.wait(10)

    thread = threading.Thread(target=hog)
    thread.start()
    assert has_lock.wait(10)
    with store.exclusive(key_of(), 0.05):
        pass
    go.set()
    thread.join()


def test_without_redis_clicks_are_answered_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    store = RedisStore(f"redis://:secret@127.0.0.1:{free_port()}/0", ROOMY, timeout_s=0.2)
    with pytest.raises(StoreError, match="Redis cannot be used") as caught:
        store.load(key_of())
    assert "secret" not in str(caught.value)
    cache = EmbeddingCache(memory_bytes=1 << 20, store=store)
    assert cache.get(key_of(), Encoding(key_of())).image_id == "image-0"
    assert cache.stats().store_failures == 1
    assert "secret" not in caplog.text
    store.close()
