"""From pixels of the original image to the frame that the model sees.

The encoder sees the image with its longest side resized to ``model_size`` and zero-padded at the
bottom and on the right to a square (Kirillov et al. 2023, appendix A).  Pixel centres lie at whole
numbers on both sides, so a pixel centre maps to ``(x + 0.5) * scale - 0.5``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from adaptation.errors import InputError
from adaptation.types import Box, Click, Embedding, Prompt, Size, Window


@dataclass(frozen=True, slots=True, eq=False)
class EncodedPrompts:
    """Prompts of one kind as SAM's prompt encoder wants them.

    Args:
        points: ``[B, N, 2]`` float32 (x, y) in the model's frame and ``[B, N]`` int64 labels
            (1 positive, 0 negative), or None without clicks.
        boxes: ``[B, 4]`` float32 (x0, y0, x1, y1) in the model's frame, or None.
        masks: ``[B, 1, h, w]`` float32 logits, or None.
    """

    points: tuple[Tensor, Tensor] | None
    boxes: Tensor | None
    masks: Tensor | None


@runtime_checkable
class WindowEncoder(Protocol):
    """A prompt encoder that embeds prompts in any part of the frame, as the compact one does."""

    def encode(
        self,
        points: tuple[Tensor, Tensor] | None,
        boxes: Tensor | None,
        masks: Tensor | None,
        window: Window,
    ) -> tuple[Tensor, Tensor]:
        """Sparse ``[B, N, C]`` and dense ``[B, C, h, w]`` embeddings of prompts in a window."""
        ...


def resized(original_size: Size, model_size: int) -> Size:
    """Size (H, W) after the longest side was resized to ``model_size``, rounded half up."""
    scale = model_size / max(original_size)
    height, width = (max(1, int(side * scale + 0.5)) for side in original_size)
    return height, width


def check_image(image: NDArray[np.uint8]) -> None:
    """Refuse anything but a non-empty ``[H, W, 3]`` uint8 array."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise InputError(
            "An image must be a non-empty uint8 array of shape [H, W, 3] (RGB), got "
            f"{image.dtype} {list(image.shape)}."
        )


def resize_image(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize an ``[H, W, 3]`` image to ``size`` (bilinear, antialiased when it shrinks)."""
    height, width = size
    if image.shape[:2] == size:
        return image
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(small)


def guide_of(small: NDArray[np.uint8], stride: float) -> NDArray[np.uint8]:
    """A resized image on the grid of the logits, the last row and column partly made up.

    Args:
        small: ``[H, W, 3]`` uint8 at the model's input size.
        stride: Pixels of it per logit; a whole number, or one that H and W are multiples of.

    Returns:
        ``[ceil(H / stride), ceil(W / stride), 3]`` uint8.
    """
    height, width = (math.ceil(side / stride) for side in small.shape[:2])
    bottom, right = round(height * stride) - small.shape[0], round(width * stride) - small.shape[1]
    whole = cv2.copyMakeBorder(small, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    grid = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(grid, dtype=np.uint8)


def model_scale(embedding: Embedding) -> tuple[float, float]:
    """Factors (x, y) from pixels of the encoded image to the model's frame."""
    (height, width), (new_height, new_width) = embedding.original_size, embedding.input_size
    return new_width / width, new_height / height


def click_coordinates(clicks: Sequence[Click], embedding: Embedding) -> NDArray[np.float32]:
    """Clicks as ``[N, 2]`` (x, y) in the model's frame."""
    points = np.array([(c.x, c.y) for c in clicks], dtype=np.float64).reshape(-1, 2)
    return ((points + 0.5) * model_scale(embedding) - 0.5).astype(np.float32)


def box_coordinates(box: Box, embedding: Embedding) -> NDArray[np.float32]:
    """A box as ``[4]`` (x0, y0, x1, y1) in the model's frame; SAM adds the half pixel itself."""
    corners = np.array([(box.x0, box.y0), (box.x1, box.y1)], dtype=np.float64)
    return (corners * model_scale(embedding) - 0.5).astype(np.float32).reshape(4)


def signature(prompt: Prompt) -> tuple[int, bool, bool]:
    """What must agree before prompts can share one batch: clicks, box or not, mask or not."""
    return len(prompt.clicks), prompt.box is not None, prompt.mask_input is not None


def encode_prompts(
    prompts: Sequence[Prompt], embeddings: Sequence[Embedding], device: torch.device
) -> EncodedPrompts:
    """Stack prompts of one :func:`signature` in the frames of their embeddings.

    Args:
        prompts: B prompts, alike in their number of clicks and in having a box and a mask.
        embeddings: One for each prompt; gives the scale from its own pixels.
        device: Where the tensors are needed.
    """
    pairs = list(zip(prompts, embeddings, strict=True))
    points = boxes = masks = None
    if prompts[0].clicks:
        coordinates = np.stack([click_coordinates(p.clicks, e) for p, e in pairs])
        labels = np.array([[c.is_positive for c in p.clicks] for p in prompts], dtype=np.int64)
        points = torch.from_numpy(coordinates).to(device), torch.from_numpy(labels).to(device)
    if prompts[0].box is not None:
        corners = [box_coordinates(p.box, e) for p, e in pairs if p.box is not None]
        boxes = torch.from_numpy(np.stack(corners)).to(device)
    if prompts[0].mask_input is not None:
        masks = torch.stack([p.mask_input for p in prompts if p.mask_input is not None]).to(device)
    return EncodedPrompts(points, boxes, masks)
