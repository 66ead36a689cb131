"""The images that were labelled, kept as they were, so that offline jobs can read them again.

A journal names an image by the SHA-256 of its file and never holds the image itself.  The album
holds the files under these names: what was there once is there as long as the folder, whatever
becomes of the place that it was read from, and never changes unnoticed.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adaptation.errors import ImageError
from adaptation.storage.files import write_bytes
from adaptation.storage.images import decode_image

_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_MAX_PIXELS = 2_000_000_000
"""Above any limit of a server: what is in the album was decoded by one before."""


def image_id_of(content: bytes) -> str:
    """An image's id, as the journal has it: SHA-256 of the encoded file, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


class Album:
    """Image files by their digests, in a folder that several processes may share.

    Args:
        folder: Made with the first image.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, image_id: str, content: bytes) -> bool:
        """Keep an image; it is on the disk when this returns, whole or not at all.

        Args:
            image_id: The digest of its file.
            content: The file.

        Returns:
            True where it is new, False where it was there already.

        Raises:
            ImageError: The digest is of another file.
            OSError: The folder cannot be written or is full.
        """
        if image_id_of(content) != image_id:
            raise ImageError(
                f"The album keeps images by their SHA-256, and {image_id!r} is not it."
            )
        path = self._place(image_id)
        if path.is_file():
            return False
        write_bytes(path, content, durable=True)
        return True

    def path(self, image_id: str) -> Path | None:
        """Where an image lies; None where it is not in the album.  The file is not checked."""
        if not _IMAGE_ID.fullmatch(image_id):
            return None
        path = self._place(image_id)
        return path if path.is_file() else None

    def read(self, image_id: str) -> NDArray[np.uint8]:
        """An image's pixels: ``[H, W, 3]`` uint8 RGB, upright, as they were when it was clicked on.

        Raises:
            ImageError: It is not in the album, its file was changed or damaged, or cannot be read.
        """
        return decode_image(self._file(image_id), max_pixels=_MAX_PIXELS).pixels

    def problem(self, image_id: str) -> str | None:
        """Why an image cannot be read, in a few words; None where its file is as it was kept."""
        if self.path(image_id) is None:
            return "the image is not in the album"
        try:
            self._file(image_id)
        except ImageError:
            return "the image in the album was changed or cannot be read"
        return None

    def _file(self, image_id: str) -> bytes:
        """The checked file; raises as `read` does."""
        path = self.path(image_id)
        if path is None:
            raise ImageError(
                f"Image {image_id[:16]} is not in the album {self.folder}: name the album of the "
                "server that was clicked on, or leave out what belongs to this image. A server "
                "keeps the images it is clicked on while album.is_on is true."
            )
        try:
            content = path.read_bytes()
        except OSError as error:
            raise ImageError(f"Image {path} cannot be read: {error.strerror}.") from error
        if image_id_of(content) != image_id:
            raise ImageError(
                f"Image {path} was changed or damaged since it was kept: its digest differs from "
                "its name. Restore it from a backup, or remove it and click on the image again."
            )
        return content

    def _place(self, image_id: str) -> Path:
        return self.folder / image_id[:2] / image_id
