"""The order of work."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from adaptation.proposals.ordering import doubt, farthest_first, summary_vector
from tests.adaptation.proposals.making import DEFECT, OTHER, OneLayer, made

NONE = torch.zeros(0, 3)


def units(*rows: tuple[float, float, float]) -> torch.Tensor:
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=1)


def test_what_is_unlike_everything_before_comes_first() -> None:
    images = units((1, 0, 0), (1, 0.1, 0), (0, 1, 0), (0, 1, 0.1), (0, 0, 1))
    assert farthest_first(images, known=units((1, 0, 0)))[:2] == [2, 4]
    assert farthest_first(images, known=units((0, 0, 1), (0, 1, 0)))[0] == 0


def test_without_anything_known_the_most_usual_image_begins() -> None:
    images = units((0, 0, 1), (1, 0, 0), (1, 0.1, 0), (1, -0.1, 0))
    assert farthest_first(images, NONE)[:2] == [1, 0]
    assert farthest_first(torch.zeros(0, 3), NONE) == []


@given(st.integers(0, 2**31), st.integers(1, 30), st.integers(0, 5))
def test_every_image_has_its_turn_once_and_is_as_far_as_any_left(
    seed: int, n_images: int, n_known: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = F.normalize(torch.randn(n_images, 3, generator=generator), dim=1)
    known = F.normalize(torch.randn(n_known, 3, generator=generator), dim=1)
    order = farthest_first(images, known)
    assert sorted(order) == list(range(n_images))
    seen = torch.cat([known, images[order[:1]]])
    for turn in range(1, n_images):
        likeness = (images[order[turn:]] @ seen.T).amax(dim=1)
        assert likeness[0] <= likeness.min() + 1e-6
        seen = torch.cat([seen, images[order[turn]][None]])


def test_doubt_is_that_of_the_least_sure_region() -> None:
    assert doubt([]) == 0
    assert doubt([0.0, 1.0]) == 0
    assert doubt([0.5]) == pytest.approx(1)
    assert doubt([0.9, 0.6]) == doubt([0.6]) > doubt([0.9]) > 0


def test_a_summary_tells_images_apart_by_their_share_of_each_kind() -> None:
    one_cell, half = {(0, 0): DEFECT}, {(row, c): OTHER for row in range(4) for c in range(8)}
    features = OneLayer()
    plain, speck, other = (
        summary_vector(features.layers(made(str(n), cells)))
        for n, cells in enumerate(({}, one_cell, half))
    )
    assert plain.norm() == pytest.approx(1)
    assert plain @ speck > plain @ other
