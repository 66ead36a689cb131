"""An object in one small picture: its clicks, the last mask shown, the mask submitted."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from adaptation.errors import ImageError
from adaptation.journal import FinishedObject, InteractionRecord
from adaptation.masks import Rle, decode_rle
from adaptation.storage.album import Album

Pixels = NDArray[np.uint8]

SIDE = 240
"""Of the picture's longer side in pixels."""

MARGIN = 0.4
"""Of the object's longer side, around it."""

_SHOWN, _SUBMITTED = (255, 140, 0), (0, 200, 120)
_POSITIVE, _NEGATIVE = (40, 90, 255), (230, 30, 60)


def thumbnail(album: Album, finished: FinishedObject) -> bytes | None:
    """A JPEG, or None where the image is not in the album any more.

    The last mask that was shown is outlined in orange, the submitted one in green; positive clicks
    are blue dots, negative ones red.
    """
    last = finished.interactions[-1]
    submitted = finished.submitted.rle
    try:
        image = album.read(last.image_id)
    except ImageError:
        return None
    if submitted is None or image.shape[:2] != tuple(submitted.size):
        return None
    return _jpeg(_drawn(image, last, submitted))


def _drawn(image: Pixels, last: InteractionRecord, submitted: Rle) -> Pixels:
    mask = decode_rle(submitted)
    x0, y0, x1, y1 = _around(mask, last)
    scale = SIDE / max(x1 - x0, y1 - y0)
    size = (max(1, round((x1 - x0) * scale)), max(1, round((y1 - y0) * scale)))
    part = cv2.resize(image[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
    canvas = np.ascontiguousarray(part, np.uint8)
    shown = next((each.rle for each in last.candidates if each.was_shown), None)
    if shown is not None:
        _outline(canvas, decode_rle(shown)[y0:y1, x0:x1], _SHOWN)
    _outline(canvas, mask[y0:y1, x0:x1], _SUBMITTED)
    for click in last.prompt.clicks:
        place = (round((click.x - x0) * scale), round((click.y - y0) * scale))
        cv2.circle(canvas, place, 4, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(canvas, place, 3, _POSITIVE if click.is_positive else _NEGATIVE, -1, cv2.LINE_AA)
    return canvas


def _around(mask: NDArray[np.bool_], last: InteractionRecord) -> tuple[int, int, int, int]:
    """The object and its clicks with a margin, inside of the image."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    xs = [*columns[[0, -1]], *(c.x for c in last.prompt.clicks)] if len(columns) else [0.0]
    ys = [*rows[[0, -1]], *(c.y for c in last.prompt.clicks)] if len(rows) else [0.0]
    margin = MARGIN * max(max(xs) - min(xs), max(ys) - min(ys), 16)
    height, width = mask.shape
    x0, y0 = max(0, int(min(xs) - margin)), max(0, int(min(ys) - margin))
    x1, y1 = min(width, int(max(xs) + margin) + 1), min(height, int(max(ys) + margin) + 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _outline(canvas: Pixels, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    size = (canvas.shape[1], canvas.shape[0])
    scaled = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(scaled, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, list(contours), -1, colour, 2, cv2.LINE_AA)


def _jpeg(picture: Pixels) -> bytes:
    is_written, content = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 82])
    assert is_written, "OpenCV writes JPEG"
    return content.tobytes()
