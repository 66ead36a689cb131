"""The folder of embeddings: bounded, shared by processes, robust against what befalls files."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptation.errors import StoreError
from backend.embeddings.cache import EmbeddingCache
from backend.embeddings.disk_store import DiskStore
from tests.adaptation.journal.test_failures import as_root, small_disk
from tests.backend.making import Encoding, embedding_of, key_of, packed, until

ENTRY_BYTES = len(packed(key_of()))
ROOMY = 100 * ENTRY_BYTES


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def save(store: DiskStore, *numbers: int) -> None:
    for number in numbers:
        store.save(key_of(number), embedding_of(key_of(number), is_half=True))


def held(store: DiskStore, n: int) -> list[int]:
    return [number for number in range(n) if store.load(key_of(number)) is not None]


@contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    """Let the operating system refuse to write larger files, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_entry_survives_a_restart(tmp_path: Path) -> None:
    save(DiskStore(tmp_path / "deep" / "down", ROOMY), 0)
    store = DiskStore(tmp_path / "deep" / "down", ROOMY)
    found = store.load(key_of())
    assert found is not None
    assert torch.equal(found.features, embedding_of(key_of(), is_half=True).features)
    assert (store.stats().entries, store.stats().n_bytes) == (1, ENTRY_BYTES)
    assert store.load(key_of(1)) is None


def test_only_entries_lie_in_the_folder(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, ROOMY)
    with store.exclusive(key_of(), 1):
        save(store, 0)
    assert [path.suffix for path in files(tmp_path)] == [".safetensors"]


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "empty"])
def test_a_damaged_entry_is_dropped(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = DiskStore(tmp_path, ROOMY)
    save(store, 0)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    content = {
        "cut": whole[: len(whole) // 2],
        "changed": whole[:-1] + bytes([whole[-1] ^ 1]),
        "foreign": packed(key_of(encoder_id="retrained")),
        "empty": b"",
    }
    path.write_bytes(content[damage])
    assert store.load(key_of()) is None
    assert not path.exists()
    assert store.stats().damaged == 1
    assert "Dropped the stored embedding" in caplog.text
    assert str(tmp_path) not in caplog.text


def test_the_least_recently_used_leave(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, 4 * ENTRY_BYTES)
    for number in range(4):
        save(store, number)
        time.sleep(0.002)  # file times have a grain
    store.load(key_of(0))
    save(store, 4)
    assert store.stats().evicted == 2, "down to 95 % of the bound"
    assert held(store, 5) == [0, 3, 4]


@settings(max_examples=20)
@given(
    capacity=st.integers(0, 6),
    accesses=st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40),
)
def test_the_folder_is_bounded(
    tmp_path_factory: pytest.TempPathFactory, capacity: int, accesses: list[tuple[bool, int]]
) -> None:
    root = tmp_path_factory.mktemp("store")
    store = DiskStore(root, capacity * ENTRY_BYTES)
    for is_save, number in accesses:
        if is_save:
            save(store, number)
        else:
            store.load(key_of(number))
        n_bytes = sum(path.stat().st_size for path in files(root))
        assert n_bytes <= capacity * ENTRY_BYTES
        assert store.stats().n_bytes >= n_bytes


def test_a_smaller_bound_makes_room_at_the_start(tmp_path: Path) -> None:
    save(DiskStore(tmp_path, ROOMY), *range(10))
    store = DiskStore(tmp_path, 5 * ENTRY_BYTES)
    assert store.stats().entries == len(files(tmp_path)) == 4


def test_processes_keep_one_bound_together(tmp_path: Path) -> None:
    one, other = (DiskStore(tmp_path, 8 * ENTRY_BYTES) for _ in range(2))
    save(one, *range(6))
    save(other, *range(6, 12))
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 8 * ENTRY_BYTES


def test_a_full_disk_is_an_error_and_leaves_nothing_half(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, ROOMY)
    with file_size_limit(100), pytest.raises(StoreError, match="Cannot write the folder") as caught:
        save(store, 0)
    assert str(tmp_path) not in str(caught.value)
    assert files(tmp_path) == []
    save(store, 0)
    assert held(store, 1) == [0]


def test_a_folder_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Make room or allow it, or set another folder"):
        DiskStore(tmp_path / "file", ROOMY)


def test_an_entry_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, ROOMY)
    save(store, 0)
    (path,) = files(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match="Cannot read the folder of embeddings"):
        store.load(key_of())


