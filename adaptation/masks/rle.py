"""Masks as COCO's compressed run lengths, byte for byte those of pycocotools."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from adaptation.errors import InputError
from adaptation.masks.regions import Mask, bounding_box
from adaptation.types import Size

_Ints = npt.NDArray[np.int64]


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
    """Compress a mask without loss; costs little outside of the object's box."""
    height, width = mask.shape
    box = bounding_box(mask)
    if box is not None and 2 * box.width * box.height < mask.size:
        x0, y0, x1, y1 = (int(side) for side in (box.x0, box.y0, box.x1, box.y1))
        columns, tops, bottoms = _column_runs(mask[y0:y1, x0:x1])
        return _from_column_runs(columns + x0, tops + y0, bottoms + y0, (height, width))
    boundaries = _column_major_boundaries(mask)
    lengths = np.diff(boundaries, prepend=0, append=height * width)
    return Rle(size=(height, width), counts=_pack_counts(lengths))


def encode_part_rle(part: Mask, part_size: Size, size: Size, x0: int = 0, y0: int = 0) -> Rle:
    """Compress a mask that was drawn of a part of an image, as a mask of the whole image.

    Args:
        part: At the part's size, or drawn smaller; then it is enlarged by repeating pixels
            (nearest neighbour).
        part_size: (H, W) of the part.
        size: (H, W) of the image, which the part must fit into; outside of it nothing is set.
        x0: Column of the image where the part begins.
        y0: Row of the image where the part begins.

    Raises:
        InputError: The part reaches out of the image, or is drawn larger than it is.
    """
    (height, width), (part_height, part_width) = size, part_size
    if min(x0, y0) < 0 or x0 + part_width > width or y0 + part_height > height:
        raise InputError(f"A part of size {part_size} at ({x0}, {y0}) does not fit into {size}.")
    if part.shape == size:
        return encode_rle(part)
    columns, tops, bottoms = _column_runs(part)
    if part.shape != part_size:
        drawn_size = part.shape[0], part.shape[1]
        columns, tops, bottoms = _enlarged((columns, tops, bottoms), drawn_size, part_size)
    return _from_column_runs(columns + x0, tops + y0, bottoms + y0, size)


# From pixels to runs


