"""Pure functions on binary masks: agreement, regions, outlines, compressed run lengths.

A mask is a bool array ``[H, W]``.  Coordinates are (x, y) in pixels with pixel centres at whole
numbers, so the outline of pixel (0, 0) runs from -0.5 to 0.5.  Every function is fast on masks of
a dozen megapixels: work is done inside the object's bounding box, and run lengths are found and
packed by whole arrays.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from adaptation.errors import InputError
from adaptation.types import Box, Size

Mask = npt.NDArray[np.bool_]
"""``[H, W]``, True inside the object."""

Polygon = npt.NDArray[np.float64]
"""``[N, 2]``, the (x, y) of each corner; the last corner is joined to the first."""


# Agreement


def iou(a: Mask, b: Mask, ignore: Mask | None = None) -> float:
    """Intersection over union in [0, 1]; two empty masks agree fully.

    Args:
        a: One mask.
        b: Another of the same size.
        ignore: Pixels that do not count, if any.
    """
    shared, either = _shared_and_total(a, b, ignore)
    union = either - shared
    return shared / union if union else 1.0


def dice(a: Mask, b: Mask, ignore: Mask | None = None) -> float:
    """Dice coefficient, ``2 |a and b| / (|a| + |b|)``, in [0, 1]; two empty masks agree fully."""
    shared, total = _shared_and_total(a, b, ignore)
    return 2 * shared / total if total else 1.0


def _shared_and_total(a: Mask, b: Mask, ignore: Mask | None) -> tuple[int, int]:
    """The pixels in both masks, and the sum of both masks' pixels."""
    if a.shape != b.shape:
        raise InputError(f"Masks to compare need the same size, got {a.shape} and {b.shape}.")
    if ignore is not None:
        a, b = a & ~ignore, b & ~ignore
    return np.count_nonzero(a & b), np.count_nonzero(a) + np.count_nonzero(b)


def error_regions(truth: Mask, mask: Mask, ignore: Mask | None = None) -> tuple[Mask, Mask]:
    """What a mask misses and what it has too much: (false negatives, false positives)."""
    false_negative, false_positive = truth & ~mask, mask & ~truth
    if ignore is not None:
        false_negative &= ~ignore
        false_positive &= ~ignore
    return false_negative, false_positive


# Regions


def bounding_box(mask: Mask) -> Box | None:
    """The tight box, or None around nothing; ``x1`` and ``y1`` lie one past the last pixel."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return Box(
        x0=float(columns[0]), y0=float(rows[0]), x1=float(columns[-1] + 1), y1=float(rows[-1] + 1)
    )


def _window(box: Box, margin: int, size: Size) -> tuple[slice, slice]:
    """Rows and columns of a box grown by a margin, cut at the image's border."""
    rows = slice(max(int(box.y0) - margin, 0), min(int(box.y1) + margin, size[0]))
    columns = slice(max(int(box.x0) - margin, 0), min(int(box.x1) + margin, size[1]))
    return rows, columns


def largest_component(mask: Mask) -> Mask:
    """The largest 8-connected part of a mask; of equals, the one found first from the top."""
    box = bounding_box(mask)
    if box is None:
        return mask.copy()
    window = _window(box, 0, (mask.shape[0], mask.shape[1]))
    labels, areas, _ = _label_parts(mask[window], connectivity=8)
    largest = np.zeros_like(mask)
    largest[window] = labels == 1 + int(np.argmax(areas))
    return largest


def _label_parts(
    mask: Mask, connectivity: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Number the parts of a mask from 1: labels ``[H, W]``, areas ``[N]``, boxes ``[N, 4]``.

    Boxes are (x, y, width, height).
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.view(np.uint8), connectivity=connectivity
    )
    rows = np.asarray(stats, dtype=np.int32)[1:]
    return np.asarray(labels, dtype=np.int32), rows[:, cv2.CC_STAT_AREA], rows[:, :4]