def test_what_a_dead_process_left_is_cleared_after_an_hour(tmp_path: Path) -> None:
    save(DiskStore(tmp_path, ROOMY), 0)
    (entry,) = files(tmp_path)
    old, new = entry.with_name("old.tmp"), entry.with_name("new.tmp")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    DiskStore(tmp_path, ROOMY)
    assert (old.exists(), new.exists(), entry.exists()) == (False, True, True)


def test_one_key_is_made_by_one_at_a_time(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, ROOMY)
    inside: list[int] = []

    def make(number: int) -> int:
        with store.exclusive(key_of(), 10):
            inside.append(number)
            crowd = len(inside)
            time.sleep(0.005)
            inside.remove(number)
            return crowd

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(make, range(4))) == [1, 1, 1, 1]


def test_a_lock_that_is_not_had_in_time_holds_nobody_up(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, ROOMY)
    go, has_lock = threading.Event(), threading.Event()

    def hog() -> None:
        with store.exclusive(key_of(), 1):
            has_lock.set()
            assert go.wait(10)

    thread = threading.Thread(target=hog)
    thread.start()
    assert has_lock.wait(10)
    with store.exclusive(key_of(), 0.01):
        pass
    with store.exclusive(key_of(1), 0.01):
        pass
    go.set()
    thread.join()


def test_two_caches_encode_an_image_once(tmp_path: Path) -> None:
    caches = [
        EmbeddingCache(memory_bytes=1 << 20, store=DiskStore(tmp_path, ROOMY)) for _ in range(2)
    ]
    encode = Encoding(key_of(), is_held=True)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(cache.get, key_of(), encode) for cache in caches]
        assert encode.begun.wait(10)
        until(lambda: all(cache.stats().in_flight for cache in caches))
        encode.go.set()
        for answer in answers:
            answer.result(10)
    assert encode.runs == 1
    assert sorted(cache.stats().store_hits for cache in caches) == [0, 1]


CLICK = """
import sys, time
from pathlib import Path
from backend.embeddings.disk_store import DiskStore
from backend.embeddings.cache import EmbeddingCache
from tests.backend.making import embedding_of, key_of

def encode():
    with open(sys.argv[2], "a") as runs:
        runs.write("x")
    time.sleep(0.3)
    return embedding_of(key_of())

cache = EmbeddingCache(memory_bytes=1 << 20, store=DiskStore(Path(sys.argv[1]), 1 << 20))
print(float(cache.get(key_of(), encode).features.sum()))
"""


@pytest.mark.slow
def test_two_processes_encode_an_image_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    command = [sys.executable, "-c", CLICK, str(tmp_path / "store"), str(runs)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(answers) == 1
    assert runs.read_text() == "x"


def test_a_removed_folder_is_made_anew(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "embeddings", ROOMY)
    save(store, 0)
    shutil.rmtree(tmp_path / "embeddings")
    assert held(store, 1) == []
    with store.exclusive(key_of(1), 1.0):
        save(store, 1)
    assert held(store, 2) == [1]


def test_room_is_left_to_others_and_the_oldest_leave_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [10 * ENTRY_BYTES]

    def usage(root: Path) -> tuple[int, int, int]:
        taken = sum(path.stat().st_size for path in files(root))
        return shutil._ntuple_diskusage(10**9, 0, free[0] - taken)  # type: ignore[attr-defined,no-any-return]

    monkeypatch.setattr("backend.embeddings.disk_store.shutil.disk_usage", usage)
    store = DiskStore(tmp_path, ROOMY, min_free_bytes=6 * ENTRY_BYTES)
    for number in range(6):
        save(store, number)
        os.utime(store._path(key_of(number)), (number, number))
    assert held(store, 6) == [2, 3, 4, 5]
    free[0] = 6 * ENTRY_BYTES  # others took the rest
    save(store, 6)
    assert held(store, 7) == []
    assert store.stats().entries == 0


@as_root
def test_a_small_disk_keeps_room_for_the_journal() -> None:
    with small_disk(1_000_000) as folder:
        store = DiskStore(folder / "embeddings", 10**9, min_free_bytes=500_000_000)
        for number in range(2 * 1_000_000 // ENTRY_BYTES):
            save(store, number)
        assert store.stats().entries > 0
        assert shutil.disk_usage(folder).free >= 250_000 - ENTRY_BYTES
