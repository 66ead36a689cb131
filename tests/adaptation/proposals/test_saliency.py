from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from adaptation.errors import SettingsError
from adaptation.proposals.distances import mean_of_nearest, nearest_similarity
from adaptation.proposals.interface import Context
from adaptation.proposals.saliency import SaliencyGenerator
from tests.adaptation.proposals.making import DEFECT, OneLayer, made


def test_what_differs_from_its_own_image_stands_out() -> None:
    found = SaliencyGenerator(features=OneLayer(), n_neighbours=10).generate(
        made("a", {(2, 3): DEFECT}), Context()
    )
    assert found.score_map is not None
    # Its ten nearest are itself (cosine 1) and nine others (cosine 0).
    assert found.score_map[2, 3] == pytest.approx(0.9)
    assert found.score_map[0, 0] == pytest.approx(0.0, abs=1e-6)


def test_where_n_is_more_than_the_map_half_of_it_is_taken() -> None:
    generator = SaliencyGenerator(features=OneLayer())
    value = generator.saliency(made("a", {(2, 3): DEFECT}))[2, 3]
    assert value == pytest.approx(31 / 32)


def test_no_neighbour_is_refused() -> None:
    with pytest.raises(SettingsError):
        SaliencyGenerator(features=OneLayer(), n_neighbours=0)


def test_pieces_of_the_similarities_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = (F.normalize(torch.randn(n, 5), dim=1) for n in (13, 7))
    whole = a @ b.T
    monkeypatch.setattr("adaptation.proposals.distances.CHUNK_CELLS", 21)
    assert torch.allclose(nearest_similarity(a, b), whole.amax(1))
    expected = np.sort(whole.numpy(), axis=1)[:, -3:].mean(axis=1)
    assert np.allclose(mean_of_nearest(a, b, 3).numpy(), expected, atol=1e-6)
