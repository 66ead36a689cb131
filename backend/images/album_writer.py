"""The images that were clicked on go into the album, behind the reply.

Offline jobs need the pixels that the annotator saw, and the place that an image was read from may
forget it.  Keeping them is never on a click's way and never fails one: what cannot be kept now is
tried again at the next click on the image.
"""

from __future__ import annotations

import logging
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from adaptation.errors import StropError
from adaptation.storage.album import Album
from backend.images.loader import ImageIdentity, ImageLoader, TaskImage
from backend.metrics import Metrics

logger = logging.getLogger(__name__)

MAX_WAITING = 256
"""Images that wait to be kept; more are left to their next click."""

MAX_KNOWN = 100_000
"""Digests remembered as kept, so that a click costs no look at the disk; one takes 150 bytes."""


class AlbumWriter:
    """Keeps images in an album on a thread of its own.  Safe to share between threads.

    Args:
        album: Where they go.
        images: Where their files come from.
        min_free_bytes: Room on the album's disk that is left to others, the journal above all.
        metrics: Told whether the album keeps what it should; None: nobody is.
    """

    def __init__(
        self,
        album: Album,
        images: ImageLoader,
        min_free_bytes: int = 0,
        metrics: Metrics | None = None,
    ) -> None:
        self._metrics = Metrics() if metrics is None else metrics
        self._album, self._images = album, images
        self._min_free_bytes = min_free_bytes
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._n_waiting = 0
        self._is_failing = self._is_stopping = False
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="album")

    def clicked(self, image: TaskImage, identity: ImageIdentity) -> None:
        """A click on an image was answered; returns at once."""
        with self._lock:
            if self._is_stopping or identity.digest in self._known:
                return
            if self._n_waiting >= MAX_WAITING:
                return
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known.add(identity.digest)
            self._n_waiting += 1
            self._behind.submit(self._keep_guarded, image, identity)

    def stop(self) -> None:
        """Keep what waits, as far as its files are in memory; reads nothing any more."""
        with self._lock:
            self._is_stopping = True
        self._behind.shutdown(wait=True)

    # Behind the reply ----------------------------------------------------------------------------

    def _keep_guarded(self, image: TaskImage, identity: ImageIdentity) -> None:
        try:
            self._keep(image, identity)
            self._is_failing = False
            self._metrics.degraded.labels("album").set(0)
        except StropError as error:
            logger.warning("%s is not kept in the album: %s", image.name, error)
            self._forget(identity)
        except OSError as error:
            self._complain(error)
            self._forget(identity)
        except Exception:
            logger.exception("%s is not kept in the album", image.name)
            self._forget(identity)
        finally:
            with self._lock:
                self._n_waiting -= 1

    def _keep(self, image: TaskImage, identity: ImageIdentity) -> None:
        if self._album.path(identity.digest) is not None:
            return
        content = self._images.file_in_memory(identity)
        if content is None and self._is_stopping:
            return
        if content is None:
            content = self._images.file(identity, image.image_ref, image.task_id)
        self._check_room(len(content))
        self._album.keep(identity.digest, content)

    def _check_room(self, n_bytes: int) -> None:
        if _free_bytes(self._album.folder) - n_bytes < self._min_free_bytes:
            raise OSError(
                f"less than {self._min_free_bytes / 1e6:.0f} MB would be left on the disk"
            )

    def _complain(self, error: OSError) -> None:
        """Once, not for every image, until one is kept again."""
        level = logging.DEBUG if self._is_failing else logging.WARNING
        self._is_failing = True
        self._metrics.degraded.labels("album").set(1)
        logger.log(
            level,
            "The album %s cannot keep images (%s): clicks go on, but offline training will miss "
            "the images clicked on from now. Make room or allow writing; the next click on an "
            "image keeps it. album.is_on: false switches the album off.",
            self._album.folder,
            error.strerror or error,
        )

    def _forget(self, identity: ImageIdentity) -> None:
        with self._lock:
            self._known.discard(identity.digest)


def _free_bytes(folder: Path) -> int:
    """Room for an ordinary user on the disk of a folder that need not be there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
