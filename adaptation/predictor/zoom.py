"""Zoom-in: a small object is decoded on the embedding of a crop around it.

A model that sees an image at a few hundred pixels cannot draw an object of a few dozen.  After the
first mask the view moves to a square around the object (RITM, Sofiiuk et al. 2021, section 3.3;
FocalClick, Chen et al. 2022), stays while the object stays inside, and grows when it leaves.
A frame so long and thin that a model would see it as a line is never seen whole at first: the first
click is decoded on the piece around it.
Everything here is geometry: views, and what clicks and logits become in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptation.predictor.settings import ZoomSettings
from adaptation.types import Box, Click, Size

OUTSIDE_LOGIT = -10.0
"""The logit of pixels about which the previous view said nothing: surely background."""

THIN_ASPECT = 16
"""Frames of this aspect and more are thin: of 256 logits a side, 16 are left across."""

_PIECE_ASPECT = 4
"""Length over width of the piece of a thin frame that the first click is decoded on."""


@dataclass(frozen=True, slots=True)
class View:
    """The part of an image that is encoded: columns ``x0:x1``, rows ``y0:y1``, original pixels."""

    x0: int
    y0: int
    x1: int
    y1: int

    @classmethod
    def full(cls, image_size: Size) -> View:
        """The whole image of size (H, W)."""
        return cls(0, 0, image_size[1], image_size[0])

    @property
    def size(self) -> Size:
        """(H, W) in original pixels."""
        return self.y1 - self.y0, self.x1 - self.x0

    def contains(self, click: Click) -> bool:
        """Whether the clicked pixel lies in the view."""
        return self.x0 - 0.5 <= click.x < self.x1 - 0.5 and self.y0 - 0.5 <= click.y < self.y1 - 0.5


def choose_view(
    extent: Box | None, image_size: Size, current: View, settings: ZoomSettings
) -> View:
    """The view for the next decode.

    Args:
        extent: Box around the object's mask and its positive clicks, original pixels; None while
            nothing is known of the object.
        image_size: (H, W) of the original image.
        current: The view of the last decode.
        settings: When and how far to zoom.
    """
    full = View.full(image_size)
    if extent is None or not settings.is_on:
        return full
    side = max(extent.width, extent.height)
    # Of a thin frame any object covers much: what counts there is how much of its length.
    area = max(image_size) ** 2 if is_thin(image_size) else image_size[0] * image_size[1]
    if side * side >= settings.max_object_share * area:
        return full
    wanted = max(side * settings.margin, float(settings.min_side))
    if current != full and _still_fits(extent, wanted, current, image_size, settings):
        return current
    return _square_around(extent, wanted, image_size)


def first_view(clicks: Sequence[Click], image_size: Size, settings: ZoomSettings) -> View:
    """The view for clicks on an object of which nothing is known yet.

    Args:
        clicks: In original pixels, at least one.
        image_size: (H, W) of the original image.
        settings: When and how far to zoom.
    """
    if not clicks or begins_whole(image_size, settings):
        return View.full(image_size)
    aim = next((c for c in reversed(clicks) if c.is_positive), clicks[-1])
    at_click = Box(x0=aim.x, y0=aim.y, x1=aim.x + 1, y1=aim.y + 1)
    length = max(_PIECE_ASPECT * min(image_size), settings.min_side)
    return _square_around(at_click, length, image_size)


def begins_whole(image_size: Size, settings: ZoomSettings) -> bool:
    """Whether an object's first click is decoded on the whole image, wherever it lies."""
    return not settings.is_on or not is_thin(image_size)


def is_thin(image_size: Size) -> bool:
    """Whether a frame of (H, W) is so long that a model would see it as a line."""
    return max(image_size) >= THIN_ASPECT * min(image_size)


def _still_fits(
    extent: Box, wanted: float, view: View, image_size: Size, settings: ZoomSettings
) -> bool:
    side = max(view.size)
    inset = settings.keep_margin * side
    inside = (
        (extent.x0 >= view.x0 + inset or view.x0 == 0)
        and (extent.y0 >= view.y0 + inset or view.y0 == 0)
        and (extent.x1 <= view.x1 - inset or view.x1 == image_size[1])
        and (extent.y1 <= view.y1 - inset or view.y1 == image_size[0])
    )
    return inside and wanted > settings.shrink * side


def _square_around(extent: Box, side: float, image_size: Size) -> View:
    """A square of about ``side`` pixels around a box, shifted into the image."""
    height, width = image_size
    x0, x1 = _interval((extent.x0 + extent.x1) / 2, side, width)
    y0, y1 = _interval((extent.y0 + extent.y1) / 2, side, height)
    return View(x0, y0, x1, y1)


