"""The format of stored embeddings: sound entries come back as they were, others never."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptation.predictor.zoom import View
from backend.embeddings.store import DamagedEntryError, EmbeddingKey, pack, unpack
from tests.backend.making import embedding_of, key_of, packed

numbers = st.integers(0, 10_000)
keys = st.builds(
    EmbeddingKey,
    image_id=st.text(max_size=70),
    encoder_id=st.text(max_size=20),
    input_size=st.integers(1, 2048),
    view=st.builds(View, numbers, numbers, numbers, numbers),
)


@given(key=keys)
def test_an_entry_comes_back_as_it_was(key: EmbeddingKey) -> None:
    embedding = embedding_of(key, is_half=True)
    found = unpack(pack(key, embedding), key)
    assert torch.equal(found.features, embedding.features)
    assert found.features.dtype == torch.float16
    assert (found.image_id, found.encoder_id) == (key.image_id, key.encoder_id)
    assert (found.original_size, found.input_size) == (key.view.size, embedding.input_size)


@given(one=keys, other=keys)
def test_keys_that_differ_have_entries_that_differ(one: EmbeddingKey, other: EmbeddingKey) -> None:
    assert (one == other) == (one.text == other.text) == (one.digest == other.digest)


@pytest.mark.parametrize(
    "other", [key_of(1), key_of(encoder_id="retrained"), key_of(view=View(1, 0, 80, 60))]
)
def test_an_entry_of_another_key_is_never_returned(other: EmbeddingKey) -> None:
    with pytest.raises(DamagedEntryError, match="another image, view or encoder"):
        unpack(packed(key_of()), other)


@given(data=st.data())
def test_a_cut_entry_is_noticed_wherever_it_is_cut(data: st.DataObject) -> None:
    whole = packed(key_of())
    n_bytes = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(DamagedEntryError):
        unpack(whole[:n_bytes], key_of())


@given(data=st.data())
def test_a_flipped_bit_is_noticed_or_harmless(data: st.DataObject) -> None:
    whole = bytearray(packed(key_of()))
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = unpack(bytes(whole), key_of())
    except DamagedEntryError:
        return
    assert pack(key_of(), found) == packed(key_of())


def test_bytes_of_anything_else_are_refused() -> None:
    for other in (b"", b"\0" * 100, b"\xff" * 100, b"\x02" + b"\0" * 7 + b"[]"):
        with pytest.raises(DamagedEntryError):
            unpack(other, key_of())
