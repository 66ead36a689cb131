"""A mask, its clicks and the image around them as one small picture.  Pure.

All pictures of a prompt show the same window at the same size in the same colours: whatever
differs between them is the mask.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from adaptation.journal import CandidateRecord, PromptRecord
from adaptation.masks import Mask, bounding_box, decode_rle
from adaptation.types import Size

Pixels = NDArray[np.uint8]
"""``[H, W, 3]`` RGB."""

LONGEST_SIDE = 512
"""Of a picture, in pixels; three of them stand side by side on a laptop's screen."""
QUALITY = 80
MARGIN = 0.2
"""Of the window around masks and clicks, over its longer side."""
SMALLEST_MARGIN = 12
LARGEST_ZOOM = 8.0

_FILL, _FILL_SHARE = (255, 0, 200), 0.35
_RIM, _LINE = (255, 255, 255), (170, 0, 130)
_POSITIVE, _NEGATIVE = (20, 160, 20), (210, 20, 20)
_MARK_RADIUS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Crop:
    """Part of an image: columns x0 to x1 and rows y0 to y1, the last ones outside."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def size(self) -> Size:
        """(H, W)."""
        return self.y1 - self.y0, self.x1 - self.x0

    def cut(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The part of an image or a mask ``[H, W, ...]``; a view."""
        return array[self.y0 : self.y1, self.x0 : self.x1]


def draw_candidates(
    image: Pixels, prompt: PromptRecord, candidates: Sequence[CandidateRecord]
) -> list[bytes]:
    """WebP files, one a mask, in the same order.

    Args:
        image: ``[H, W, 3]`` uint8 RGB, upright.
        prompt: Its clicks are drawn, green + and red -, and its box, if there is one.
        candidates: Masks of the image's size, none of them empty.
    """
    masks = [decode_rle(candidate.rle) for candidate in candidates]
    window = window_around(masks, prompt)
    scale = scale_of(window.size)
    background = _resized(window.cut(image), scale)
    return [_webp(_drawn(background, window, scale, mask, prompt)) for mask in masks]


def window_around(masks: Sequence[Mask], prompt: PromptRecord) -> Crop:
    """The part of the image that holds all masks, all clicks and the box, with a margin."""
    boxes = [box for mask in masks if (box := bounding_box(mask)) is not None]
    spots = [(box.x0, box.y0) for box in boxes] + [(box.x1, box.y1) for box in boxes]
    spots += [(click.x, click.y) for click in prompt.clicks]
    if prompt.box is not None:
        spots += [(prompt.box.x0, prompt.box.y0), (prompt.box.x1, prompt.box.y1)]
    columns, rows = [x for x, _ in spots], [y for _, y in spots]
    side = max(max(columns) - min(columns), max(rows) - min(rows))
    margin = max(MARGIN * side, SMALLEST_MARGIN)
    height, width = masks[0].shape
    return Crop(
        x0=max(int(min(columns) - margin), 0),
        y0=max(int(min(rows) - margin), 0),
        x1=min(int(np.ceil(max(columns) + margin)), width),
        y1=min(int(np.ceil(max(rows) + margin)), height),
    )


def scale_of(size: Size) -> float:
    """How much a window of this size is enlarged; below 1 it is made smaller."""
    return min(LONGEST_SIDE / max(size), LARGEST_ZOOM)


def _resized(part: NDArray[np.generic], scale: float) -> Pixels:
    height, width = part.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part.astype(np.uint8), size, interpolation=how), dtype=np.uint8)


def _drawn(
    background: Pixels, window: Crop, scale: float, mask: Mask, prompt: PromptRecord
) -> Pixels:
    inside = _resized(window.cut(mask).astype(np.uint8) * 255, scale) >= 128
    picture = background.astype(np.float32)
    picture[inside] += _FILL_SHARE * (np.array(_FILL, np.float32) - picture[inside])
    canvas: Pixels = np.ascontiguousarray(np.rint(picture), dtype=np.uint8)
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    for colour, width in ((_RIM, 4), (_LINE, 2)):
        cv2.drawContours(canvas, outlines, -1, colour, width, cv2.LINE_AA)
    _draw_prompt(canvas, window, scale, prompt)
    return canvas


def _draw_prompt(canvas: Pixels, window: Crop, scale: float, prompt: PromptRecord) -> None:
    def at(x: float, y: float) -> tuple[int, int]:
        """A place in the picture; a pixel's centre lies half a pixel behind its number."""
        return round((x + 0.5 - window.x0) * scale - 0.5), round(
            (y + 0.5 - window.y0) * scale - 0.5
        )

    if prompt.box is not None:
        corners = at(prompt.box.x0, prompt.box.y0), at(prompt.box.x1, prompt.box.y1)
        for colour, width in ((_RIM, 3), (_POSITIVE, 1)):
            cv2.rectangle(canvas, *corners, colour, width, cv2.LINE_AA)
    for click in prompt.clicks:
        _draw_click(canvas, at(click.x, click.y), is_positive=click.is_positive)


def _draw_click(canvas: Pixels, place: tuple[int, int], *, is_positive: bool) -> None:
    """A white-rimmed disk with a plus or a minus."""
    x, y = place
    arm = _MARK_RADIUS // 2
    cv2.circle(canvas, place, _MARK_RADIUS + 2, _RIM, cv2.FILLED, cv2.LINE_AA)
    colour = _POSITIVE if is_positive else _NEGATIVE
    cv2.circle(canvas, place, _MARK_RADIUS, colour, cv2.FILLED, cv2.LINE_AA)
    cv2.line(canvas, (x - arm, y), (x + arm, y), _RIM, 2)
    if is_positive:
        cv2.line(canvas, (x, y - arm), (x, y + arm), _RIM, 2)


def _webp(picture: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=QUALITY)
    return stream.getvalue()
