"""Comparisons as tensors: prompts, and the compared masks on the grid of the decoder's logits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adaptation.learning.examples import UNLABELLED, StoredPrompt
from adaptation.learning.losses import mask_iou
from adaptation.masks import Rle, decode_rle
from adaptation.predictor.interactive import Answer, Encode
from adaptation.predictor.zoom import View
from adaptation.types import Embedding, MaskPrediction, Prompt, Size
from training.finetune.comparisons import RankedMasks
from training.finetune.prompt_cache import (
    CachedPrompts,
    PromptCache,
    Unusable,
    answered_in_turn,
    float_prompt,
    plane,
)
from training.finetune.reference import NO_TOKEN, Reference

_N_PLANES = 256
"""Masks at the decoder's resolution that are kept at hand: the pairs of an object share most."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreferenceBatch:
    """B prompts with up to K masks each, best first, on the grid of the logits.

    Args:
        embeddings: Of each prompt's view.
        prompts: In the views' own pixels.
        masks: [B, K, h, w] float in {0, 1}; empty in the padding of shorter lists.
        present: [B, K] bool.
        valid: [B, h, w] float, 0 in the padding of the image.
        region: [B, h, w] float, 1 where a correction touched it.
        truth: [B, h, w] float, the submitted mask.
        has_truth: [B] bool, whether there was one.
        ious: [B, K], with the submitted mask; NaN where nobody painted.
    """

    embeddings: list[Embedding]
    prompts: list[Prompt]
    masks: Tensor
    present: Tensor
    valid: Tensor
    region: Tensor
    truth: Tensor
    has_truth: Tensor
    ious: Tensor

    def __len__(self) -> int:
        return len(self.prompts)


class PreferenceCollator:
    """Lays comparisons out side by side.

    The clicks of an object are answered once, for all comparisons that are about it.

    Args:
        replayer: Of the base model.
    """

    def __init__(self, replayer: PromptCache) -> None:
        self.replayer = replayer
        self._latest: tuple[Any, CachedPrompts] | None = None
        self._plane = lru_cache(_N_PLANES)(self._plane_of)

    def replay(self, item: RankedMasks) -> CachedPrompts:
        """The prompts of an item's chain; it has the one of its `turn`."""
        chain = (item.image_key, item.chain, item.box)
        if self._latest is None or self._latest[0] != chain:
            made = self.replayer.replay(
                f"chain {chain}", item.image_key, item.read, lambda e, s: self._make(item, e, s)
            )
            self._latest = chain, made
        return self._latest[1]

    def _make(
        self, item: RankedMasks, encode: Encode, size: Size
    ) -> tuple[Sequence[Answer], Mapping[str, Tensor]]:
        interaction = self.replayer.interaction
        return answered_in_turn(interaction, encode, size, item.chain, item.box), {}

    def check(self, item: RankedMasks) -> None:
        """Replay an item, and look at its masks.

        Raises:
            Unusable: It says nothing.
        """
        masks_given = (*item.candidates, item.region, item.truth)
        if any(rle is not None and rle.size != item.image_size for rle in masks_given):
            raise Unusable("one of its masks and its image differ in size")
        masks = self._masks(item, self.replay(item).asked[item.turn])
        if any(torch.equal(a, b) for a, b in zip(masks, masks[1:], strict=False)):
            raise Unusable("two of its masks are the same at the model's resolution")

    def _masks(self, item: RankedMasks, asked: StoredPrompt) -> list[Tensor]:
        """The compared masks on the grid of the logits of the prompt's view, `[h, w]` int8 each."""
        return [self._plane(rle, asked.view, asked.input_size) for rle in item.candidates]

    def _plane_of(self, rle: Rle, view: View, input_size: Size) -> Tensor:
        return plane(decode_rle(rle), view, input_size, self.replayer.sam)

    def batch(self, items: Sequence[RankedMasks]) -> PreferenceBatch:
        """Lay out B comparisons; those with fewer masks than others are padded."""
        replays = [self.replay(item) for item in items]
        asked = [r.asked[item.turn] for r, item in zip(replays, items, strict=True)]
        compared = [torch.stack(self._masks(i, a)) for i, a in zip(items, asked, strict=True)]
        masks = pad_sequence(compared, batch_first=True)
        nothing = torch.zeros_like(masks[0, 0])
        device = self.replayer.sam.device

        def stacked(rles: Iterable[Rle | None]) -> Tensor:
            planes = [
                nothing if rle is None else self._plane(rle, a.view, a.input_size)
                for rle, a in zip(rles, asked, strict=True)
            ]
            return (torch.stack(planes) == 1).float().to(device)

        counts = torch.tensor([len(item.candidates) for item in items])
        ious = [torch.tensor([_or_nan(iou) for iou in item.ious]) for item in items]
        encoders = [
            self.replayer.encode(r, i.read, i.name) for r, i in zip(replays, items, strict=True)
        ]
        return PreferenceBatch(
            embeddings=[e(a.view) for e, a in zip(encoders, asked, strict=True)],
            prompts=[float_prompt(a.prompt) for a in asked],
            masks=(masks == 1).float().to(device),
            present=(torch.arange(masks.shape[1]) < counts[:, None]).to(device),
            valid=(masks[:, 0] != UNLABELLED).float().to(device),
            region=stacked(item.region for item in items),
            truth=stacked(item.truth for item in items),
            has_truth=torch.tensor([item.truth is not None for item in items]).to(device),
            ious=pad_sequence(ious, batch_first=True, padding_value=torch.nan).to(device),
        )


