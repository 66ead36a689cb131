"""A task's image reference -> its pixels and their identity, read as seldom as possible.

A click needs the image's digest (the key of its embedding) and, for a zoom, its pixels.  Reading
and decoding take longer than answering the click, so both are remembered: digests of many images,
files and pixels of as many as fit into a number of bytes.  After ``max_age_s`` a file is read
again, in case it was replaced; unchanged bytes are not decoded again.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from cachetools import LRUCache, TTLCache

from adaptation.errors import ImageError, StoreError
from adaptation.storage.images import DecodedImage, Pixels, decode_image
from adaptation.types import Size
from backend.images.sources import public_reference

logger = logging.getLogger(__name__)

MAX_KNOWN = 20_000
"""References whose digests are remembered; one takes about 500 bytes."""


class Source(Protocol):
    """Where files come from; `backend.images.sources.ImageSource` is the real one."""

    def read(self, image_ref: str, task_id: str) -> bytes:
        """The encoded file; ImageError where it may not or cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageIdentity:
    """What an image is, without its pixels.

    Args:
        digest: SHA-256 of the encoded file, hexadecimal.
        size: (H, W) of the upright image.
        media_type: Such as "image/png".
    """

    digest: str
    size: Size
    media_type: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedImage:
    """An image.

    Args:
        identity: Its digest, size and kind.
        pixels: ``[H, W, 3]`` uint8 RGB, upright, shared and read-only: copy before writing.
        content: The encoded file.
    """

    identity: ImageIdentity
    pixels: Pixels
    content: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the encoded file, hexadecimal."""
        return self.identity.digest

    @property
    def size(self) -> Size:
        """(H, W)."""
        return self.identity.size

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        return self.pixels.nbytes + len(self.content)


class ImageLoader:
    """Loads images by reference.  Safe to share between threads.

    Threads that ask for the same image at once wait for one download; two images are decoded at
    once at most, since each may take hundreds of megabytes.

    Args:
        source: Where the files come from.
        max_pixels: Largest width times height.
        cache_bytes: Memory for images, decoded and as files.
        max_age_s: Seconds after which a file is read again.
        max_waiting: Threads that may wait for files at once, two thirds for one host's; more are
            refused at once, so that a slow host holds up those alone who ask it.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        source: Source,
        *,
        max_pixels: int = 100_000_000,
        cache_bytes: int = 256 << 20,
        max_age_s: float = 600.0,
        max_waiting: int = 21,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._max_pixels = max_pixels
        self._known: TTLCache[str, ImageIdentity] = TTLCache(MAX_KNOWN, max_age_s, clock)
        self._known_lock = threading.Lock()
        self._images = _ImageCache(cache_bytes)
        self._in_turn = _KeyedLocks()
        self._waiting = _Waiting(max_waiting)
        self._decode_slots = threading.BoundedSemaphore(2)

    def identify(self, image_ref: str, task_id: str) -> ImageIdentity:
        """The digest and size; reads the file only if it was not read lately.

        Raises:
            ImageError: The image may not or cannot be read or decoded.
        """
        known = self._fresh(_key(image_ref, task_id))
        return known or self.load(image_ref, task_id).identity

    def load(self, image_ref: str, task_id: str) -> LoadedImage:
        """The pixels, from memory where they are there.

        Args:
            image_ref: As it stands in the task's data.
            task_id: The task's number in Label Studio.

        Raises:
            ImageError: The image may not or cannot be read or decoded.
            WaitingError: Too many wait for files already.
        """
        key = _key(image_ref, task_id)
        kept = self._kept(key)
        if kept is not None:
            return kept
        with self._waiting.one_more(_host(image_ref)), self._in_turn.hold(key):
            return self._kept(key) or self._read(key, image_ref, task_id)

    def _kept(self, key: str) -> LoadedImage | None:
        identity = self._fresh(key)
        return self._images.get(identity.digest) if identity else None

    def file(self, identity: ImageIdentity, image_ref: str, task_id: str) -> bytes:
        """The encoded file of an image that was identified, read again where it left the memory.

        Raises:
            ImageError: It cannot be read any more, or was replaced meanwhile.
        """
        kept = self.file_in_memory(identity)
        content = kept or self._source.read(image_ref, task_id)
        if kept is None and hashlib.sha256(content).hexdigest() != identity.digest:
            raise ImageError("The image was replaced after it was clicked on.")
        return content

    def file_in_memory(self, identity: ImageIdentity) -> bytes | None:
        """The encoded file, if it is at hand."""
        kept = self._images.get(identity.digest)
        return None if kept is None else kept.content

    def _fresh(self, key: str) -> ImageIdentity | None:
        with self._known_lock:
            return self._known.get(key)

    def _read(self, key: str, image_ref: str, task_id: str) -> LoadedImage:
        started = time.perf_counter()
        content = self._source.read(image_ref, task_id)
        image = self._decoded(hashlib.sha256(content).hexdigest(), content)
        self._remember(key, image.identity)
        elapsed_ms = 1000 * (time.perf_counter() - started)
        shown = public_reference(image_ref)
        logger.info("read image %s of task %s in %.0f ms", shown, task_id, elapsed_ms)
        return image

    def _decoded(self, digest: str, content: bytes) -> LoadedImage:
        kept = self._images.get(digest)
        if kept is not None:
            return kept
        with self._decode_slots:
            decoded = decode_image(content, max_pixels=self._max_pixels)
        identity = _identity(digest, decoded)
        image = LoadedImage(identity=identity, pixels=decoded.pixels, content=content)
        self._images.put(image)
        return image

    def _remember(self, key: str, identity: ImageIdentity) -> None:
        with self._known_lock:
            self._known[key] = identity


