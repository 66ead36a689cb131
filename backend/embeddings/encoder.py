"""Embeddings of the images of tasks, and of crops of them, through the cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from adaptation.errors import ImageError
from adaptation.models.sam import PromptableSam
from adaptation.predictor.settings import ZoomSettings
from adaptation.predictor.zoom import View, begins_whole
from adaptation.storage.album import Album
from adaptation.types import Embedding
from backend.embeddings.cache import EmbeddingCache
from backend.embeddings.prefetch_queue import PrefetchTask
from backend.embeddings.store import EmbeddingKey
from backend.images.loader import ImageIdentity, ImageLoader, TaskImage

ENCODE_TIMEOUT_S = 95.0
"""A click waits no longer for an encode: Label Studio hangs up after 100 seconds."""

Job = tuple[EmbeddingKey, Callable[[], Embedding]]


class Encoder:
    """The way from a task's image to an embedding.  Thread-safe.

    Args:
        sam: The model.
        images: Reads the images.
        cache: Keeps the embeddings.
    """

    def __init__(self, sam: PromptableSam, images: ImageLoader, cache: EmbeddingCache) -> None:
        self._sam, self._images, self._cache = sam, images, cache

    def identify(self, image: TaskImage) -> ImageIdentity:
        """Digest and size; ImageError where the image may not or cannot be read."""
        return self._images.identify(image.image_ref, image.task_id)

    def embed(
        self,
        image: TaskImage,
        identity: ImageIdentity,
        view: View,
        timeout_s: float = ENCODE_TIMEOUT_S,
    ) -> Embedding:
        """The embedding of a view: from the cache, or made now (once, whoever asks).

        Raises:
            StoreError: Others were encoded for longer than ``timeout_s``.
        """
        key, encode = self._job(image, identity, view)
        return self._cache.get(key, encode, timeout_s=timeout_s)

    def embed_from(self, album: Album, image_id: str, view: View) -> Embedding:
        """The same, of an image that is known by its digest alone and lies in an album.

        Raises:
            ImageError: It has to be encoded, and is not in the album.
        """

        def encode() -> Embedding:
            crop = album.read(image_id)[view.y0 : view.y1, view.x0 : view.x1]
            return self._sam.embed(crop, image_id=image_id)

        return self._cache.get(self._key(image_id, view), encode, timeout_s=ENCODE_TIMEOUT_S)

    def pixels(self, image: TaskImage) -> NDArray[np.uint8]:
        """Its pixels, ``[H, W, 3]`` uint8 RGB; ImageError where it cannot be read."""
        return self._images.load(image.image_ref, image.task_id).pixels

    def fill(self, image: TaskImage) -> bool:
        """Encode a whole image in the foreground; False where that was done before."""
        encodes, identity = self._cache.stats().encodes, self.identify(image)
        self.embed(image, identity, View.full(identity.size))
        return self._cache.stats().encodes > encodes

    def whole_image(self, image: TaskImage, zoom: ZoomSettings) -> PrefetchTask:
        """Work for the prefetch queue: a task's image, read and encoded.

        Of a frame so long and thin that a first click is decoded on a piece of it, nothing is
        encoded: where the click will lie is not known.

        Args:
            image: The image.
            zoom: Tells what a first click is decoded on.
        """

        def load() -> Job | None:
            identity = self.identify(image)
            if not begins_whole(identity.size, zoom):
                return None
            return self._job(image, identity, View.full(identity.size))

        return PrefetchTask(name=image.name, load=load)

    def view(self, image: TaskImage, identity: ImageIdentity, view: View) -> PrefetchTask:
        """Work for the prefetch queue: the view of an image that the next click will need."""
        name = f"{identity.digest}/{view.x0},{view.y0},{view.x1},{view.y1}"
        return PrefetchTask(name=name, load=lambda: self._job(image, identity, view))

    def _job(self, image: TaskImage, identity: ImageIdentity, view: View) -> Job:

        def encode() -> Embedding:
            loaded = self._images.load(image.image_ref, image.task_id)
            if loaded.digest != identity.digest:
                raise ImageError("The image was replaced while it was labeled: click again.")
            crop = loaded.pixels[view.y0 : view.y1, view.x0 : view.x1]
            return self._sam.embed(crop, image_id=identity.digest)

        return self._key(identity.digest, view), encode

    def _key(self, image_id: str, view: View) -> EmbeddingKey:
        return EmbeddingKey(
            image_id=image_id,
            encoder_id=self._sam.encoder_id,
            input_size=self._sam.input_size,
            view=view,
        )