def row_major_boundaries(mask: Mask) -> _Ints:
    """Sorted positions along the rows, ``[N]``, at which a pixel differs from the one before.

    The last pixel of a row comes before the first one of the next; 0 is never among them.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return np.zeros(0, dtype=np.int64)
    # Rows without foreground hold none; one on each side shows where it begins and ends.
    first = max(0, int(rows[0]) - 1)
    band = mask[first : int(rows[-1]) + 2]
    return _boundaries_of(band) + first * mask.shape[1]


def _boundaries_of(mask: Mask) -> _Ints:
    packed = np.packbits(mask.reshape(-1))
    differs = packed ^ (packed >> np.uint8(1))
    differs[1:] ^= packed[:-1] << np.uint8(7)
    positions = _set_bits(differs)
    # Neither the first pixel nor the padding behind the last one has a neighbour to differ from.
    return positions[np.searchsorted(positions, 1) : np.searchsorted(positions, mask.size)]


def _column_major_boundaries(mask: Mask) -> _Ints:
    """Sorted positions down the columns at which the value differs from the one before.

    The value before the first pixel counts as background, so a foreground pixel there is a
    boundary at 0.
    """
    if mask.size == 0:
        return np.zeros(0, dtype=np.int64)
    height = mask.shape[0]
    # Along rows of memory, since a transposed copy costs more than all the rest.
    packed = np.packbits(mask, axis=1)
    rows, columns = np.divmod(_set_bits(packed[1:] ^ packed[:-1]), 8 * packed.shape[1])
    inner = columns * height + rows + 1
    before_top = np.concatenate([[False], mask[-1, :-1]])
    tops = np.flatnonzero(mask[0] != before_top) * height
    return np.sort(np.concatenate([inner, tops]))


def _set_bits(packed: npt.NDArray[np.uint8]) -> _Ints:
    """Sorted positions of the ones, the first bit of a byte being its highest.

    Of a dozen million pixels few are looked for: in bytes of eight, they are found in half the
    time that `np.flatnonzero` takes for the pixels themselves.
    """
    data = packed.reshape(-1)
    some = np.flatnonzero(data != 0)
    bits = np.flatnonzero(np.unpackbits(data[some]).view(np.bool_))
    positions: _Ints = 8 * some[bits >> 3] + (bits & 7)
    return positions


def _starts_and_ends(edges: _Ints, end: int) -> tuple[_Ints, _Ints]:
    """Runs of True from the positions at which a sequence of ``end`` flags changes."""
    closed = np.append(edges, end)[: edges.size + edges.size % 2]
    return closed[0::2], closed[1::2]


def _ranges(starts: _Ints, lengths: _Ints) -> _Ints:
    """The numbers from each start on, as many as its length, one range after the other."""
    offsets = np.cumsum(lengths) - lengths
    numbers: _Ints = np.arange(int(lengths.sum())) + np.repeat(starts - offsets, lengths)
    return numbers


def _pack_counts(lengths: _Ints) -> bytes:
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


def _fits(values: _Ints, n_groups: _Ints) -> Mask:
    """Whether each value fits into its number of 5-bit groups, as a signed number."""
    limit = np.int64(1) << (5 * n_groups - 1)
    fits: Mask = (values >= -limit) & (values < limit)
    return fits


# Runs that end with their column


_Runs = tuple[_Ints, _Ints, _Ints]
"""Column, first row and the row behind the last of each run of foreground."""


def _column_runs(mask: Mask) -> _Runs:
    """The foreground as runs in the order of the columns and down each."""
    height = mask.shape[0]
    starts, ends = _starts_and_ends(_column_major_boundaries(mask), mask.size)
    if not starts.size:
        return starts, starts, starts
    first, last = starts // height, (ends - 1) // height
    n_parts = last - first + 1
    owner = np.repeat(np.arange(starts.size), n_parts)
    column = _ranges(first, n_parts)
    tops = np.maximum(starts[owner] - column * height, 0)
    return column, tops, np.minimum(ends[owner] - column * height, height)


def _enlarged(runs: _Runs, small: Size, size: Size) -> _Runs:
    """The runs of a mask of one size, enlarged to another."""
    (height, width), (small_height, small_width) = size, small
    if height < small_height or width < small_width or 0 in small:
        raise InputError(f"A mask of size {small} cannot be enlarged to {size}.")
    columns, tops, bottoms = runs
    # Each large column repeats the runs of the small column that it shows.
    source = np.arange(width) * small_width // width
    n_runs = np.bincount(columns, minlength=small_width)
    run = _ranges((np.cumsum(n_runs) - n_runs)[source], n_runs[source])
    large = np.repeat(np.arange(width), n_runs[source])
    tops, bottoms = (-(-edge * height // small_height) for edge in (tops, bottoms))
    return large, tops[run], bottoms[run]


def _from_column_runs(columns: _Ints, tops: _Ints, bottoms: _Ints, size: Size) -> Rle:
    """Compress a mask given by its runs, in the order of the columns and down each."""
    height, width = size
    starts, ends = columns * height + tops, columns * height + bottoms
    # Runs that touch, as over the border of two full columns, are one.
    is_apart = starts[1:] != ends[:-1]
    some = np.ones(min(1, starts.size), dtype=np.bool_)
    starts, ends = starts[np.append(some, is_apart)], ends[np.append(is_apart, some)]
    edges = np.stack([starts, ends], axis=1).ravel()
    lengths = np.diff(edges[edges < height * width], prepend=0, append=height * width)
    return Rle(size=size, counts=_pack_counts(lengths))


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
