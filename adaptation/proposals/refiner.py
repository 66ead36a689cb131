"""Places -> masks: any model of the catalog, a batch of prompts on one embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from adaptation.masks import Mask, largest_component
from adaptation.masks.regions import iou
from adaptation.models.decoder import Weights
from adaptation.models.sam import PromptableSam
from adaptation.predictor.components import pointed_at
from adaptation.predictor.guided_filter import at_edges
from adaptation.predictor.interactive import Encode, InteractivePredictor
from adaptation.predictor.settings import EdgeSettings
from adaptation.predictor.zoom import View
from adaptation.proposals.interface import Place
from adaptation.types import Box, Click, Embedding, MaskPrediction, Prompt


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """A candidate: a mask, what it was prompted with, and what speaks for it.

    Args:
        mask: ``[H, W]``, never empty.
        score: Of its generator, then of the prompts that sifted it; higher is better.
        predicted_iou: The model's own estimate of the mask.
        click: It was prompted with, or None.
        box: It was prompted with, or None.
        evidence: What else is known of it, by name, for the calibrated score.
    """

    mask: Mask
    score: float
    predicted_iou: float
    click: Click | None = None
    box: Box | None = None
    evidence: dict[str, float] = field(default_factory=dict)

    @property
    def area(self) -> int:
        """Its pixels."""
        return int(np.count_nonzero(self.mask))

    def scored(self, score: float) -> Region:
        """The same with another score."""
        return replace(self, score=score)


class Refiner:
    """Draws a mask at every place.

    Args:
        sam: The model.
        max_batch: Prompts decoded at once on one embedding.
        edges: How masks are drawn at the image's edges.
        all_candidates: Draw every mask of an ambiguous prompt, not only the shown one: whoever
            knows more of what is looked for chooses.
    """

    def __init__(
        self,
        sam: PromptableSam,
        *,
        max_batch: int = 16,
        edges: EdgeSettings | None = None,
        all_candidates: bool = False,
    ) -> None:
        self.sam, self.max_batch, self.all_candidates = sam, max_batch, all_candidates
        self.edges = edges or EdgeSettings()
        self._stride = sam.input_size / sam.low_res_size

    def refine(
        self, embedding: Embedding, places: Sequence[Place], weights: Weights | None = None
    ) -> list[Region]:
        """Draw the places' masks; those that come out empty are left out.

        Args:
            embedding: Of the whole image.
            places: With clicks or boxes in pixels of the image.
            weights: Decoder weights of a session; None for the base model's.
        """
        found: list[Region] = []
        for start in range(0, len(places), self.max_batch):
            found += self._batch(embedding, places[start : start + self.max_batch], weights)
        return found

    def _batch(
        self, embedding: Embedding, places: Sequence[Place], weights: Weights | None
    ) -> list[Region]:
        prompts = [Prompt(clicks=() if p.click is None else (p.click,), box=p.box) for p in places]
        with torch.no_grad():
            answer = self.sam.decode(embedding, prompts, weights=weights)
        regions = []
        for index, (place, prompt) in enumerate(zip(places, prompts, strict=True)):
            one = answer[index]
            for token in self._tokens(one):
                logits = pointed_at(one.low_res_logits[0, token], prompt, embedding, self._stride)
                if self.edges.is_on:
                    logits = at_edges(logits, prompt, embedding, self._stride, self.edges)
                mask = self.sam.binary_mask(logits, embedding)
                if mask.any():
                    quality = float(one.predicted_iou[0, token])
                    regions.append(_region(place, mask, quality))
        return regions

    def _tokens(self, one: MaskPrediction) -> list[int]:
        if self.all_candidates and bool(one.is_ambiguous[0]):
            return list(range(1, one.low_res_logits.shape[1]))
        return [int(one.shown_token()[0])]


class ZoomRefiner:
    """Draws masks as a click does: on the whole image first, then on a crop around the object.

    Every place costs an encoding of its crop; for jobs that nobody waits for.

    Args:
        interaction: The way of a click.
    """

    def __init__(self, interaction: InteractivePredictor) -> None:
        self.interaction = interaction

    def refine(
        self,
        embedding: Embedding,
        places: Sequence[Place],
        encode: Encode,
        weights: Weights | None = None,
    ) -> list[Region]:
        """Draw the places' masks; those that come out empty are left out.

        Args:
            embedding: Of the whole image.
            places: With clicks or boxes in pixels of the image.
            encode: Gives the embedding of a crop.
            weights: Decoder weights of a session; None for the base model's.
        """
        drawn = (self._one(embedding, place, encode, weights) for place in places)
        return [region for region in drawn if region is not None]

    def _one(
        self, embedding: Embedding, place: Place, encode: Encode, weights: Weights | None
    ) -> Region | None:
        size, full = embedding.original_size, View.full(embedding.original_size)
        clicks = () if place.click is None else (place.click,)

        def given(view: View) -> Embedding:
            return embedding if view == full else encode(view)

        answer = self.interaction.answer(given, size, clicks, place.box, weights=weights)
        view = self.interaction.next_view(answer)
        if view != answer.view and bool((answer.shown_logits > 0).any()):
            closer = self.interaction.answer(
                given, size, clicks, place.box, answer.state, weights, view
            )
            answer = closer if bool((closer.shown_logits > 0).any()) else answer
        mask = self.interaction.mask(answer)
        return _region(place, mask, answer.predicted_iou) if mask.any() else None


def _region(place: Place, mask: Mask, predicted_iou: float) -> Region:
    return Region(
        mask=mask,
        score=place.score,
        predicted_iou=predicted_iou,
        click=place.click,
        box=place.box,
        evidence={"predicted_iou": predicted_iou},
    )


def without_duplicates(
    regions: Sequence[Region], taken: Sequence[Mask] = (), *, overlap: float = 0.5
) -> list[Region]:
    """Non-maximum suppression of masks: the best of those that overlap, and none that is taken.

    Args:
        regions: In any order.
        taken: Masks of what is labelled already; what overlaps them is left out.
        overlap: IoU, or share of the smaller one, from which two are the same.

    Returns:
        The regions that are left, best first.
    """
    kept: list[Region] = []
    masks = list(taken)
    for region in sorted(regions, key=lambda r: -r.score):
        if all(_overlap(region.mask, mask) < overlap for mask in masks):
            kept.append(region)
            masks.append(region.mask)
    return kept


def _overlap(a: Mask, b: Mask) -> float:
    shared = np.count_nonzero(a & b)
    if shared == 0:
        return 0.0
    smaller = min(np.count_nonzero(a), np.count_nonzero(b))
    return max(iou(a, b), shared / smaller)


def in_one_piece(region: Region) -> Region:
    """The same, with the largest part of its mask only."""
    return replace(region, mask=largest_component(region.mask))
