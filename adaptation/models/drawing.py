"""Low-resolution logits become a mask at the image's own size."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from adaptation.types import Size


def unpadded(low_res_logits: Tensor, input_size: Size, stride: float) -> Tensor:
    """Logits ``[h, w]`` of one mask, in the model's frame with the padding cut off.

    Args:
        low_res_logits: ``[h, w]`` of the whole frame.
        input_size: (H, W) of the image in the frame.
        stride: Pixels of the frame that one logit covers.
    """
    height, width = input_size
    # Only the cells that matter, and one more that the last pixels look at.
    rows, columns = (math.ceil(side / stride) + 1 for side in (height, width))
    needed = low_res_logits.detach()[None, None, :rows, :columns]
    size = (round(stride * needed.shape[-2]), round(stride * needed.shape[-1]))
    framed = F.interpolate(needed, size, mode="bilinear", align_corners=False)
    return framed[0, 0, :height, :width]


def draw(logits: Tensor, size: Size) -> NDArray[np.bool_]:
    """Where logits are above 0, as a mask ``[H, W]``.

    Logits are interpolated as 16-bit integers, which takes a third of the time that floats take
    and moves no border by more than a small fraction of a pixel; and only around the mask, where
    the grids of logits and pixels meet.

    Args:
        logits: ``[h, w]``, of the image and nothing else.
        size: (H, W) of the mask.
    """
    height, width = size
    values = logits.float().clamp(-32.0, 32.0).cpu().numpy()
    values *= 32767 / max(float(values.max()), -float(values.min()), 1e-6)
    steps = np.rint(values, out=values).astype(np.int16)
    mask = np.zeros((height, width), dtype=np.bool_)
    rows = _stretch(np.flatnonzero((steps > 0).any(axis=1)), steps.shape[0], height)
    columns = _stretch(np.flatnonzero((steps > 0).any(axis=0)), steps.shape[1], width)
    if rows is None or columns is None:
        return mask
    target = rows.target, columns.target
    part_size = (target[1].stop - target[1].start, target[0].stop - target[0].start)
    part = np.ascontiguousarray(steps[rows.source, columns.source])
    mask[target] = cv2.resize(part, part_size, interpolation=cv2.INTER_LINEAR) > 0
    return mask


class _Stretch(NamedTuple):
    """A stretch of logits and the stretch of pixels that it becomes."""

    source: slice
    target: slice


def _stretch(set_cells: NDArray[np.intp], n_cells: int, n_pixels: int) -> _Stretch | None:
    """The stretch around the cells above 0, or None where there are none.

    It begins and ends where borders of cells and of pixels meet, so that every pixel inside lies
    at the same place between the same cells as in the whole; a cell that is not above 0, or the
    frame's end, stands at both ends.
    """
    if not set_cells.size:
        return None
    n_steps = math.gcd(n_cells, n_pixels)
    cells, pixels = n_cells // n_steps, n_pixels // n_steps
    first = max(0, (int(set_cells[0]) - 1) // cells)
    last = min(n_steps, -(-(int(set_cells[-1]) + 2) // cells))
    source, target = (slice(first * step, last * step) for step in (cells, pixels))
    return _Stretch(source, target)
