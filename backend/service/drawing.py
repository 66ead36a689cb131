"""An answer's masks at the size of the image: those that are shown, and drafts of the others."""

from __future__ import annotations

import math

from adaptation.journal import CandidateRecord
from adaptation.predictor.interactive import Answer, InteractivePredictor
from adaptation.types import Size
from backend.service.records import (
    ClickJob,
    ClickResult,
    DrawnMask,
    candidate_records,
    compressed,
)

DRAFT_PIXELS = 1_000_000
"""Masks that are kept but not shown are drawn at this many pixels of their view at most, and then
enlarged: their borders are a pixel or two off in an image of a dozen megapixels, where one logit
covers forty pixels, and the next click finds the processor free earlier."""


def drawn_mask(
    interaction: InteractivePredictor, answer: Answer, token: int, *, is_shown: bool
) -> DrawnMask:
    """One of an answer's masks: at the image's size where it is shown, else as a draft."""
    size = answer.view.size if is_shown else _draft_size(answer.view.size)
    in_view = interaction.mask_in_view(answer, token, size)
    return DrawnMask(
        token=token,
        predicted_iou=float(answer.prediction.predicted_iou[0, token]),
        rle=compressed(in_view, answer),
        shown=answer.pasted(in_view) if is_shown else None,
    )


def undrawn_masks(
    interaction: InteractivePredictor, job: ClickJob, result: ClickResult
) -> tuple[CandidateRecord, ...]:
    """The journal's records of the masks of a click that nobody was shown."""
    drawn = [
        drawn_mask(interaction, result.answer, token, is_shown=False) for token in result.undrawn
    ]
    return candidate_records(job, drawn, len(result.candidates))


def _draft_size(size: Size) -> Size:
    """(H, W) at which a mask that nobody will see is drawn: no more than `DRAFT_PIXELS`."""
    shrink = max(1.0, math.sqrt(size[0] * size[1] / DRAFT_PIXELS))
    return max(1, round(size[0] / shrink)), max(1, round(size[1] / shrink))
