"""How long brush run lengths take, beside label-studio-sdk's, in one process.

python -m benchmarks.rle
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from label_studio_sdk.converter import brush

from adaptation.masks import Mask
from backend.protocol.brush_rle import decode_brush, encode_brush

SIZES = ((400, 600), (768, 1024), (2667, 4000), (3000, 4000))
REPEATS = 7


def disc(size: tuple[int, int]) -> Mask:
    """A disc that covers about a third of the image's height."""
    y, x = np.ogrid[: size[0], : size[1]]
    mask: Mask = (x - size[1] / 2) ** 2 + (y - size[0] / 2) ** 2 <= (size[0] / 3) ** 2
    return mask


def median_ms(run: Callable[[], object]) -> float:
    """Median wall time of a call, after one to warm up."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def measure(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Milliseconds to encode (ours, theirs) and to decode (ours, theirs)."""
    mask = disc(size)
    rle = encode_brush(mask)
    pixels = mask.astype(np.uint8) * 255
    assert rle == brush.mask2rle(pixels)
    assert np.array_equal(decode_brush(rle, size), mask)
    return (
        median_ms(lambda: encode_brush(mask)),
        median_ms(lambda: brush.mask2rle(pixels)),
        median_ms(lambda: decode_brush(rle, size)),
        median_ms(lambda: brush.decode_rle(rle)),
    )


def main() -> None:
    """Print one row for each size."""
    print("| image | encode, ms | sdk, ms | ratio | decode, ms | sdk, ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for size in SIZES:
        encode, sdk_encode, decode, sdk_decode = measure(size)
        print(
            f"| {size[1]}x{size[0]} | {encode:.2f} | {sdk_encode:.1f} | {sdk_encode / encode:.0f}x"
            f" | {decode:.2f} | {sdk_decode:.1f} | {sdk_decode / decode:.0f}x |"
        )


if __name__ == "__main__":
    main()
