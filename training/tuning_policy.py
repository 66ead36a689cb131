"""The decoder that is tuned."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from adaptation.adapter import trainable_names
from adaptation.compact import Window
from adaptation.precision import has_fast_bfloat16
from adaptation.sam import PromptableSam
from adaptation.types import Embedding, MaskPrediction, Prompt


class Policy:
    """The decoder that learns, beside the base model, which is never written to.

    Args:
        sam: The base model: where the policy starts, and the reference.
        subset: The part of the decoder that learns, see `adaptation.adapter.SUBSETS`.
        mixed_precision: bfloat16 on a GPU, and on a CPU that multiplies it natively.
    """

    def __init__(self, sam: PromptableSam, subset: str, *, mixed_precision: bool) -> None:
        self.sam = sam
        base = sam.decoder_parameters()
        self.weights = {
            name: base[name].detach().clone().requires_grad_()
            for name in trainable_names(base, subset)
        }
        self._half = mixed_precision

    def decode(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> MaskPrediction:
        """As `PromptableSam.decode`, with the weights that learn; results are float32."""
        with _autocast(self.sam.device, self._half):
            return _as_float(self.sam.decode(embeddings, prompts, weights=self.weights))

    def decode_within(self, embedding: Embedding, prompt: Prompt, window: Window) -> MaskPrediction:
        """As `PromptableSam.decode_within`, likewise."""
        with _autocast(self.sam.device, self._half):
            found = self.sam.decode_within(embedding, prompt, window, weights=self.weights)
            return _as_float(found)

    def decoder(self) -> dict[str, Tensor]:
        """All parameters of the decoder as they are now."""
        return {**self.sam.decoder_parameters(), **self.weights}


def _as_float(found: MaskPrediction) -> MaskPrediction:
    return replace(
        found,
        low_res_logits=found.low_res_logits.float(),
        predicted_iou=found.predicted_iou.float(),
    )


def _autocast(device: torch.device, is_on: bool) -> AbstractContextManager[object]:
    if not is_on or (device.type == "cpu" and not has_fast_bfloat16()):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
