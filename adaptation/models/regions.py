"""Which part of the frame an object's next mask needs, so that no more of it is decoded.

Time to a mask is decoder time, and a decoder's time grows with the pixels it reads.  From the
second click on it is known about where the object lies: the clicks, the mask shown last, and a
margin around both (as Inter2Former decodes, Huang et al. 2025, arXiv 2507.09612).  The compact
model's decoder is trained on such parts of the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptation.models.prompts import EncodedPrompts, box_coordinates, click_coordinates
from adaptation.types import LOGIT_STRIDE, STRIDE, Embedding, MaskPrediction, Prompt, Window

MARGIN_CELLS = 4
"""Cells of the embedding's grid around what is asked for; fewer cost the object's context."""

LARGEST_WINDOW = 0.8
"""Share of the frame above which the whole frame is decoded."""

UNREAD_LOGIT = -10.0
"""The logit of pixels that were not decoded, because the object was not there: background."""

Corners = NDArray[np.float64]
"""(x, y) in pixels of the model's frame, `[2]` or `[N, 2]`."""


def region_of(prompt: Prompt, embedding: Embedding, model_size: int) -> Window | None:
    """The part of the frame that the answer to a prompt needs.

    Args:
        prompt: In pixels of the encoded image; without a mask nothing is known of the object.
        embedding: Of the image.
        model_size: Side of the model's frame.

    Returns:
        None where the whole frame shall be decoded.
    """
    if prompt.mask_input is None or not prompt.clicks:
        return None
    rows, columns = (prompt.mask_input[0] > 0).nonzero(as_tuple=True)
    if not len(rows):
        return None
    return window_over(
        [*mask_corners(rows, columns), *prompt_corners(prompt, embedding)], model_size
    )


def mask_corners(rows: Tensor, columns: Tensor) -> tuple[Corners, Corners]:
    """First and last corner of the pixels of the logits at some rows and columns, not none."""
    low = np.array([int(columns.min()), int(rows.min())], np.float64)
    high = np.array([int(columns.max()) + 1, int(rows.max()) + 1], np.float64)
    return LOGIT_STRIDE * low, LOGIT_STRIDE * high


def prompt_corners(prompt: Prompt, embedding: Embedding) -> list[Corners]:
    """A prompt's clicks and the corners of its box, in the model's frame."""
    corners: list[Corners] = [
        point.astype(np.float64) for point in click_coordinates(prompt.clicks, embedding)
    ]
    if prompt.box is not None:
        box = box_coordinates(prompt.box, embedding).astype(np.float64)
        corners += [box[:2], box[2:]]
    return corners


def window_over(points: Sequence[Corners], model_size: int) -> Window | None:
    """The smallest window of whole cells around some points, with a margin.

    Args:
        points: Each `[2]`, (x, y) in pixels of the model's frame.
        model_size: Side of the model's frame.

    Returns:
        None where it is hardly smaller than the frame.
    """
    n_cells = model_size // STRIDE
    low = np.floor(np.min(points, axis=0) / STRIDE).astype(int) - MARGIN_CELLS
    high = np.ceil((np.max(points, axis=0) + 1) / STRIDE).astype(int) + MARGIN_CELLS
    (left, top), (right, bottom) = low.clip(min=0), high.clip(max=n_cells)
    if (right - left) * (bottom - top) > LARGEST_WINDOW * n_cells**2:
        return None
    return Window(
        x=int(left) * STRIDE,
        y=int(top) * STRIDE,
        width=int(right - left) * STRIDE,
        height=int(bottom - top) * STRIDE,
    )


def leaves(mask: Tensor, window: Window, model_size: int) -> bool:
    """Whether a mask reaches an edge of its window behind which the frame goes on.

    Args:
        mask: ``[h, w]`` bool, the window's pixels of the logits.
        window: Where they lie.
        model_size: Side of the model's frame.
    """
    edges = (
        (window.y > 0, mask[0]),
        (window.x > 0, mask[:, 0]),
        (window.y + window.height < model_size, mask[-1]),
        (window.x + window.width < model_size, mask[:, -1]),
    )
    return bool(torch.stack([edge.any() for goes_on, edge in edges if goes_on]).any())


def framed(part: MaskPrediction, window: Window, size: int) -> MaskPrediction:
    """The answer of a window at its place in the whole frame."""
    rows, columns = window.pixels(LOGIT_STRIDE)
    logits = part.low_res_logits.new_full(
        (*part.low_res_logits.shape[:2], size, size), UNREAD_LOGIT
    )
    features = part.upscaled.new_zeros((*part.upscaled.shape[:2], size, size))
    logits[..., rows, columns] = part.low_res_logits
    features[..., rows, columns] = part.upscaled
    return replace(part, low_res_logits=logits, upscaled=features)


def within(encoded: EncodedPrompts, window: Window) -> EncodedPrompts:
    """Prompts of the whole frame in a part of it."""
    corner = torch.tensor([window.x, window.y], dtype=torch.float32)
    points, boxes, masks = encoded.points, encoded.boxes, encoded.masks
    if points is not None:
        points = points[0] - corner.to(points[0].device), points[1]
    if boxes is not None:
        boxes = boxes - corner.repeat(2).to(boxes.device)
    if masks is not None:
        rows, columns = window.pixels(LOGIT_STRIDE)
        masks = masks[..., rows, columns]
    return EncodedPrompts(points=points, boxes=boxes, masks=masks)