def erosion_radius(
    mask: Mask, *, share: float = 0.04, smallest: float = 1.0, largest: float = 16.0
) -> float:
    """How far an outline may be off, in pixels: a share of the object's size, within bounds.

    Args:
        mask: The object.
        share: Of the side of the square that has the object's area.
        smallest: The radius of a tiny object.
        largest: The radius of a huge one.
    """
    return float(np.clip(share * math.sqrt(np.count_nonzero(mask)), smallest, largest))


def erosion_band(mask: Mask, radius: float) -> tuple[Mask, Mask]:
    """The pixels that are surely inside and surely outside of a finished mask.

    Foreground and background are both eroded by a disc; the band between carries no label, since
    annotators' outlines are uncertain (Schön et al. 2024, arXiv 2404.08421).  The image's border
    is no outline and erodes nothing.  Where a region is too thin for the radius, the band shrinks
    to half the region's depth, so that a mask with pixels always keeps some.

    Args:
        mask: The finished mask.
        radius: Of the disc, in pixels; a pixel stays when no pixel of the other side is as near.

    Returns:
        (positive, negative), both ``[H, W]``, without a shared pixel.
    """
    box = bounding_box(mask)
    if box is None:
        return np.zeros_like(mask), np.ones_like(mask)
    window = _window(box, math.ceil(2 * radius) + 1, (mask.shape[0], mask.shape[1]))
    positive, negative = np.zeros_like(mask), np.ones_like(mask)
    positive[window] = _core(mask[window], radius)
    negative[window] = _core(~mask[window], radius)
    return positive, negative


def _core(region: Mask, radius: float) -> Mask:
    """The pixels of a region farther than the radius from everything else."""
    if region.all() or not region.any():
        return region.copy()
    distance = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    core: Mask = distance > min(radius, float(distance.max()) / 2)
    return core


# Outlines

_THINNING_SHARE = 0.02
"""A pixel off is nothing on a large outline and half of a speck."""


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
    window = _window(box, 0, (mask.shape[0], mask.shape[1]))
    labels, areas, boxes = _label_parts(mask[window], connectivity=4)
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
    edge = np.repeat(np.arange(len(polygon)), counts)
    rows = first[edge] + np.arange(edge.size) - (np.cumsum(counts) - counts)[edge]
    along = (rows - upper[edge, 1]) / (lower[edge, 1] - upper[edge, 1])
    return rows, upper[edge, 0] + along * (lower[edge, 0] - upper[edge, 0])


# Compressed run lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class Rle:
    """A mask as COCO's compressed run lengths, which pycocotools reads and writes.

    Args:
        size: (H, W).
        counts: ASCII; run lengths down the columns, background first, as differences to the
            run before the last, five bits a character.
    """

    size: Size
    counts: bytes


def encode_rle(mask: Mask) -> Rle:
    """Compress a mask without loss."""
    height, width = mask.shape
    boundaries = _column_major_boundaries(mask)
    lengths = np.diff(boundaries, prepend=0, append=height * width)
    return Rle(size=(height, width), counts=_pack_counts(lengths))


def _column_major_boundaries(mask: Mask) -> npt.NDArray[np.int64]:
    """Sorted positions down the columns at which the value differs from the one before.

    The value before the first pixel counts as background, so a foreground pixel there is a
    boundary at 0.
    """
    if mask.size == 0:
        return np.zeros(0, dtype=np.int64)
    height = mask.shape[0]
    # Along rows of memory, since a transposed copy costs more than all the rest.
    rows, columns = np.divmod(np.flatnonzero(mask[1:] != mask[:-1]), mask.shape[1])
    inner = columns * height + rows + 1
    before_top = np.concatenate([[False], mask[-1, :-1]])
    tops = np.flatnonzero(mask[0] != before_top) * height
    return np.sort(np.concatenate([inner, tops]))


