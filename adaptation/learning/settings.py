"""How a session learns: every value of ``configs/learner.yaml`` and its default."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat

from adaptation.config import Count, Share, one_of
from adaptation.learning.adapter import SUBSETS
from adaptation.learning.adapter_scale import TrustSettings
from adaptation.learning.guard import GuardSettings
from adaptation.predictor.click_correction import CorrectionSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """How a session learns; ``configs/learner.yaml`` says what each value does.

    Args:
        subset: Which decoder parameters learn (:data:`adaptation.learning.adapter.SUBSETS`).
        rank: Matrices learn by products of this rank; 0 lets them learn whole.
        learning_rate: Adam's.
        steps: Optimiser steps on a finished object, together with replayed ones.
        batch: Objects per step.
        replay: Finished objects that are remembered.
        lessons: Prompts kept of each object.
        simulated_share: Share of the prompts in idle training that are simulated afresh.
        simulated_clicks: Most clicks of a simulated prompt.
        erosion_share: Unlabelled band over the square root of the object's area; at least one pixel
            of the logits' grid.
        anchor: Weight of the squared distance from the base decoder.
        iou_weight: Weight of the predicted-IoU error.
        think_steps: Most steps in one stretch of idle training.
        think_patience: Stretches without progress on kept-out objects before it stops.
        keep_out: Every n-th object is kept out of replay, to undo stretches that gain nothing and
            to tell when to stop.
        clip: Largest gradient norm.
        half: Steps run in bfloat16 where the processor has it.
        correction: How clicks that a mask contradicts are corrected (the fast weights).
        guard: When not to learn, and when to turn back.
        trust: How much of what was learned answers a click.
    """

    subset: Annotated[str, one_of(tuple(SUBSETS))] = "all"
    rank: NonNegativeInt = 0
    learning_rate: NonNegativeFloat = 4e-4
    steps: NonNegativeInt = 8
    batch: Count = 3
    replay: NonNegativeInt = 48
    lessons: Count = 6
    simulated_share: Share = 0.5
    simulated_clicks: Count = 4
    erosion_share: NonNegativeFloat = 0.0
    anchor: NonNegativeFloat = 0.0
    iou_weight: NonNegativeFloat = 0.25
    think_steps: NonNegativeInt = 16
    think_patience: NonNegativeInt = 2
    keep_out: Count = 5
    clip: PositiveFloat = 1.0
    half: bool = True
    correction: CorrectionSettings = field(default_factory=CorrectionSettings)
    guard: GuardSettings = field(default_factory=GuardSettings)
    trust: TrustSettings = field(default_factory=TrustSettings)
