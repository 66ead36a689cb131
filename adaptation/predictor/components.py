"""An object is where its clicks are: parts of a mask that nothing points at are left out.

A model that compares the image with the clicked pixels finds whatever looks alike, wherever it
lies.  Annotators mean one object, so only the connected parts of a mask that hold a positive click,
or touch the box, are shown; an object in several parts takes a click on each.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptation.models.prompts import box_coordinates, click_coordinates
from adaptation.types import Embedding, Prompt

LEFT_OUT_LOGIT = -1.0
"""At most this logit is given to what is left out: background, but not beyond doubt."""

_REACH = 1


def pointed_at(logits: Tensor, prompt: Prompt, embedding: Embedding, stride: float) -> Tensor:
    """Leave out the parts of a mask that no positive click lies in and that the box misses.

    Args:
        logits: ``[h, w]`` low-resolution logits of one mask.
        prompt: In the pixels of the embedded view.
        embedding: Of the view.
        stride: Pixels of the model's frame per logit.

    Returns:
        ``[h, w]``; the input where nothing is left out or nothing would be left.
    """
    mask = (logits > 0).cpu().numpy()
    n_labels, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    parts: NDArray[np.int32] = np.array(labels, dtype=np.int32, copy=None)
    if n_labels <= 2:
        return logits
    kept = _at_clicks(parts, prompt, embedding, stride)
    if prompt.box is not None:
        kept |= _in_box(parts, prompt, embedding, stride)
    kept.discard(0)
    if not kept:
        return logits
    surplus = torch.from_numpy(mask & ~np.isin(parts, list(kept))).to(logits.device)
    return torch.where(surplus, logits.clamp(max=LEFT_OUT_LOGIT), logits)


def _at_clicks(
    parts: NDArray[np.int32], prompt: Prompt, embedding: Embedding, stride: float
) -> set[int]:
    """Labels of the parts under positive clicks, give or take a pixel of the grid."""
    positive = [click for click in prompt.clicks if click.is_positive]
    if not positive:
        return set()
    found: set[int] = set()
    cells = np.rint((click_coordinates(positive, embedding) + 0.5) / stride - 0.5).astype(int)
    for x, y in cells:
        around = parts[max(0, y - _REACH) : y + _REACH + 1, max(0, x - _REACH) : x + _REACH + 1]
        found.update(np.unique(around).tolist())
    return found


def _in_box(
    parts: NDArray[np.int32], prompt: Prompt, embedding: Embedding, stride: float
) -> set[int]:
    """Labels of the parts that touch the box."""
    if prompt.box is None:
        return set()
    x0, y0, x1, y1 = (box_coordinates(prompt.box, embedding) + 0.5) / stride
    inside = parts[max(0, int(y0)) : int(np.ceil(y1)), max(0, int(x0)) : int(np.ceil(x1))]
    return set(np.unique(inside).tolist())