def _pack_counts(lengths: npt.NDArray[np.int64]) -> bytes:
    """Write run lengths as characters: 5 bits each, low bits first, a 6th bit while more follow."""
    values = lengths.copy()
    values[3:] -= lengths[1:-2]
    n_groups = np.ones(values.shape, dtype=np.int64)
    # A number is complete when the rest repeats the sign, bit 4 of the last group.
    while True:
        is_short = _fits(values, n_groups)
        if is_short.all():
            break
        n_groups[~is_short] += 1
    ends = np.cumsum(n_groups)
    owner = np.repeat(np.arange(values.size), n_groups)
    place = np.arange(owner.size) - (ends - n_groups)[owner]
    groups = (values[owner] >> (5 * place)) & 31
    groups[place < n_groups[owner] - 1] |= 32
    return bytes((groups + 48).astype(np.uint8))


def _fits(values: npt.NDArray[np.int64], n_groups: npt.NDArray[np.int64]) -> Mask:
    """Whether each value fits into its number of 5-bit groups, as a signed number."""
    limit = np.int64(1) << (5 * n_groups - 1)
    fits: Mask = (values >= -limit) & (values < limit)
    return fits


def decode_rle(rle: Rle) -> Mask:
    """Restore a compressed mask.

    Raises:
        InputError: The counts are broken or do not fill the size.
    """
    height, width = rle.size
    lengths = run_lengths(rle)
    values = np.arange(lengths.size) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, lengths).reshape(width, height).T)


def rle_iou(a: Rle, b: Rle) -> float:
    """`iou` of two compressed masks, from their runs alone: a thousand times as fast.

    Raises:
        InputError: The counts are broken, or the sizes differ.
    """
    if tuple(a.size) != tuple(b.size):
        raise InputError(f"Masks to compare need the same size, got {a.size} and {b.size}.")
    ends_a, filled_a = _filled_before(run_lengths(a))
    ends_b, filled_b = _filled_before(run_lengths(b))
    # Foreground of a before each end of a run of b; the runs of b at odd places are foreground.
    shared_before = np.interp(ends_b, ends_a, filled_a)
    shared = float(np.diff(shared_before)[1::2].sum())
    union = float(filled_a[-1] + filled_b[-1]) - shared
    return shared / union if union else 1.0


def _filled_before(
    lengths: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The ends of the runs, from 0 on, and the foreground pixels before each end."""
    ends = np.concatenate([[0], np.cumsum(lengths)])
    foreground = np.where(np.arange(lengths.size) % 2 == 1, lengths, 0)
    return ends, np.concatenate([[0], np.cumsum(foreground)])


def run_lengths(rle: Rle) -> npt.NDArray[np.int64]:
    """How many pixels down the columns are alike, ``[N]``: background first, then by turns.

    Raises:
        InputError: The counts are broken or do not fill the size.
    """
    height, width = rle.size
    lengths = _unpack_counts(rle.counts)
    if (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise InputError(
            f"Run lengths of a {height}x{width} mask must be positive and fill "
            f"{height * width} pixels, got {int(lengths.sum())}."
        )
    return lengths


def _unpack_counts(counts: bytes) -> npt.NDArray[np.int64]:
    """Run lengths from their characters."""
    groups = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    is_last = (groups & 32) == 0
    if groups.size == 0 or (groups < 0).any() or (groups > 63).any() or not is_last[-1]:
        raise InputError("Run lengths are cut off or hold characters that cannot occur in them.")
    starts = np.flatnonzero(np.concatenate([[True], is_last[:-1]]))
    place = np.arange(groups.size) - np.repeat(starts, np.diff(starts, append=groups.size))
    if int(place.max()) > 6:
        raise InputError("Run lengths hold a number that is too large for any mask.")
    values = np.add.reduceat((groups & 31) << (5 * place), starts)
    last = np.flatnonzero(is_last)
    values[(groups[last] & 16) != 0] -= (np.int64(1) << (5 * (place[last] + 1)))[
        (groups[last] & 16) != 0
    ]
    # From the fourth on, each is the difference to the one before the last.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