def _interval(centre: float, length: float, limit: int) -> tuple[int, int]:
    whole = min(limit, max(1, round(length)))
    start = min(max(0, round(centre - whole / 2)), limit - whole)
    return start, start + whole


def clicks_in_view(clicks: Sequence[Click], view: View) -> tuple[Click, ...]:
    """Clicks in the view's own pixels; those outside are left out.

    Outside of its view an object's mask is background, so a negative click there is obeyed
    already; positive clicks are inside, because the view holds the object's extent.
    """
    return tuple(
        Click(x=c.x - view.x0, y=c.y - view.y0, is_positive=c.is_positive)
        for c in clicks
        if view.contains(c)
    )


def box_in_view(box: Box, view: View) -> Box | None:
    """The part of a box inside the view, in the view's own pixels; None if nothing is left."""
    height, width = view.size
    x0, x1 = max(0.0, box.x0 - view.x0), min(float(width), box.x1 - view.x0)
    y0, y1 = max(0.0, box.y0 - view.y0), min(float(height), box.y1 - view.y0)
    return Box(x0=x0, y0=y0, x1=x1, y1=y1) if x0 < x1 and y0 < y1 else None


def extent_of(
    logits: Tensor | None, view: View, embedding_size: Size, stride: float, clicks: Sequence[Click]
) -> Box | None:
    """Box around a mask and the positive clicks, in original pixels; None without either.

    Args:
        logits: Low-resolution logits ``[h, w]`` in the frame of the view, or None.
        view: The view on which they were decoded.
        embedding_size: (H, W) of the view in the model's frame, without the padding.
        stride: Pixels of the model's frame per logit.
        clicks: In original pixels.
    """
    xs = [v for c in clicks if c.is_positive for v in (c.x, c.x + 1)]
    ys = [v for c in clicks if c.is_positive for v in (c.y, c.y + 1)]
    if logits is not None:
        rows, columns = _valid(logits, embedding_size, stride)
        to_y, to_x = (stride * v / e for v, e in zip(view.size, embedding_size, strict=True))
        if rows is not None and columns is not None:
            ys += [view.y0 + rows[0] * to_y, view.y0 + min(rows[1] * to_y, view.size[0])]
            xs += [view.x0 + columns[0] * to_x, view.x0 + min(columns[1] * to_x, view.size[1])]
    return Box(x0=min(xs), y0=min(ys), x1=max(xs), y1=max(ys)) if xs else None


def _valid(
    logits: Tensor, embedding_size: Size, stride: float
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """First and one past the last foreground row and column, the padding left out."""
    height, width = (-(-side // stride) for side in embedding_size)
    mask = logits[: int(height), : int(width)] > 0
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        return None, None
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def move_logits(
    logits: Tensor, source: tuple[View, Size], target: tuple[View, Size], model_size: int
) -> Tensor:
    """Resample low-resolution logits from one view's frame into another's.

    Args:
        logits: ``[1, 1, h, w]`` in the frame of the source view.
        source: The view they were decoded on, and its (H, W) in the model's frame.
        target: The same of the view they are needed in.
        model_size: Side of the model's square input.

    Returns:
        ``[1, 1, h, w]`` in the frame of the target view; :data:`OUTSIDE_LOGIT` where the source
        view says nothing and in the padding.
    """
    size = logits.shape[-1]
    stride = model_size / size
    axis = (torch.arange(size, dtype=torch.float32, device=logits.device) + 0.5) * stride
    x, x_known = _axis_map(axis, _axis(source, 1), _axis(target, 1))
    y, y_known = _axis_map(axis, _axis(source, 0), _axis(target, 0))
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1)[None]
    moved = F.grid_sample(
        logits, grid * (2 / model_size) - 1, align_corners=False, padding_mode="border"
    )
    known = y_known[:, None] & x_known[None, :]
    return torch.where(known, moved, torch.full_like(moved, OUTSIDE_LOGIT))


def _axis(frame: tuple[View, Size], dimension: int) -> tuple[int, int, int]:
    """Start and length of one axis in original pixels, and its length in the model's frame."""
    view, input_size = frame
    start = view.y0 if dimension == 0 else view.x0
    return start, view.size[dimension], input_size[dimension]


def _axis_map(
    positions: Tensor, source: tuple[int, int, int], target: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Positions of the target's frame in the source's frame, and where both frames hold image."""
    original = positions * (target[1] / target[2]) + target[0]
    mapped = (original - source[0]) * (source[2] / source[1])
    known = (mapped >= 0) & (mapped < source[2]) & (positions < target[2])
    return mapped, known
