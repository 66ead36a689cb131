from __future__ import annotations

import math

import numpy as np
import pytest

from adaptation.errors import SettingsError
from adaptation.masks import Mask
from adaptation.proposals.hybrid_prompts import (
    HybridPrompts,
    PropertyPrompt,
    anomaly_map,
    by_property,
    by_saliency,
    object_by_border,
    sift,
)
from adaptation.proposals.refiner import Region
from tests.adaptation.proposals.making import square

SMALL = square(slice(0, 8), slice(0, 8))
LARGE = square(slice(0, 64), slice(0, 40))
APART = square(slice(32, 48), slice(32, 48))


def region(mask: Mask, score: float = 1.0) -> Region:
    return Region(mask=mask, score=score, predicted_iou=0.9)


def test_too_large_candidates_are_left_out() -> None:
    prompt = PropertyPrompt(area=0.3)
    kept = by_property([region(SMALL), region(LARGE)], prompt, np.ones((64, 64), bool))
    assert [r.area for r in kept] == [64]


def test_candidates_outside_of_the_inspected_object_are_left_out() -> None:
    half_inside = square(slice(40, 56), slice(40, 56))
    kept = by_property(
        [region(APART), region(SMALL), region(half_inside)],
        PropertyPrompt(area=1.0, inside=0.5),
        square(slice(24, 48), slice(24, 64)),
    )
    assert [r.mask is m for r, m in zip(kept, (APART, half_inside), strict=True)] == [True, True]


def test_saliency_multiplies_by_the_exponential_of_its_mean() -> None:
    saliency = np.zeros((64, 64), np.float32)
    saliency[:8, :8] = 0.5
    small, apart = by_saliency([region(SMALL), region(APART, 1.2)], saliency)
    assert small.score == pytest.approx(math.exp(0.5), rel=1e-4)
    assert apart.score == pytest.approx(1.2)
    (negative,) = by_saliency([region(SMALL, -1.0)], saliency)
    assert negative.score == pytest.approx(-math.exp(-0.5), rel=1e-4)


def test_the_k_best_are_kept() -> None:
    regions = [region(SMALL, score) for score in (0.1, 0.9, 0.5)]
    prompts = HybridPrompts(saliency=False, confidence=2)
    assert [r.score for r in sift(regions, prompts)] == [0.9, 0.5]


def test_with_all_prompts_off_saa_plus_is_saa() -> None:
    regions = [region(SMALL, 0.1), region(LARGE, 0.9)]
    kept = sift(regions, HybridPrompts.none())
    assert [(r.score, r.area) for r in kept] == [(0.9, 64 * 40), (0.1, 64)]


def test_the_anomaly_map_is_the_mean_score_of_the_regions() -> None:
    found = anomaly_map([region(SMALL, 1.0), region(LARGE, 0.5)], (64, 64))
    assert found[0, 0] == pytest.approx(0.75)
    assert found[60, 10] == pytest.approx(0.5)
    assert found[0, 63] == 0


def test_every_prompt_is_missing_once_in_the_ablation() -> None:
    variants = HybridPrompts().ablations()
    assert not variants["SAA+ without property"].property.is_on
    assert not variants["SAA+ without saliency"].saliency
    assert variants["SAA+ without confidence"].confidence == 0
    assert variants["SAA"] == HybridPrompts.none()
    assert variants["SAA+"] == HybridPrompts()


def test_the_inspected_object_differs_from_the_border() -> None:
    pixels = np.full((64, 64, 3), 20, np.uint8)
    pixels[16:48, 8:56] = 180
    assert (object_by_border(pixels) == square(slice(16, 48), slice(8, 56))).all()


def test_an_image_that_fills_its_frame_is_the_object() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert object_by_border(noise).all()
    assert object_by_border(np.full((8, 8, 3), 7, np.uint8)).all()


def test_what_a_prompt_needs_is_asked_for() -> None:
    with pytest.raises(ValueError, match="saliency map"):
        sift([region(SMALL)], HybridPrompts())
    with pytest.raises(ValueError, match="pixels"):
        sift([region(SMALL)], HybridPrompts(property=PropertyPrompt(object="border")))


def test_impossible_prompts_are_refused() -> None:
    with pytest.raises(SettingsError):
        PropertyPrompt(area=0.0)
    with pytest.raises(SettingsError):
        HybridPrompts(confidence=-1)
