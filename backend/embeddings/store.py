"""Where embeddings outlive a process: the key, the format and what every store promises.

An entry is a safetensors file: the features in half precision and the guide, and in its metadata
the whole key, both sizes and a checksum. An entry whose key or checksum does not agree is never
returned.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import Tensor

from adaptation.predictor.zoom import View
from adaptation.types import Embedding, Size

FORMAT = 2
_LENGTH_BYTES = 8
_FEATURES = "features"
_GUIDE = "guide"


@dataclass(frozen=True, kw_only=True)
class EmbeddingKey:
    """What an embedding depends on, and nothing else: learning in the decoder is not in it.

    Args:
        image_id: Digest of the whole image's pixels.
        encoder_id: Digest of the encoder's weights.
        input_size: Longest side of the model's frame, in pixels.
        view: The part of the image that is encoded; the whole image is ``View.full(size)``.
    """

    image_id: str
    encoder_id: str
    input_size: int
    view: View

    @cached_property
    def text(self) -> str:
        """The key in one canonical line."""
        view = self.view
        fields = [self.image_id, self.encoder_id, self.input_size]
        return json.dumps([FORMAT, *fields, view.x0, view.y0, view.x1, view.y1])

    @cached_property
    def digest(self) -> str:
        """A name for the entry: 40 hex digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """What a store holds and has thrown out since it was opened.

    Args:
        entries: Embeddings held, as far as this process knows.
        n_bytes: Bytes that they take.
        evicted: Entries that left to make room.
        damaged: Entries that were dropped because they could not be read.
    """

    entries: int
    n_bytes: int
    evicted: int
    damaged: int


class EmbeddingStore(Protocol):
    """Keeps embeddings for several processes; every method may raise `StoreError`."""

    def load(self, key: EmbeddingKey) -> Embedding | None:
        """The entry, its features in float16 on the CPU; None where there is no sound one."""

    def save(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keep an entry; its features are float16 on the CPU. The least recently used leave."""

    def exclusive(self, key: EmbeddingKey, timeout_s: float) -> AbstractContextManager[None]:
        """Keep other processes from making the same entry meanwhile.

        It is a courtesy that saves work and no guarantee: after `timeout_s`, or where no lock can
        be had, the block runs all the same.
        """

    def stats(self) -> StoreStats:
        """Counters, at once."""


class DamagedEntryError(Exception):
    """The bytes are not a sound entry of this key."""


def pack(key: EmbeddingKey, embedding: Embedding) -> bytes:
    """An entry's bytes."""
    about = {
        "key": key.text,
        "image_id": embedding.image_id,
        "original_size": json.dumps(embedding.original_size),
        "input_size": json.dumps(embedding.input_size),
    }
    checksum = _checksum(about, embedding.features, embedding.guide)
    tensors = {_FEATURES: embedding.features, _GUIDE: embedding.guide}
    return safetensors.save(tensors, {**about, "crc32": checksum})


def unpack(data: bytes, key: EmbeddingKey) -> Embedding:
    """The embedding in an entry's bytes.

    Raises:
        DamagedEntryError: They are cut, changed, or the entry of another key.
    """
    try:
        about = _metadata(data)
        checksum = about.pop("crc32")
        if about["key"] != key.text:
            raise DamagedEntryError("it belongs to another image, view or encoder")
        tensors = safetensors.load(data)
        features, guide = tensors[_FEATURES], tensors[_GUIDE]
        if checksum != _checksum(about, features, guide):
            raise DamagedEntryError("its checksum is wrong")
        return Embedding(
            features=features,
            original_size=_size(about["original_size"]),
            input_size=_size(about["input_size"]),
            image_id=about["image_id"],
            encoder_id=key.encoder_id,
            guide=guide,
        )
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedEntryError(f"it cannot be read ({type(error).__name__})") from error


def _metadata(data: bytes) -> dict[str, str]:
    """Safetensors: eight bytes of length, a JSON header of that length, the tensors' bytes."""
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = json.loads(data[_LENGTH_BYTES:end])
    return dict(header["__metadata__"])


def _checksum(about: dict[str, str], *tensors: Tensor) -> str:
    kinds = [[list(tensor.shape), str(tensor.dtype)] for tensor in tensors]
    found = zlib.crc32(json.dumps([about, kinds], sort_keys=True).encode())
    for tensor in tensors:
        found = zlib.crc32(tensor.numpy().data, found)
    return f"{found:08x}"


def _size(text: str) -> Size:
    height, width = json.loads(text)
    return int(height), int(width)
