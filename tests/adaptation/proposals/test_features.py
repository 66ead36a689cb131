from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adaptation.errors import SettingsError
from adaptation.models.compact.model import build_compact
from adaptation.models.sam import PromptableSam
from adaptation.proposals.features import (
    EmbeddingFeatures,
    TrunkFeatures,
    as_vectors,
    embedded_features,
    neighbourhood,
    on_grid,
)
from adaptation.proposals.interface import ProposalImage
from tests.adaptation.proposals.making import N_CHANNELS, made


def test_padding_is_cut_off_and_extra_channels_are_left_out() -> None:
    features = embedded_features(made("a", rows=5).embedding, N_CHANNELS)
    assert features.shape == (N_CHANNELS, 5, 8)
    assert bool((features[0] == 1).all())


def test_a_neighbourhood_at_the_border_averages_what_is_inside() -> None:
    features = torch.arange(9.0).view(1, 3, 3)
    averaged = neighbourhood(features, 3)[0]
    assert averaged[1, 1] == pytest.approx(4.0)
    assert averaged[0, 0] == pytest.approx((0 + 1 + 3 + 4) / 4)
    assert neighbourhood(features, 1) is features


def test_a_grid_averages_down_and_never_up() -> None:
    features = torch.arange(8.0).view(1, 2, 4)
    assert on_grid(features, 2)[0].tolist() == [[(0 + 1 + 4 + 5) / 4, (2 + 3 + 6 + 7) / 4]]
    assert on_grid(features, 8) is features


def test_vectors_are_of_length_one_row_by_row() -> None:
    vectors = as_vectors(torch.tensor([[[3.0, 0.0]], [[4.0, 2.0]]]))
    assert vectors.tolist() == [pytest.approx([0.6, 0.8]), pytest.approx([0.0, 1.0])]


def test_embedding_features_take_the_semantic_channels(sam: PromptableSam) -> None:
    extractor = EmbeddingFeatures.of(sam, grids=(4, 2))
    assert extractor.n_channels == 16
    assert extractor.name == "embedding-16-4-2"


@pytest.fixture(scope="module")
def compact() -> PromptableSam:
    torch.manual_seed(0)
    return PromptableSam(build_compact(input_size=64, dim=16, n_heads=2), "compact-random")


def test_the_trunks_layers_cover_the_image_without_padding(compact: PromptableSam) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    image = ProposalImage(
        image_id="a", group="a", embedding=compact.embed(pixels), read=lambda: pixels
    )
    layers = TrunkFeatures(sam=compact, strides=(8, 16, 32)).layers(image)
    assert {name: tuple(v.shape) for name, v in layers.items()} == {
        "stride8": (40, 4, 8),
        "stride16": (112, 2, 4),
        "stride32": (320, 1, 2),
    }
    assert all(bool(torch.isfinite(v).all()) and bool(v.std() > 0) for v in layers.values())


def test_another_encoder_has_no_trunk(sam: PromptableSam, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no trunk"):
        TrunkFeatures(sam=sam)
