"""The values that flow through Strop: small, frozen, keyword-only.

Coordinates are (x, y) in pixels of the original image after its EXIF rotation, origin at the
top-left corner, pixel centres at whole numbers.  Sizes are (height, width).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptation.errors import InputError

if TYPE_CHECKING:  # the journal and Label Studio's JSON need these values, but no torch
    from torch import Tensor

LOGIT_STRIDE = 2
"""Pixels of the frame per cell of the logits, and of the maps drawn for the decoder."""

STRIDE = 8

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Click:
    """One click: a pixel that the annotator says is inside (positive) or outside the object.

    Args:
        x: Column, in pixels of the original image.
        y: Row, in pixels of the original image.
        is_positive: True for foreground, False for background.
    """

    x: float
    y: float
    is_positive: bool

    def __post_init__(self) -> None:
        if not (math.isfinite(self.x) and math.isfinite(self.y)):
            raise InputError(f"A click needs finite coordinates, got ({self.x}, {self.y}).")


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """An axis-aligned box; (x0, y0) is the top-left corner, (x1, y1) lies outside at the end.

    Width is ``x1 - x0`` and height ``y1 - y0``, both positive, in pixels of the original image.
    """

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        corners = (self.x0, self.y0, self.x1, self.y1)
        if not all(math.isfinite(v) for v in corners) or self.x1 <= self.x0 or self.y1 <= self.y0:
            raise InputError(f"A box needs finite corners with x0 < x1 and y0 < y1, got {corners}.")

    @property
    def width(self) -> float:
        """Width in pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """Height in pixels."""
        return self.y1 - self.y0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """What the annotator said about one object so far.

    Args:
        clicks: All clicks, oldest first.
        box: At most one box around the object.
        mask_input: The low-resolution logits of the mask shown last, ``[1, h, w]`` float32 in the
            frame of the embedding it is decoded on (256x256 for SAM, 192x192 for the compact
            model), or None at the first prompt.
    """

    clicks: tuple[Click, ...] = ()
    box: Box | None = None
    mask_input: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.clicks and self.box is None:
            raise InputError("A prompt needs at least one click or a box, got neither.")

    @property
    def is_ambiguous(self) -> bool:
        """True for a single click with no box and no previous mask: several masks may be meant."""
        return len(self.clicks) == 1 and self.box is None and self.mask_input is None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedding:
    """The frozen encoder's view of one image; learning in the decoder never invalidates it.

    Args:
        features: ``[1, C, h, w]`` float32 (float16 in the caches).
        original_size: (H, W) of the encoded image or crop, in original pixels.
        input_size: (H, W) after resizing its longest side to the model's input size, before the
            zero padding at the bottom and on the right.
        image_id: Digest of the encoded pixels.
        encoder_id: Digest of the encoder's weights; features of another encoder never fit.
        guide: ``[h, w, 3]`` uint8 RGB, the image on the grid of the low-resolution logits, without
            padding; shows where its edges are.
    """

    features: Tensor
    original_size: Size
    input_size: Size
    image_id: str
    encoder_id: str
    guide: Tensor

    @property
    def n_bytes(self) -> int:
        """Bytes that it holds in memory."""
        return self.features.element_size() * self.features.nelement() + self.guide.nelement()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MaskPrediction:
    """The decoder's answer to B prompts: T masks each, one for every mask token (T = 4 in SAM).

    Token 0 is the single-mask output; tokens 1..T-1 are the candidates of an ambiguous prompt
    (Kirillov et al. 2023, section 3 and appendix A).

    Args:
        low_res_logits: ``[B, T, h, w]`` float32; a pixel is foreground where the logit is > 0.
        predicted_iou: ``[B, T]``, the model's own estimate of each mask's quality.
        is_ambiguous: ``[B]`` bool, whether the prompt was ambiguous.
        upscaled: ``[B, c, h, w]``, the decoder's per-pixel features at the logits' resolution,
            of which the logits are a linear readout; what closed-form corrections are fitted on.
    """

    low_res_logits: Tensor
    predicted_iou: Tensor
    is_ambiguous: Tensor
    upscaled: Tensor

    def __len__(self) -> int:
        return int(self.low_res_logits.shape[0])

    def __getitem__(self, index: int) -> MaskPrediction:
        """The answer to one of the prompts, still batched: B = 1."""
        keep = slice(index, index + 1)
        return MaskPrediction(
            low_res_logits=self.low_res_logits[keep],
            predicted_iou=self.predicted_iou[keep],
            is_ambiguous=self.is_ambiguous[keep],
            upscaled=self.upscaled[keep],
        )

    def shown_token(self) -> Tensor:
        """The token whose mask is shown, ``[B]`` int64: the selection rule of SAM.

        An ambiguous prompt shows the candidate with the highest predicted IoU, any other prompt
        the single-mask output.
        """
        best = 1 + self.predicted_iou[:, 1:].argmax(dim=1)
        return best * self.is_ambiguous

    def shown_logits(self) -> Tensor:
        """Logits of each prompt's shown mask, ``[B, 1, h, w]``."""
        tokens = self.shown_token()
        rows = tokens.new_tensor(range(len(self)))
        return self.low_res_logits[rows, tokens].unsqueeze(1)


def as_clicks(points: Sequence[tuple[float, float, bool]]) -> tuple[Click, ...]:
    """Make clicks from (x, y, is_positive) triples, for tests and scripts."""
    return tuple(Click(x=x, y=y, is_positive=p) for x, y, p in points)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A part of the model's frame that is encoded on its own, in frame pixels.

    Prompts are given relative to the window; positional encodings are those of the whole frame.
    Training on windows is cheaper than on frames and agrees with them.
    """

    x: int
    y: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if any(v % STRIDE for v in (self.x, self.y, self.width, self.height)):
            raise ValueError(f"A window's edges must be multiples of {STRIDE}, got {self}.")

    @property
    def grid(self) -> tuple[slice, slice]:
        """Rows and columns of the stride-8 grid that the window covers."""
        return self.pixels(STRIDE)

    def pixels(self, stride: int) -> tuple[slice, slice]:
        """Rows and columns that the window covers on a grid of ``stride`` frame pixels."""
        top, left = self.y // stride, self.x // stride
        return (
            slice(top, top + self.height // stride),
            slice(left, left + self.width // stride),
        )
