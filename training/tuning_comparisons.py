"""Comparisons as tensors: prompts, and the compared masks on the grid of the decoder's logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from adaptation.interaction import Answer, Encode
from adaptation.lessons import UNLABELLED
from adaptation.losses import mask_iou
from adaptation.masks import decode_rle
from adaptation.types import Embedding, MaskPrediction, Prompt, Size
from training.tuning_items import Comparison
from training.tuning_reference import NO_TOKEN, Reference
from training.tuning_replay import Replay, Replayer, Unusable, float_prompt, plane


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compared:
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


class Desk:
    """Lays comparisons out side by side.

    Args:
        replayer: Of the base model.
    """

    def __init__(self, replayer: Replayer) -> None:
        self.replayer = replayer

    def replay(self, item: Comparison) -> Replay:
        """An item's prompt, and its masks in the prompt's view."""
        return self.replayer.replay(
            f"comparison {item.key}", item.image_key, item.read, lambda e, s: self._make(item, e, s)
        )

    def _make(
        self, item: Comparison, encode: Encode, size: Size
    ) -> tuple[list[Answer], Mapping[str, Tensor]]:
        named = {"region": item.region, "truth": item.truth}
        rles = [*item.candidates, *(rle for rle in named.values() if rle is not None)]
        if any(rle.size != size for rle in rles):
            raise Unusable("one of its masks and its image differ in size")
        answer = self.replayer.interaction.resume(encode, size, item.clicks, item.box)
        sam = self.replayer.sam
        masks = [plane(decode_rle(rle), answer, sam) for rle in item.candidates]
        if any(torch.equal(a, b) for a, b in zip(masks, masks[1:], strict=False)):
            raise Unusable("two of its masks are the same at the model's resolution")
        planes = {n: plane(decode_rle(r), answer, sam) for n, r in named.items() if r is not None}
        return [answer], {"masks": torch.stack(masks), **planes}

    def batch(self, items: Sequence[Comparison]) -> Compared:
        """Lay out B comparisons; those with fewer masks than others are padded."""
        replays = [self.replay(item) for item in items]
        masks = pad_sequence([r.planes["masks"] for r in replays], batch_first=True)
        nothing = torch.zeros_like(replays[0].planes["masks"][0])
        device = self.replayer.sam.device

        def stacked(name: str) -> Tensor:
            return torch.stack([(r.planes.get(name, nothing) == 1) for r in replays]).to(device)

        counts = torch.tensor([len(item.candidates) for item in items])
        ious = [torch.tensor([_or_nan(iou) for iou in item.ious]) for item in items]
        encoders = [
            self.replayer.encode(r, i.read, i.name) for r, i in zip(replays, items, strict=True)
        ]
        return Compared(
            embeddings=[e(r.asked[0].view) for e, r in zip(encoders, replays, strict=True)],
            prompts=[float_prompt(r.asked[0].prompt) for r in replays],
            masks=(masks == 1).float().to(device),
            present=(torch.arange(masks.shape[1]) < counts[:, None]).to(device),
            valid=(masks[:, 0] != UNLABELLED).float().to(device),
            region=stacked("region").float(),
            truth=stacked("truth").float(),
            has_truth=torch.tensor(["truth" in r.planes for r in replays]).to(device),
            ious=pad_sequence(ious, batch_first=True, padding_value=torch.nan).to(device),
        )


def known_quality(
    prediction: MaskPrediction, reference: Reference, batch: Compared
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
