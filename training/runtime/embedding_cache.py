"""Embeddings of images and of views, kept on disk between runs of the evaluation.

An encoder costs more than everything else in a click, and it never learns: the embedding of a view
is the same in every run, for the frozen and the adapted decoder.  Features are kept as float16 and
given back as float32; a fresh embedding is rounded the same way, so that what was cached and what
was not give the same masks.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from adaptation.models.sam import PromptableSam, digest_of_pixels
from adaptation.predictor.zoom import View
from adaptation.storage.tensors import write_tensors
from adaptation.types import Embedding

logger = logging.getLogger(__name__)

Encode = Callable[[View], Embedding]

_SUFFIX = ".safetensors"
_N_IN_MEMORY = 32
_SHARE_KEPT = 0.9


class EncodingStore:
    """A folder of embeddings, bounded in bytes; any number of processes may share it.

    The files that were not read for the longest time go first.

    Args:
        folder: Made when the first embedding is written.
        max_bytes: Of all files together; may be passed by a sixteenth between two clean-ups.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._written = max_bytes  # clean up at the first write

    def load(self, key: str) -> Embedding | None:
        """Read an embedding, its features as float16; None where there is none to be read."""
        path = self._path(key)
        try:
            with safe_open(path, framework="pt") as file:
                fields = json.loads(file.metadata()["embedding"])
                features, guide = file.get_tensor("features"), file.get_tensor("guide")
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError):
            logger.warning("the cached embedding %s is damaged and is made again", path.name)
            return None
        return Embedding(
            features=features,
            original_size=tuple(fields["original_size"]),
            input_size=tuple(fields["input_size"]),
            image_id=fields["image_id"],
            encoder_id=fields["encoder_id"],
            guide=guide,
        )

    def save(self, key: str, embedding: Embedding) -> None:
        """Write an embedding whole or not at all; a full disk is logged and costs speed only."""
        path = self._path(key)
        fields = {
            "original_size": embedding.original_size,
            "input_size": embedding.input_size,
            "image_id": embedding.image_id,
            "encoder_id": embedding.encoder_id,
        }
        tensors = {
            "features": embedding.features.detach().cpu().contiguous(),
            "guide": embedding.guide.contiguous(),
        }
        try:
            write_tensors(path, tensors, {"embedding": json.dumps(fields)})
        except OSError as error:
            logger.warning("an embedding could not be cached: %s", error)
            return
        self._make_room(embedding.n_bytes)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}{_SUFFIX}"

    def _make_room(self, n_bytes: int) -> None:
        self._written += n_bytes
        if self._written < self._max_bytes / 16:
            return
        self._written = 0
        files = [(p, s) for p in self._folder.glob(f"*/*{_SUFFIX}") if (s := _stat(p)) is not None]
        excess = sum(stat.st_size for _, stat in files) - self._max_bytes
        if excess <= 0:
            return
        excess += int((1 - _SHARE_KEPT) * self._max_bytes)
        for path, stat in sorted(files, key=lambda item: item[1].st_mtime_ns):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= stat.st_size


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:  # another process made room
        return None


class CachedEncoder:
    """Encodes views of images with one model, through memory and a store.

    Args:
        sam: The model.
        store: Kept between runs; None encodes every view anew in every run.
        n_in_memory: Embeddings that this process keeps at hand; 0 for none.
        clock: Seconds, for what is timed.
    """

    def __init__(
        self,
        sam: PromptableSam,
        store: EncodingStore | None = None,
        n_in_memory: int = _N_IN_MEMORY,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._sam = sam
        self._store = store
        self._clock = clock
        self._memory: LRUCache[str, Embedding] = LRUCache(n_in_memory)
        self.encode_s = 0.0
        """Seconds spent in the encoder so far."""
        self.n_encoded = 0
        """Views encoded so far, cached ones not counted."""

    def of(self, image: NDArray[np.uint8]) -> Encode:
        """What `Interaction.answer` asks for embeddings, for one image.

        Args:
            image: `[H, W, 3]` uint8, RGB.
        """
        return self.of_id(digest_of_pixels(image), lambda: image)

    def of_id(self, image_id: str, read: Callable[[], NDArray[np.uint8]]) -> Encode:
        """The same for an image that is read only if one of its views has to be encoded.

        Args:
            image_id: Digest of its pixels.
            read: Gives them, `[H, W, 3]` uint8, RGB.
        """
        return lambda view: self._embedding(read, image_id, view)

    def _embedding(
        self, read: Callable[[], NDArray[np.uint8]], image_id: str, view: View
    ) -> Embedding:
        key = self._key(image_id, view)
        if key in self._memory:
            return self._memory[key]
        found = self._stored(key)
        if found is None:
            found = self._encode(key, read(), view)
        if self._memory.maxsize:
            self._memory[key] = found
        return found

    def _key(self, image_id: str, view: View) -> str:
        name = f"{image_id} {view.x0},{view.y0},{view.x1},{view.y1} {self._sam.encoder_id}"
        return hashlib.sha256(f"{name} {self._sam.input_size}".encode()).hexdigest()[:40]

    def _stored(self, key: str) -> Embedding | None:
        if self._store is None:
            return None
        found = self._store.load(key)
        if found is None or found.encoder_id != self._sam.encoder_id:
            return None
        return replace(found, features=found.features.to(self._sam.device, torch.float32))

    def _encode(self, key: str, image: NDArray[np.uint8], view: View) -> Embedding:
        started = self._clock()
        fresh = self._sam.embed(image[view.y0 : view.y1, view.x0 : view.x1])
        self.encode_s += self._clock() - started
        self.n_encoded += 1
        half = replace(fresh, features=fresh.features.half())
        if self._store is not None:
            self._store.save(key, half)
        return replace(fresh, features=half.features.float())
