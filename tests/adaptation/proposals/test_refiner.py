from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from adaptation.models.compact.model import build_compact
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import InteractivePredictor
from adaptation.predictor.settings import EdgeSettings, ZoomSettings
from adaptation.proposals.interface import Place
from adaptation.proposals.refiner import Refiner, Region, ZoomRefiner, without_duplicates
from adaptation.types import Box, Click
from tests.adaptation.proposals.making import square

PLACES = [
    Place(score=0.5, click=Click(x=20, y=12, is_positive=True)),
    Place(score=0.9, box=Box(x0=30, y0=10, x1=60, y1=40)),
    Place(score=0.7, click=Click(x=60, y=30, is_positive=True)),
]


def random_compact() -> PromptableSam:
    torch.manual_seed(0)
    return PromptableSam(build_compact(input_size=64, dim=16, n_heads=2), "compact-random")


def test_clicks_and_boxes_become_masks_on_one_embedding(image: NDArray[np.uint8]) -> None:
    sam = random_compact()
    embedding = sam.embed(image)
    together = Refiner(sam).refine(embedding, PLACES)
    one_by_one = Refiner(sam, max_batch=1).refine(embedding, PLACES)
    assert together
    assert all(r.mask.shape == image.shape[:2] and r.mask.any() for r in together)
    assert [r.score for r in together] == [r.score for r in one_by_one]
    assert all((a.mask == b.mask).all() for a, b in zip(together, one_by_one, strict=True))


def test_all_candidates_of_a_click_are_drawn_where_that_is_asked_for(
    image: NDArray[np.uint8],
) -> None:
    sam = random_compact()
    embedding, (click, box, _) = sam.embed(image), PLACES
    shown = Refiner(sam).refine(embedding, [click])
    every = Refiner(sam, all_candidates=True).refine(embedding, [click, box])
    assert len(shown) == 1 < len(every) <= 4
    assert any((region.mask == shown[0].mask).all() for region in every)
    assert sum(region.box is not None for region in every) == 1


def test_a_vit_draws_too(sam: PromptableSam, image: NDArray[np.uint8]) -> None:
    regions = Refiner(sam, edges=EdgeSettings(is_on=False)).refine(sam.embed(image), PLACES)
    assert {r.score for r in regions} <= {0.5, 0.7, 0.9}
    assert all("predicted_iou" in r.evidence for r in regions)


def test_zooming_encodes_a_crop_around_a_small_object(image: NDArray[np.uint8]) -> None:
    sam = random_compact()
    crops = []
    refiner = ZoomRefiner(InteractivePredictor(sam, ZoomSettings(max_object_share=1.0, min_side=8)))

    def encode(view):  # type: ignore[no-untyped-def]
        crops.append(view)
        return sam.embed(image[view.y0 : view.y1, view.x0 : view.x1])

    box = Place(score=1.0, box=Box(x0=30, y0=10, x1=42, y1=22))
    regions = refiner.refine(sam.embed(image), [box], encode)
    assert crops and max(crops[0].size) < 48
    assert len(regions) == 1


def test_the_best_of_overlapping_masks_stays() -> None:
    masks = [square(slice(0, 16), slice(a, a + 16)) for a in (0, 4, 40)]
    regions = [
        Region(mask=m, score=s, predicted_iou=0.5)
        for m, s in zip(masks, (0.5, 0.9, 0.1), strict=True)
    ]
    assert [r.score for r in without_duplicates(regions)] == [0.9, 0.1]


def test_a_part_of_what_is_there_is_no_proposal_of_its_own() -> None:
    whole, part = square(slice(0, 32), slice(0, 32)), square(slice(4, 8), slice(4, 8))
    regions = [
        Region(mask=whole, score=0.9, predicted_iou=0.5),
        Region(mask=part, score=0.5, predicted_iou=0.5),
    ]
    assert [r.score for r in without_duplicates(regions)] == [0.9]


def test_what_is_labelled_already_is_left_out() -> None:
    mask = square(slice(0, 16), slice(0, 16))
    region = Region(mask=mask, score=0.9, predicted_iou=0.5)
    assert without_duplicates([region], taken=[mask]) == []
