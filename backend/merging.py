"""Sessions merged into a start for the next ones of their project.

The start is the mean of what the project's last finished sessions learned, each weighted by its
finished objects (as in federated averaging: McMahan et al. 2017, arXiv 1602.05629).  It is used
only where it does not lose against the base decoder on objects of these sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptation.adapter import Adapter
from adaptation.learner import LearnerSettings
from adaptation.sam import PromptableSam
from backend.teaching import Pause, Taught, interaction_of, mean_iou


def mean_of(adapters: Sequence[Adapter], weights: Sequence[int]) -> Adapter:
    """The weighted mean of adapters to one base decoder; the base itself counts as no difference.

    Args:
        adapters: At least one, all of one base decoder.
        weights: At least 0 each, above 0 together.
    """
    names = sorted({name for adapter in adapters for name in adapter.deltas})
    total = float(sum(weights))
    return Adapter(
        {name: _mean(name, adapters, weights, total) for name in names}, adapters[0].decoder_id
    )


def _mean(name: str, adapters: Sequence[Adapter], weights: Sequence[int], total: float) -> Tensor:
    found = [
        (adapter.deltas[name].double(), weight)
        for adapter, weight in zip(adapters, weights, strict=True)
        if name in adapter.deltas
    ]
    summed = torch.zeros_like(found[0][0])
    for delta, weight in found:
        summed += delta * weight
    return (summed / total).to(torch.float16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A merged start beside the base decoder, on the same objects.

    Args:
        merged_iou: Mean IoU of the start's answers with the submitted masks.
        frozen_iou: The base decoder's.
        n_objects: How many objects.
    """

    merged_iou: float
    frozen_iou: float
    n_objects: int

    @property
    def is_won(self) -> bool:
        """Whether the start may be used."""
        return self.n_objects > 0 and self.merged_iou >= self.frozen_iou


def try_out(
    sam: PromptableSam,
    settings: LearnerSettings,
    adapter: Adapter,
    objects: Sequence[Taught],
    pause: Pause,
) -> Trial:
    """Ask a start and the base decoder what was asked on some finished objects."""
    interaction, weights = interaction_of(sam, settings), adapter.weights(sam)
    merged = [mean_iou(interaction, taught, weights, pause) for taught in objects]
    frozen = [mean_iou(interaction, taught, None, pause) for taught in objects]
    n = len(objects)
    return Trial(
        merged_iou=sum(merged) / max(1, n), frozen_iou=sum(frozen) / max(1, n), n_objects=n
    )
