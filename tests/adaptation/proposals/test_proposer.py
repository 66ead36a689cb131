from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from adaptation.errors import SettingsError
from adaptation.models.compact.model import build_compact
from adaptation.models.sam import PromptableSam
from adaptation.proposals.features import EmbeddingFeatures, default_features
from adaptation.proposals.hybrid_prompts import HybridPrompts, PropertyPrompt
from adaptation.proposals.interface import Context, Generated, ProposalImage
from adaptation.proposals.proposer import Proposer, ProposerSettings
from adaptation.proposals.refiner import Refiner
from adaptation.proposals.saliency import SaliencyGenerator

OPEN = ProposerSettings(prompts=HybridPrompts(property=PropertyPrompt(is_on=False)))


class TwoPeaks:
    name = "two peaks"

    def generate(self, image: ProposalImage, context: Context) -> Generated:
        scores = np.zeros((6, 10), np.float32)
        scores[1, 2], scores[4, 8] = 0.9, 0.5
        return Generated(score_map=scores)


@pytest.fixture(scope="module")
def compact() -> PromptableSam:
    torch.manual_seed(0)
    return PromptableSam(build_compact(input_size=64, dim=16, n_heads=2), "compact-random")


@pytest.fixture(scope="module")
def shown(compact: PromptableSam) -> ProposalImage:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    return ProposalImage(
        image_id="a", group="a", embedding=compact.embed(pixels), read=lambda: pixels
    )


def proposer(sam: PromptableSam, settings: ProposerSettings = OPEN) -> Proposer:
    return Proposer(
        generator=TwoPeaks(),
        refiner=Refiner(sam),
        settings=settings,
        saliency=SaliencyGenerator(features=default_features(sam)),
    )


def test_peaks_become_regions_with_probabilities(
    compact: PromptableSam, shown: ProposalImage
) -> None:
    found = proposer(compact).propose(shown)
    assert found.regions
    assert all(0 < r.score < 1 and r.mask.shape == (48, 80) for r in found.regions)
    assert [r.score for r in found.regions] == sorted(r.score for r in found.regions)[::-1]
    assert found.score == found.regions[0].score
    assert {"map", "log_area", "predicted_iou"} <= found.regions[0].evidence.keys()


def test_what_is_labelled_already_is_never_proposed_again(
    compact: PromptableSam, shown: ProposalImage
) -> None:
    first = proposer(compact).propose(shown)
    known = Context(labelled=tuple(r.mask for r in first.regions))
    again = proposer(compact).propose(shown, known)
    for region in again.regions:
        for mask in known.labelled:
            assert np.count_nonzero(region.mask & mask) < 0.5 * region.area


def test_only_sure_regions_are_proposed_where_that_is_asked_for(
    compact: PromptableSam, shown: ProposalImage
) -> None:
    assert proposer(compact, replace(OPEN, min_score=0.999)).propose(shown).regions == ()


def test_the_score_of_an_image_without_regions_is_0(
    compact: PromptableSam, shown: ProposalImage
) -> None:
    none = ProposerSettings(prompts=HybridPrompts(property=PropertyPrompt(area=1e-6)))
    assert proposer(compact, none).propose(shown).score == 0.0


def test_a_vit_gives_its_embedding_as_features(sam: PromptableSam) -> None:
    assert isinstance(default_features(sam), EmbeddingFeatures)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(SettingsError):
        ProposerSettings(places=0)
