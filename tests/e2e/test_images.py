"""Strop decodes what a real Chromium shows: size, side up, and nearly the colours.

Where Chromium shows nothing of a kind (TIFF, PPM) or cuts samples to their highest byte (16 bits),
there is nothing to compare with; `tests/adaptation/storage` holds what Strop does then.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from adaptation.storage.images import decode_image
from tests.adaptation.storage.image_files import (
    jpeg,
    shown_resized,
    shown_see_through,
    shown_whole,
)
from tests.e2e.browser import ImageViewer

pytestmark = pytest.mark.e2e

FILES = shown_whole() | shown_resized() | shown_see_through()
THUMBNAIL = (32, 24)


@pytest.fixture(scope="module")
def viewer() -> Iterator[ImageViewer]:
    opened = ImageViewer()
    yield opened
    opened.close()


def thumbnail(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    small = Image.fromarray(pixels).resize(THUMBNAIL, Image.Resampling.BOX)
    return np.asarray(small).astype(np.int64)


@pytest.mark.parametrize("name", FILES)
def test_size_and_thumbnail_are_those_of_the_browser(viewer: ImageViewer, name: str) -> None:
    shown = viewer.show(FILES[name])
    assert shown is not None
    decoded = decode_image(FILES[name], max_pixels=10_000_000).pixels
    assert decoded.shape == shown.shape
    assert np.abs(thumbnail(decoded) - thumbnail(shown)).max() <= 12


@pytest.mark.parametrize("n_bytes", [1, 2])
def test_a_jpeg_without_its_end_is_whole_where_the_browser_draws_it(
    viewer: ImageViewer, n_bytes: int
) -> None:
    """Chromium leaves the last rows undrawn, which are in the file."""
    content = jpeg()[:-n_bytes]
    shown = viewer.show(content)
    assert shown is not None
    decoded = decode_image(content, max_pixels=10_000_000).pixels
    assert decoded.shape == shown.shape
    drawn = slice(0, shown.shape[0] - 24)
    assert np.abs(decoded[drawn].astype(int) - shown[drawn]).max() <= 4
