from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from adaptation.predictor.zoom import View
from adaptation.types import Embedding
from tests.training.fakes import tiny_model
from training.runtime.embedding_cache import CachedEncoder, EncodingStore

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
WHOLE, PART = View.full((40, 60)), View(10, 5, 42, 37)


def embedding(value: float, n: int = 1000) -> Embedding:
    return Embedding(
        features=torch.full((1, n, 1, 1), value, dtype=torch.float16),
        original_size=(4, 5),
        input_size=(48, 60),
        image_id="i",
        encoder_id="e",
        guide=torch.zeros(1, 1, 3, dtype=torch.uint8),
    )


def test_a_stored_embedding_comes_back_the_same(tmp_path: Path) -> None:
    store = EncodingStore(tmp_path / "cache", 10**6)
    assert store.load("ab12") is None
    store.save("ab12", embedding(1.5))
    found = store.load("ab12")
    assert found is not None
    assert torch.equal(found.features, embedding(1.5).features)
    assert (found.original_size, found.input_size) == ((4, 5), (48, 60))
    assert (found.image_id, found.encoder_id) == ("i", "e")


def test_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    store = EncodingStore(tmp_path, 10**6)
    store.save("ab12", embedding(1.0))
    next(tmp_path.rglob("*.safetensors")).write_bytes(b"torn")
    assert store.load("ab12") is None


def test_the_store_is_bounded_and_drops_what_was_read_longest_ago(tmp_path: Path) -> None:
    store = EncodingStore(tmp_path, 10_000)
    for i in range(4):
        store.save(f"{i:04}", embedding(float(i)))
        os.utime(next(tmp_path.rglob(f"{i:04}*")), (i, i))
    assert store.load("0000") is not None  # read again: now the newest
    for i in range(4, 6):
        store.save(f"{i:04}", embedding(float(i)))
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.safetensors")) <= 10_000
    assert store.load("0000") is not None
    assert store.load("0001") is None


def test_an_unwritable_store_costs_speed_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = EncodingStore(tmp_path / "file", 10**6)
    store.save("ab12", embedding(1.0))
    assert store.load("ab12") is None


def test_cached_and_fresh_embeddings_are_the_same_to_the_bit(tmp_path: Path) -> None:
    sam = tiny_model()
    first, second = (CachedEncoder(sam, EncodingStore(tmp_path, 10**8), 0) for _ in range(2))
    bare = CachedEncoder(sam, None, 0)
    for view in (WHOLE, PART):
        fresh = first.of(IMAGE)(view)
        stored = second.of(IMAGE)(view)
        plain = bare.of(IMAGE)(view)
        assert fresh.features.dtype == stored.features.dtype == torch.float32
        assert torch.equal(fresh.features, stored.features)
        assert torch.equal(fresh.features, plain.features)
        assert stored.original_size == view.size
    assert (first.n_encoded, second.n_encoded, bare.n_encoded) == (2, 0, 2)
    assert first.encode_s > 0 and second.encode_s == 0


def test_a_view_is_encoded_once_for_an_image_and_a_model(tmp_path: Path) -> None:
    encoder = CachedEncoder(tiny_model(), None, n_in_memory=2)
    encode = encoder.of(IMAGE)
    encode(WHOLE), encode(PART), encode(WHOLE)
    assert encoder.n_encoded == 2
    encoder.of(IMAGE[:, ::-1])(WHOLE)
    assert encoder.n_encoded == 3
    encode(WHOLE)  # used last but one: still in memory
    assert encoder.n_encoded == 3
    encode(PART)
    assert encoder.n_encoded == 4
