from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptation.learning.parameters import TrainableParameters


def parameters() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "matrix": torch.randn(12, 10),
        "filters": torch.randn(8, 6, 3, 3),
        "small": torch.randn(2, 9),
        "bias": torch.randn(12),
    }


def step(trainable: TrainableParameters, n_steps: int = 3) -> None:
    optimiser = torch.optim.SGD(trainable.leaves, lr=0.1)
    for _ in range(n_steps):
        optimiser.zero_grad()
        sum(w.sin().sum() for w in trainable.weights().values()).backward()  # type: ignore[union-attr]
        optimiser.step()


@pytest.mark.parametrize("rank", [0, 2])
def test_it_starts_from_the_given_parameters_and_leaves_them_alone(rank: int) -> None:
    given, kept = parameters(), parameters()
    trainable = TrainableParameters(given, rank, np.random.default_rng(0))
    for name, value in trainable.weights().items():
        assert torch.equal(value, kept[name])
    step(trainable)
    moved = trainable.weights()
    assert all(not torch.equal(moved[name], kept[name]) for name in kept)
    assert all(torch.equal(given[name], kept[name]) for name in kept)


def test_matrices_move_by_products_of_the_rank_and_the_rest_whole() -> None:
    trainable = TrainableParameters(parameters(), 2, np.random.default_rng(0))
    step(trainable)
    moved = {n: w.detach() - parameters()[n] for n, w in trainable.weights().items()}
    for name in ("matrix", "filters"):
        assert int(torch.linalg.matrix_rank(moved[name].flatten(1), rtol=1e-4)) <= 2
    assert int(torch.linalg.matrix_rank(moved["small"])) == 2
    assert sum(leaf.numel() for leaf in trainable.leaves) == 2 * (12 + 10 + 8 + 54) + 18 + 12


def test_whole_parameters_draw_nothing_and_products_repeat() -> None:
    rng = np.random.default_rng(7)
    TrainableParameters(parameters(), 0, rng)
    assert rng.integers(2**62) == np.random.default_rng(7).integers(2**62)
    found = []
    for _ in range(2):
        trainable = TrainableParameters(parameters(), 2, np.random.default_rng(3))
        step(trainable)
        found.append(trainable.weights()["matrix"])
    assert torch.equal(*found)
