"""Embeddings made for tests: small, different for every key, countable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from adaptation.predictor.zoom import View
from adaptation.types import Embedding
from backend.embeddings.cache import EmbeddingCache
from backend.embeddings.store import EmbeddingKey, pack

SIDE = 8
GUIDE = (6, 8, 3)
N_BYTES = 2 * 4 * SIDE * SIDE + 6 * 8 * 3
"""Bytes of one of these embeddings in half precision."""


def holds(cache: EmbeddingCache, key: EmbeddingKey) -> bool:
    """Whether an embedding is in the cache, its store included: then nobody has to make it."""

    def missing() -> Embedding:
        raise LookupError("it is not there")

    try:
        cache.get(key, missing)
    except LookupError:
        return False
    return True


def until(condition: Callable[[], bool], limit_s: float = 60) -> None:
    """Wait for what another thread is about to bring about, on a busy machine too."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.001)


def key_of(
    number: int = 0, *, encoder_id: str = "encoder", view: View | None = None
) -> EmbeddingKey:
    """The key of the whole of image `number`."""
    return EmbeddingKey(
        image_id=f"image-{number}",
        encoder_id=encoder_id,
        input_size=64,
        view=view or View(0, 0, 80, 60),
    )


def embedding_of(key: EmbeddingKey, *, is_half: bool = False) -> Embedding:
    """What the encoder makes of a key: always the same, and more precise than float16.

    Args:
        key: Of what.
        is_half: As the caches keep it.
    """
    seed = int(key.digest[:8], 16)
    features = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    return Embedding(
        features=features.half() if is_half else features,
        original_size=key.view.size,
        input_size=(48, 64),
        image_id=key.image_id,
        encoder_id=key.encoder_id,
        guide=torch.randint(0, 256, GUIDE, generator=torch.Generator().manual_seed(seed)).byte(),
    )


def rounded(key: EmbeddingKey) -> torch.Tensor:
    """The features that everyone is given."""
    return embedding_of(key, is_half=True).features.float()


def packed(key: EmbeddingKey) -> bytes:
    """The stored entry of a key."""
    return pack(key, embedding_of(key, is_half=True))


@dataclass
class Encoding:
    """An encode of one key that can be held up, fail, and tells how often it ran.

    Args:
        key: What it makes.
        is_held: Whether it waits for `go`.
        errors: Raised by the first runs.
    """

    key: EmbeddingKey
    is_held: bool = False
    errors: list[Exception] = field(default_factory=list)
    runs: int = 0
    begun: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> Embedding:
        self.runs += 1
        self.begun.set()
        if self.is_held:
            assert self.go.wait(10), "the test forgot to let it go"
        if self.errors:
            raise self.errors.pop(0)
        return embedding_of(self.key)