class _ImageCache:
    """Images by digest; those not used for longest leave first.

    An image larger than the whole cache is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._entries: LRUCache[str, LoadedImage] = LRUCache(max_bytes, lambda i: i.n_bytes)
        self._lock = threading.Lock()

    def get(self, digest: str) -> LoadedImage | None:
        with self._lock:
            return self._entries.get(digest)

    def put(self, image: LoadedImage) -> None:
        with self._lock:
            if image.digest not in self._entries and image.n_bytes <= self._entries.maxsize:
                self._entries[image.digest] = image


class WaitingError(StoreError):
    """Too many wait for files already; HTTP 503."""


class _Waiting:
    """Counts those who wait for files, together and by host."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._by_host: dict[str, int] = {}

    @contextmanager
    def one_more(self, host: str | None) -> Iterator[None]:
        """Wait for a file; None is no host and costs nothing."""
        if host is None:
            yield
            return
        with self._lock:
            n_same = self._by_host.get(host, 0)
            if sum(self._by_host.values()) >= self._most or n_same >= max(1, 2 * self._most // 3):
                raise WaitingError(
                    f"{n_same} clicks wait for images of {host or 'Label Studio'} already: click "
                    "again in a moment."
                )
            self._by_host[host] = n_same + 1
        try:
            yield
        finally:
            with self._lock:
                self._by_host[host] -= 1
                if not self._by_host[host]:
                    del self._by_host[host]


class _KeyedLocks:
    """One lock a key, kept only while somebody holds or awaits it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, tuple[threading.Lock, int]] = {}

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        with self._lock:
            lock, n_users = self._held.get(key, (threading.Lock(), 0))
            self._held[key] = (lock, n_users + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, n_users = self._held[key]
                if n_users == 1:
                    del self._held[key]
                else:
                    self._held[key] = (lock, n_users - 1)


def _host(image_ref: str) -> str | None:
    """Whom a file comes from: a host, "" for Label Studio, None for the reference itself."""
    if image_ref.startswith("data:"):
        return None
    try:
        return urlsplit(image_ref).hostname or ""
    except ValueError:
        return ""


def _key(image_ref: str, task_id: str) -> str:
    """References may be megabytes long (``data:``), and the same one differs between tasks."""
    return hashlib.sha256(f"{task_id}\0{image_ref}".encode(errors="surrogatepass")).hexdigest()


def _identity(digest: str, decoded: DecodedImage) -> ImageIdentity:
    height, width = decoded.pixels.shape[:2]
    return ImageIdentity(digest=digest, size=(height, width), media_type=decoded.media_type)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskImage:
    """An image as a task refers to it."""

    project_id: str
    task_id: str
    image_ref: str

    @property
    def name(self) -> str:
        """A name that may be logged: no credentials, no content, and still unique."""
        digest = hashlib.sha256(self.image_ref.encode(errors="replace")).hexdigest()[:8]
        shown = public_reference(self.image_ref)
        return f"project {self.project_id} task {self.task_id} {shown} ({digest})"
