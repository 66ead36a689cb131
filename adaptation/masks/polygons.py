"""Masks to polygons along the pixels' edges, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from adaptation.errors import InputError
from adaptation.masks.regions import Mask, bounding_box, label_parts, window_of
from adaptation.types import Size

Polygon = npt.NDArray[np.float64]
"""``[N, 2]``, the (x, y) of each corner; the last corner is joined to the first."""

_THINNING_SHARE = 0.02
"""A pixel off is nothing on a large outline and half of a speck."""


MAX_CROSSINGS = 1 << 23
"""How often an outline may cross the rows of pixels when it is filled: a smooth one around an image
of a hundred megapixels does so 20 000 times, and these here take a second and 0.5 GB."""


def mask_to_polygons(mask: Mask, tolerance: float = 1.0, min_share: float = 0.0) -> list[Polygon]:
    """The outer outline of each 4-connected part, the largest part first.

    Outlines follow the pixels' edges exactly and are then thinned out (Douglas and Peucker 1973).
    Holes are lost: an outline is one closed line.

    Args:
        mask: The mask to outline.
        tolerance: How far the thinned line may leave the pixels' edges, at most; 0 keeps every
            corner.  Small parts get less: a fiftieth of the side of a square of their area.
        min_share: Parts smaller than this share of the largest part's pixels are left out.
    """
    box = bounding_box(mask)
    if box is None:
        return []
    window = window_of(box, 0, (mask.shape[0], mask.shape[1]))
    labels, areas, boxes = label_parts(mask[window], connectivity=4)
    outlines = []
    least = min_share * int(areas.max())
    for part in np.argsort(-areas, kind="stable"):
        if areas[part] < least:
            break
        x, y, width, height = (int(v) for v in boxes[part])
        corners = _trace_outline(labels[y : y + height, x : x + width] == part + 1)
        thinned = _thin_out(corners, min(tolerance, _THINNING_SHARE * math.sqrt(areas[part])))
        outlines.append(thinned + (box.x0 + x - 0.5, box.y0 + y - 0.5))
    return outlines


def _trace_outline(part: Mask) -> npt.NDArray[np.int32]:
    """Walk once around a 4-connected part, along pixel edges, and note every corner.

    Corner (x, y) is the top-left corner of pixel (x, y).  The walk keeps the part at its right
    hand; at a point where two pixels touch diagonally it stays with the pixel it came along.

    Returns:
        ``[N, 2]`` (x, y) in clockwise order on the screen, starting at the part's first pixel.
    """
    stride = part.shape[1] + 2
    padded = np.pad(part, 1)
    pixels = padded.tobytes()
    # For east, south, west, north: the step, and the pixels ahead at the right and left hand,
    # all relative to the pixel whose top-left corner is the walker's position.
    steps = (1, stride, -1, -stride)
    ahead_right = (0, -1, -stride - 1, -stride)
    ahead_left = (-stride, 0, -1, -stride - 1)
    start = position = int(np.argmax(padded))
    direction = 0
    corners: list[int] = []
    while not corners or position != start or direction != 0:
        corners.append(position)
        while True:
            position += steps[direction]
            if not pixels[position + ahead_right[direction]]:
                direction = (direction + 1) % 4
                break
            if pixels[position + ahead_left[direction]]:
                direction = (direction + 3) % 4
                break
    rows, columns = np.divmod(np.array(corners, dtype=np.int32), stride)
    return np.stack([columns - 1, rows - 1], axis=1).astype(np.int32)


def _thin_out(corners: npt.NDArray[np.int32], tolerance: float) -> Polygon:
    """Leave out corners within the tolerance, less of it where nothing would be left."""
    while tolerance > 0.1:
        thinned = cv2.approxPolyDP(corners, tolerance, closed=True)[:, 0]
        if len(thinned) >= 3 and cv2.contourArea(thinned) > 0:
            return thinned.astype(np.float64)
        tolerance /= 2
    return corners.astype(np.float64)


def polygons_to_mask(polygons: Sequence[npt.ArrayLike], size: Size) -> Mask:
    """Fill polygons by the even-odd rule: a polygon inside another cuts a hole.

    A pixel is inside when its centre is.  A centre exactly on an edge that two polygons share
    belongs to the right or lower one, so neighbours never share a pixel.  Exact inverse of
    `mask_to_polygons` with tolerance 0 for a mask without holes.

    Args:
        polygons: Each ``[N, 2]`` (x, y), N >= 3; they may leave the image.
        size: (H, W) of the mask.

    Raises:
        InputError: A polygon has too few corners or no finite ones, or zigzags without end.
    """
    height, width = size
    mask = np.zeros(size, dtype=np.bool_)
    crossings = [_crossings(_as_polygon(polygon), height) for polygon in polygons]
    if not crossings:
        return mask
    rows = np.concatenate([row for row, _ in crossings])
    columns = np.ceil(np.concatenate([x for _, x in crossings])).clip(0, width).astype(np.intp)
    if rows.size == 0:
        return mask
    top, left = rows.min(), columns.min()
    toggles = np.zeros((rows.max() - top + 1, columns.max() - left + 1), dtype=np.uint8)
    np.add.at(toggles, (rows - top, columns - left), 1)
    # Inside, an odd number of outlines was crossed on the way from the left (modulo 256 is even).
    filled = np.cumsum(toggles, axis=1, dtype=np.uint8)[:, :-1] & 1
    mask[top : top + filled.shape[0], left : left + filled.shape[1]] = filled
    return mask


def _as_polygon(corners: npt.ArrayLike) -> Polygon:
    polygon = np.asarray(corners, dtype=np.float64)
    if polygon.ndim != 2 or polygon.shape[1] != 2 or len(polygon) < 3:
        raise InputError(f"A polygon needs at least 3 corners (x, y), got shape {polygon.shape}.")
    if not np.isfinite(polygon).all():
        raise InputError("A polygon needs finite corners, got NaN or infinity.")
    return polygon


def _crossings(polygon: Polygon, height: int) -> tuple[npt.NDArray[np.intp], Polygon]:
    """Where the polygon's edges cross the rows of pixel centres: (row, x) of every crossing."""
    following = np.roll(polygon, -1, axis=0)
    is_down = polygon[:, 1] <= following[:, 1]
    upper = np.where(is_down[:, None], polygon, following)
    lower = np.where(is_down[:, None], following, polygon)
    first = np.ceil(upper[:, 1]).clip(0, height).astype(np.intp)
    counts = np.ceil(lower[:, 1]).clip(0, height).astype(np.intp) - first
    if counts.sum() > MAX_CROSSINGS:
        raise InputError(
            f"A polygon of {len(polygon)} corners zigzags across more than {MAX_CROSSINGS} pixels."
        )
    edge = np.repeat(np.arange(len(polygon)), counts)
    rows = first[edge] + np.arange(edge.size) - (np.cumsum(counts) - counts)[edge]
    along = (rows - upper[edge, 1]) / (lower[edge, 1] - upper[edge, 1])
    return rows, upper[edge, 0] + along * (lower[edge, 0] - upper[edge, 0])
