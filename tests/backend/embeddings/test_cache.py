"""The cache: one encode per image, whoever asks, and the same numbers for all."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptation.errors import ImageError, ModelError, StoreError
from adaptation.models.sam import PromptableSam
from adaptation.predictor.zoom import View
from adaptation.types import Embedding, Prompt, as_clicks
from backend.embeddings.cache import EmbeddingCache, MemoryLru
from backend.embeddings.disk_store import DiskStore
from backend.embeddings.store import EmbeddingKey, StoreStats
from tests.adaptation.conftest import tiny_vit_sam
from tests.backend.making import N_BYTES, Encoding, embedding_of, holds, key_of, rounded, until

ROOMY = 1000 * N_BYTES


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as executor:
        yield executor


# One encode ---------------------------------------------------------------------------------


def test_an_image_is_encoded_once() -> None:
    cache, encode = EmbeddingCache(memory_bytes=ROOMY), Encoding(key_of())
    for _ in range(3):
        cache.get(key_of(), encode)
    assert encode.runs == 1
    assert (cache.stats().encodes, cache.stats().memory_hits) == (1, 2)


def test_ten_clicks_at_once_make_one_encode(pool: ThreadPoolExecutor) -> None:
    cache, encode = EmbeddingCache(memory_bytes=ROOMY), Encoding(key_of(), is_held=True)
    answers = [pool.submit(cache.get, key_of(), encode) for _ in range(10)]
    until(lambda: cache.stats().waits == 9)
    assert cache.stats().in_flight == 1
    encode.go.set()
    features = [answer.result(10).features for answer in answers]
    assert encode.runs == 1
    assert all(torch.equal(other, features[0]) for other in features)
    assert len({f.data_ptr() for f in features}) == 10, "nobody shares a tensor"


def test_without_any_memory_those_who_wait_are_answered_too(pool: ThreadPoolExecutor) -> None:
    cache, encode = EmbeddingCache(memory_bytes=0), Encoding(key_of(), is_held=True)
    answers = [pool.submit(cache.get, key_of(), encode) for _ in range(4)]
    until(lambda: cache.stats().waits == 3)
    encode.go.set()
    assert {answer.result(10).image_id for answer in answers} == {"image-0"}
    assert encode.runs == 1
    assert not holds(cache, key_of())


def test_two_images_are_encoded_side_by_side(pool: ThreadPoolExecutor) -> None:
    cache = EmbeddingCache(memory_bytes=ROOMY, max_encodes=2)
    encodes = [Encoding(key_of(n), is_held=True) for n in range(3)]
    answers = [pool.submit(cache.get, encode.key, encode) for encode in encodes]
    until(lambda: sum(encode.runs for encode in encodes) == 2)
    time.sleep(0.02)
    assert sum(encode.runs for encode in encodes) == 2, "and never more than two"
    for encode in encodes:
        encode.go.set()
    assert {answer.result(10).image_id for answer in answers} == {"image-0", "image-1", "image-2"}


@pytest.mark.parametrize(
    "other",
    [
        key_of(1),
        key_of(encoder_id="retrained"),
        key_of(view=View(0, 0, 40, 60)),
        EmbeddingKey(image_id="image-0", encoder_id="encoder", input_size=32, view=key_of().view),
    ],
)
def test_whatever_an_embedding_depends_on_is_in_its_key(other: EmbeddingKey) -> None:
    cache = EmbeddingCache(memory_bytes=ROOMY)
    cache.get(key_of(), Encoding(key_of()))
    encode = Encoding(other)
    assert cache.get(other, encode).encoder_id == other.encoder_id
    assert encode.runs == 1
    assert other.digest != key_of().digest


# The same numbers ---------------------------------------------------------------------------


def test_the_first_answer_and_all_later_ones_are_equal(tmp_path: Path) -> None:
    wanted = rounded(key_of())
    assert not torch.equal(wanted, embedding_of(key_of()).features)
    store = DiskStore(tmp_path, 1 << 20)
    cache = EmbeddingCache(memory_bytes=ROOMY, store=store)
    fresh = cache.get(key_of(), Encoding(key_of()))
    warm = cache.get(key_of(), Encoding(key_of()))
    restarted = EmbeddingCache(memory_bytes=ROOMY, store=store)
    stored = restarted.get(key_of(), Encoding(key_of()))
    assert restarted.stats().store_hits == 1
    for answer in (fresh, warm, stored):
        assert answer.features.dtype == torch.float32
        assert torch.equal(answer.features, wanted)
        assert (answer.original_size, answer.input_size) == ((60, 80), (48, 64))
        assert (answer.image_id, answer.encoder_id) == ("image-0", "encoder")


def test_writing_to_an_answer_changes_nobody_elses() -> None:
    cache = EmbeddingCache(memory_bytes=ROOMY)
    cache.get(key_of(), Encoding(key_of())).features.zero_()
    assert cache.get(key_of(), Encoding(key_of())).features.abs().sum() > 0


def test_gradients_do_not_hang_on_to_the_encoder() -> None:
    def encode() -> Embedding:
        made = embedding_of(key_of())
        made.features.requires_grad_()
        return made

    assert not EmbeddingCache(memory_bytes=ROOMY).get(key_of(), encode).features.requires_grad


# Failing ------------------------------------------------------------------------------------


def test_a_failed_encode_is_told_to_all_and_tried_again(pool: ThreadPoolExecutor) -> None:
    cache = EmbeddingCache(memory_bytes=ROOMY)
    encode = Encoding(key_of(), is_held=True, errors=[ImageError("not an image")])
    answers = [pool.submit(cache.get, key_of(), encode) for _ in range(5)]
    until(lambda: cache.stats().waits == 4)
    encode.go.set()
    for answer in answers:
        with pytest.raises(ImageError, match="not an image"):
            answer.result(10)
    assert encode.runs == 1
    assert cache.get(key_of(), encode).image_id == "image-0"
    stats = cache.stats()
    assert (encode.runs, stats.failures, stats.encodes, stats.in_flight) == (2, 1, 1, 0)


def test_an_error_inside_the_encoder_frees_its_place() -> None:
    cache = EmbeddingCache(memory_bytes=ROOMY, max_encodes=1)
    with pytest.raises(ZeroDivisionError):
        cache.get(key_of(), lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert cache.get(key_of(1), Encoding(key_of(1)), timeout_s=1).image_id == "image-1"


def test_one_who_waits_may_give_up_and_the_others_go_on(pool: ThreadPoolExecutor) -> None:
    cache, encode = EmbeddingCache(memory_bytes=ROOMY), Encoding(key_of(), is_held=True)
    patient = pool.submit(cache.get, key_of(), encode)
    assert encode.begun.wait(10)
    with pytest.raises(StoreError, match=r"not encoded within 0\.01 s; try again"):
        cache.get(key_of(), encode, timeout_s=0.01)
    encode.go.set()
    assert patient.result(10).image_id == "image-0"
    assert cache.stats().timeouts == 1


def test_one_who_gives_up_before_its_turn_leaves_the_work_to_those_who_wait(
    pool: ThreadPoolExecutor,
) -> None:
    cache = EmbeddingCache(memory_bytes=ROOMY, max_encodes=1)
    blocker = Encoding(key_of(9), is_held=True)
    blocked = pool.submit(cache.get, key_of(9), blocker)
    assert blocker.begun.wait(10)
    hasty, patient = Encoding(key_of()), Encoding(key_of())
    first = pool.submit(cache.get, key_of(), hasty, timeout_s=0.2)
    until(lambda: cache.stats().in_flight == 2)
    second = pool.submit(cache.get, key_of(), patient, timeout_s=10)
    until(lambda: cache.stats().waits == 1)
    with pytest.raises(StoreError, match="not encoded within"):
        first.result(10)
    blocker.go.set()
    assert second.result(10).image_id == "image-0"
    assert blocked.result(10).image_id == "image-9"
    assert (hasty.runs, patient.runs) == (0, 1)


def test_features_of_another_encoder_are_refused() -> None:
    cache = EmbeddingCache(memory_bytes=ROOMY)
    with pytest.raises(ModelError, match="made by encoder old, wanted was encoder encoder"):
        cache.get(key_of(), Encoding(key_of(encoder_id="old")))
    assert cache.stats().memory_entries == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_features_that_half_precision_cannot_hold_are_refused(value: float) -> None:
    def encode() -> Embedding:
        made = embedding_of(key_of())
        made.features[0, 0, 0, 0] = value
        return made

    with pytest.raises(ModelError, match="not finite in half precision"):
        EmbeddingCache(memory_bytes=ROOMY).get(key_of(), encode)


def test_under_a_storm_each_image_is_encoded_by_one_at_a_time(tmp_path: Path) -> None:
    cache = EmbeddingCache(memory_bytes=2 * N_BYTES, store=DiskStore(tmp_path, 1500), max_encodes=3)
    running: list[int] = []
    crowds: list[int] = []

    def encode(number: int, fails: bool) -> Embedding:
        assert number not in running
        running.append(number)
        crowds.append(len(running))
        time.sleep(0.0005)
        running.remove(number)
        if fails:
            raise ImageError(str(number))
        return embedding_of(key_of(number))

    def click(seed: int) -> int:
        chance = random.Random(seed)
        answered = 0
        for _ in range(40):
            number, fails = chance.randrange(6), chance.random() < 0.2
            request = partial(encode, number, fails)
            try:
                is_background = chance.random() < 0.3
                answer = cache.get(key_of(number), request, is_background=is_background)
            except ImageError as error:
                assert str(error) == str(number)
            else:
                assert torch.equal(answer.features, rounded(key_of(number)))
                answered += 1
        return answered

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(click, range(8))) > 100
    stats = cache.stats()
    assert max(crowds) <= 3
    assert stats.in_flight == 0
    assert stats.encodes + stats.failures == len(crowds)
    assert stats.memory_bytes <= 2 * N_BYTES


def test_a_real_model_answers_alike_on_a_fresh_and_on_a_stored_embedding(tmp_path: Path) -> None:
    sam = PromptableSam(tiny_vit_sam(), "tiny")
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    view = View.full((48, 80))
    key = EmbeddingKey(
        image_id="digest", encoder_id=sam.encoder_id, input_size=sam.input_size, view=view
    )
    prompt = Prompt(clicks=as_clicks([(40, 20, True)]))
    logits = []
    for _ in range(2):
        cache = EmbeddingCache(memory_bytes=1 << 20, store=DiskStore(tmp_path, 1 << 20))
        for _ in range(2):
            embedding = cache.get(key, partial(sam.embed, image))
            logits.append(sam.decode(embedding, [prompt]).low_res_logits)
    assert all(torch.equal(other, logits[0]) for other in logits)


# Memory -------------------------------------------------------------------------------------


def test_the_least_recently_used_leave() -> None:
    cache = EmbeddingCache(memory_bytes=3 * N_BYTES)
    for number in (0, 1, 2, 0, 3):
        cache.get(key_of(number), Encoding(key_of(number)))
    assert [holds(cache, key_of(number)) for number in range(4)] == [True, False, True, True]
    assert cache.stats().evictions == 1


@given(
    capacity=st.integers(0, 5),
    accesses=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 3)), max_size=60),
)
def test_memory_is_bounded_and_in_order_of_use(
    capacity: int, accesses: list[tuple[int, int]]
) -> None:
    memory = MemoryLru(capacity * N_BYTES)
    model: list[tuple[int, int]] = []  # (number, size), the least recently used first
    for number, size in accesses:
        held = memory.get(key_of(number))
        known = next((entry for entry in model if entry[0] == number), None)
        assert (held is None) == (known is None)
        if known is not None:
            model.remove(known)
            model.append(known)
        else:
            made = embedding_of(key_of(number))
            memory.put(key_of(number), _of_size(made, size))
            if size <= capacity:
                model.append((number, size))
                while sum(n for _, n in model) > capacity:
                    model.pop(0)
        assert memory.currsize == sum(n for _, n in model) * N_BYTES <= capacity * N_BYTES
        assert set(memory) == {key_of(n) for n, _ in model}
    for number, _ in model:
        assert memory.popitem()[0] == key_of(number), "the least recently used leaves first"
    assert memory.currsize == 0


def test_putting_an_entry_again_replaces_it() -> None:
    memory = MemoryLru(4 * N_BYTES)
    for size in (1, 3, 2):
        memory.put(key_of(), _of_size(embedding_of(key_of()), size))
        assert (len(memory), memory.currsize) == (1, size * N_BYTES)


def _of_size(embedding: Embedding, size: int) -> Embedding:
    """One that takes ``size`` times as many bytes."""
    return replace(
        embedding,
        features=torch.zeros(size, 4, 8, 8, dtype=torch.float16),
        guide=torch.zeros(size * 6, 8, 3, dtype=torch.uint8),
    )


# The store ----------------------------------------------------------------------------------


class FailingStore:
    """A store whose disk is gone."""

    def __init__(self) -> None:
        self.asked = 0

    def load(self, key: EmbeddingKey) -> Embedding | None:
        self.asked += 1
        raise StoreError("The disk is gone.")

    def save(self, key: EmbeddingKey, embedding: Embedding) -> None:
        self.asked += 1
        raise StoreError("The disk is gone.")

    def exclusive(self, key: EmbeddingKey, timeout_s: float) -> AbstractContextManager[None]:
        self.asked += 1
        return nullcontext()

    def stats(self) -> StoreStats:
        return StoreStats(entries=0, n_bytes=0, evicted=0, damaged=0)


def test_a_failing_store_costs_no_click_and_rests(caplog: pytest.LogCaptureFixture) -> None:
    store = FailingStore()
    cache = EmbeddingCache(memory_bytes=ROOMY, store=store)
    for number in range(3):
        assert cache.get(key_of(number), Encoding(key_of(number))).image_id == f"image-{number}"
    assert store.asked == 1
    assert cache.stats().store_failures == 1
    assert "The disk is gone. Going on without it" in caplog.text


def test_a_damaged_entry_is_encoded_again(tmp_path: Path) -> None:
    EmbeddingCache(memory_bytes=0, store=DiskStore(tmp_path, 1 << 20)).get(
        key_of(), Encoding(key_of())
    )
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    encode = Encoding(key_of())
    cache = EmbeddingCache(memory_bytes=0, store=DiskStore(tmp_path, 1 << 20))
    assert torch.equal(cache.get(key_of(), encode).features, rounded(key_of()))
    assert encode.runs == 1
    assert cache.get(key_of(), encode).image_id == "image-0"
    assert encode.runs == 1, "it lies in the store again"


def test_the_store_is_written_after_those_who_wait_are_answered(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    class SlowStore(DiskStore):
        go = threading.Event()

        def save(self, key: EmbeddingKey, embedding: Embedding) -> None:
            assert self.go.wait(10)
            super().save(key, embedding)

    store = SlowStore(tmp_path, 1 << 20)
    cache, encode = EmbeddingCache(memory_bytes=ROOMY, store=store), Encoding(key_of())
    maker: Future[Embedding] = pool.submit(cache.get, key_of(), encode)
    until(lambda: cache.stats().encodes == 1)
    assert cache.get(key_of(), encode, timeout_s=5).image_id == "image-0"
    store.go.set()
    maker.result(10)
    assert store.stats().entries == 1
