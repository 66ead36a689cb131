"""The decoder that is tuned."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from adaptation.learning.adapter import trainable_names
from adaptation.models.precision import has_fast_bfloat16
from adaptation.models.sam import PromptableSam
from adaptation.types import Embedding, MaskPrediction, Prompt, Window


class Policy:
    """The decoder that learns, beside the base model, which is never written to.

    Args:
        sam: The base model: where the policy starts, and the reference.
        subset: The part of the decoder that learns, see `adaptation.learning.adapter.SUBSETS`.
        mixed_precision: bfloat16 on a GPU, and on a CPU that multiplies it natively.
    """

    def __init__(self, sam: PromptableSam, subset: str, *, mixed_precision: bool) -> None:
        self.sam = sam
        base = sam.decoder_parameters()
        self.weights = {
            name: base[name].detach().clone().requires_grad_()
            for name in trainable_names(base, subset)
        }
        self.dtype = decoding_dtype(sam.device, mixed_precision=mixed_precision)

    def decode(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> MaskPrediction:
        """As `PromptableSam.decode`, with the weights that learn; results are float32."""
        with self._autocast():
            return _as_float(self.sam.decode(embeddings, prompts, weights=self.weights))

    def decode_within(self, embedding: Embedding, prompt: Prompt, window: Window) -> MaskPrediction:
        """As `PromptableSam.decode_within`, likewise."""
        with self._autocast():
            found = self.sam.decode_within(embedding, prompt, window, weights=self.weights)
            return _as_float(found)

    def decoder(self) -> dict[str, Tensor]:
        """All parameters of the decoder as they are now."""
        return {**self.sam.decoder_parameters(), **self.weights}

    def _autocast(self) -> AbstractContextManager[object]:
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.sam.device.type, self.dtype)


def decoding_dtype(device: torch.device, *, mixed_precision: bool) -> torch.dtype:
    """What a tuned decoder multiplies in: bfloat16 where it is wanted and native, else float32."""
    is_native = device.type != "cpu" or has_fast_bfloat16()
    return torch.bfloat16 if mixed_precision and is_native else torch.float32


def _as_float(found: MaskPrediction) -> MaskPrediction:
    return replace(
        found,
        low_res_logits=found.low_res_logits.float(),
        predicted_iou=found.predicted_iou.float(),
    )
