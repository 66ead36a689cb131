"""Label Studio's brush run lengths, packed and unpacked by whole arrays.

The editor stores a brush mask as the run lengths of an RGBA image, flattened row by row, in one
stream of bits (first bit first)::

    header   32 bits  number of values, 4 * H * W
              5 bits  bits per value - 1                      (8 bits a value)
         4 *  4 bits  the four widths of a length field - 1   (3, 4, 8 and 16 bits)
    code      1 bit   1: one value repeated;  0: that many values written out
              2 bits  which of the four widths the length has
              n bits  length - 1
           8 bits(s)  the repeated value, or each value
    padding zero bits up to a whole byte

Here all four channels hold the same: 255 inside the mask, 0 outside.  The bytes are those of
``label_studio_sdk.converter.brush.mask2rle``, which assembles the same stream as text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from adaptation.errors import ProtocolError
from adaptation.masks import Mask, row_major_boundaries
from adaptation.types import Size

_WIDTHS = (3, 4, 8, 16)
_LONGEST_RUN = 1 << _WIDTHS[-1]
_VALUE_BITS = 8
_CHANNELS = 4
_HEADER = ((_VALUE_BITS - 1, 5), *((width - 1, 4) for width in _WIDTHS))
_HEADER_BITS = 32 + 5 + 4 * 4
_OPAQUE = 128
"""Alpha from which a pixel counts as inside: strokes drawn by hand may have soft edges."""

_Ints = npt.NDArray[np.int64]


# Encoding


def encode_brush(mask: Mask) -> list[int]:
    """Pack a mask into the byte values that Label Studio's brush regions hold.

    Args:
        mask: ``[H, W]`` at the exact size of the upright image: Label Studio never rescales it.

    Raises:
        ProtocolError: The mask has no pixels or not two sides.
    """
    if mask.ndim != 2 or mask.size == 0:
        raise ProtocolError(f"A brush mask needs two sides and some pixels, got {mask.shape}.")
    header = np.array([(mask.size * _CHANNELS, 32), *_HEADER], dtype=np.int64).T
    codes = _codes(*_runs(mask.astype(np.bool_, copy=False)))
    return list(_pack_bits(*np.concatenate([header, codes], axis=1)))


def _runs(mask: Mask) -> tuple[_Ints, npt.NDArray[np.bool_]]:
    """Length in values (four a pixel) and content of each run of equal pixels."""
    starts = np.append(0, row_major_boundaries(mask))
    is_inside = (np.arange(starts.size) % 2 == 1) ^ mask[0, 0]
    return np.diff(starts, append=mask.size) * _CHANNELS, is_inside


def _codes(lengths: _Ints, is_inside: npt.NDArray[np.bool_]) -> _Ints:
    """Codes of repeated values, ``[2, N]``: the code and how many bits it has.

    A run takes the narrowest length field that holds it; one too long for the widest is cut into
    longest runs and a rest, all with that field.
    """
    field = np.searchsorted([1 << width for width in _WIDTHS[:-1]], lengths)
    n_pieces = -(-lengths // _LONGEST_RUN)
    run = np.repeat(np.arange(lengths.size), n_pieces)
    pieces = np.full(run.size, _LONGEST_RUN)
    pieces[np.cumsum(n_pieces) - 1] = lengths - (n_pieces - 1) * _LONGEST_RUN
    field, is_inside = field[run], is_inside[run]
    width = np.array(_WIDTHS)[field]
    code = ((4 | field) << width) | (pieces - 1)
    return np.stack([(code << _VALUE_BITS) | (is_inside * 255), 3 + width + _VALUE_BITS])


def _pack_bits(codes: _Ints, n_bits: _Ints) -> bytes:
    """Write codes of up to 32 bits one after the other, then 1 to 8 zero bits to fill a byte."""
    ends = np.cumsum(n_bits)
    first_byte, first_bit = np.divmod(ends - n_bits, 8)
    windows = codes << (40 - first_bit - n_bits)
    packed = np.zeros(int(ends[-1]) // 8 + 5, dtype=np.uint8)
    for byte in range(5):
        # Codes that meet in a byte have no bit in common there, so their sum is their union.
        part = (windows >> (32 - 8 * byte)) & 255
        sums = np.bincount(first_byte + byte, weights=part, minlength=packed.size)
        packed |= sums.astype(np.uint8)
    return bytes(packed[:-4])


# Decoding


def decode_brush(rle: Sequence[int], size: Size) -> Mask:
    """Unpack a brush region's byte values; a pixel is inside where its alpha is at least 128.

    Args:
        rle: Byte values 0..255, as Label Studio stores them.
        size: (H, W) of the region's image.

    Raises:
        ProtocolError: These are no byte values, they are cut off, or they are of another size.
    """
    data = _as_bytes(rle)
    n_values = size[0] * size[1] * _CHANNELS
    widths = _read_header(data, n_values)
    values, lengths = _read_values(data, *_scan_codes(data, widths, n_values))
    # The alpha of pixel i is value 4 * i + 3: so many alphas lie before value n as n // 4.
    alphas = np.diff(np.cumsum(lengths) // _CHANNELS, prepend=0)
    return np.repeat(values >= _OPAQUE, alphas).reshape(size)


def _as_bytes(rle: Sequence[int]) -> bytes:
    try:
        return bytes(rle)
    except (TypeError, ValueError):
        raise ProtocolError(
            "A brush region's rle must be a list of whole numbers 0..255."
        ) from None


def _read_header(data: bytes, n_values: int) -> tuple[int, ...]:
    """The widths of the length field; checks everything else that the header says."""
    if len(data) * 8 < _HEADER_BITS:
        raise ProtocolError(f"A brush region's rle is cut off after {len(data)} bytes.")
    header = int.from_bytes(data[:7], "big") >> (56 - _HEADER_BITS)
    if header >> 21 != n_values:
        raise ProtocolError(
            f"A brush region of this size holds {n_values} values, its rle says {header >> 21}: "
            "it was encoded for an image of another size."
        )
    if (header >> 16) & 31 != _VALUE_BITS - 1:
        raise ProtocolError("A brush region's rle must have 8 bits per value.")
    return tuple(((header >> shift) & 15) + 1 for shift in (12, 8, 4, 0))


def _scan_codes(data: bytes, widths: Sequence[int], n_values: int) -> tuple[_Ints, _Ints, _Ints]:
    """Step from code to code: where the values start (bit), how many they are, if they repeat."""
    padded, end = data + bytes(8), len(data) * 8
    position, missing = _HEADER_BITS, n_values
    starts: list[int] = []
    counts: list[int] = []
    repeats: list[int] = []
    while missing > 0:
        byte = position >> 3
        window = int.from_bytes(padded[byte : byte + 8], "big") << (position & 7)
        width = widths[(window >> 61) & 3]
        count = ((window >> (61 - width)) & ((1 << width) - 1)) + 1
        is_repeat = (window >> 63) & 1
        position += 3 + width
        starts.append(position)
        counts.append(count)
        repeats.append(is_repeat)
        position += _VALUE_BITS if is_repeat else _VALUE_BITS * count
        missing -= count
        if position > end:
            raise ProtocolError(f"A brush region's rle is cut off: {missing} values are missing.")
    if missing < 0:
        raise ProtocolError(f"A brush region's rle holds {-missing} values too many.")
    return np.array(starts), np.array(counts), np.array(repeats)


def _read_values(data: bytes, starts: _Ints, counts: _Ints, repeats: _Ints) -> tuple[_Ints, _Ints]:
    """Every value with the length of its run; values written out have runs of one."""
    n_written = np.where(repeats == 1, 1, counts)
    code = np.repeat(np.arange(starts.size), n_written)
    place = np.arange(code.size) - (np.cumsum(n_written) - n_written)[code]
    byte, bit = np.divmod(starts[code] + _VALUE_BITS * place, 8)
    octets = np.frombuffer(data + bytes(1), dtype=np.uint8).astype(np.int64)
    values = (((octets[byte] << 8) | octets[byte + 1]) >> (8 - bit)) & 255
    return values, np.where(repeats == 1, counts, 1)[code]