def known_quality(
    prediction: MaskPrediction, reference: Reference, batch: PreferenceBatch
) -> tuple[Tensor, Tensor]:
    """What is known of the decoder's own masks: their order, and their IoU, both [B, T].

    Where a mask was submitted, both are the IoU with it, of the masks as they are now.  Else the
    order is that of the compared masks that are masks of the decoder, and their recorded IoUs, if
    there are any, are the IoUs.  NaN where nothing is known.  The single-mask output does not
    compete where several masks may be meant.
    """
    scores = prediction.predicted_iou
    measured = mask_iou(
        prediction.low_res_logits.detach(), batch.truth[:, None], batch.valid[:, None]
    )
    ranks = -torch.arange(batch.masks.shape[1], device=scores.device).expand_as(reference.matches)
    recorded = _at_tokens(batch.ious, reference.matches, scores)
    order = _at_tokens(ranks.to(scores.dtype), reference.matches, scores)
    has_truth = batch.has_truth[:, None]
    quality = torch.where(has_truth, measured, order)
    iou = torch.where(has_truth, measured, recorded)
    is_out = torch.zeros_like(scores, dtype=torch.bool)
    is_out[:, 0] = prediction.is_ambiguous
    return quality.masked_fill(is_out, torch.nan), iou.masked_fill(is_out, torch.nan)


def _at_tokens(values: Tensor, tokens: Tensor, like: Tensor) -> Tensor:
    """Values [B, K] put where their tokens [B, K] say, [B, T]; NaN elsewhere."""
    room = like.new_full((like.shape[0], like.shape[1] + 1), torch.nan)
    places = torch.where(tokens == NO_TOKEN, like.shape[1], tokens)  # the last place is dropped
    return room.scatter(1, places, values.to(like.dtype))[:, :-1]


def best_is_scored_highest(scores: Tensor, quality: Tensor) -> Tensor:
    """1 where the best mask of a prompt has the highest score, else 0; NaN with fewer than two."""
    is_known = ~quality.isnan()
    best = quality.nan_to_num(nan=-torch.inf).argmax(dim=1)
    highest = scores.detach().masked_fill(~is_known, -torch.inf).argmax(dim=1)
    return torch.where(is_known.sum(dim=1) > 1, (best == highest).to(scores.dtype), torch.nan)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value
