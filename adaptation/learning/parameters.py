"""What an optimiser steps, and the decoder parameters that it stands for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class TrainableParameters:
    """Decoder parameters that learn, whole or by products of low rank.

    With a rank, a matrix ``W`` (a convolution's filters flattened) learns as ``W + U V`` with
    ``U = 0`` at the start (Hu et al. 2021, "LoRA", arXiv 2106.09685, equation 3); vectors, and
    matrices that are no larger than the rank, learn whole.

    Args:
        current: The parameters to start from, by name; copied.
        rank: Of the products; 0 for none.
        rng: Draws the seed of ``V``; not touched without a rank.
    """

    def __init__(self, current: Mapping[str, Tensor], rank: int, rng: np.random.Generator) -> None:
        self._whole: dict[str, Tensor] = {}
        self._products: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        generator = torch.Generator()
        if rank:
            generator.manual_seed(int(rng.integers(2**62)))
        for name, value in current.items():
            if rank and value.dim() > 1 and min(value.flatten(1).shape) > rank:
                self._products[name] = _product(value.detach(), rank, generator)
            else:
                self._whole[name] = value.detach().clone().requires_grad_()

    @property
    def leaves(self) -> list[Tensor]:
        """What is stepped."""
        factors = [leaf for _, *pair in self._products.values() for leaf in pair]
        return [*self._whole.values(), *factors]

    def weights(self) -> dict[str, Tensor]:
        """The parameters by name; every call makes a graph of its own."""
        products = {
            name: start + (up @ down).view(start.shape)
            for name, (start, up, down) in self._products.items()
        }
        return {**self._whole, **products}


def _product(value: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix, and the factors of what is added to it: zero, and drawn."""
    n_rows, n_columns = value.flatten(1).shape
    up = torch.zeros(n_rows, rank, device=value.device)
    down = torch.randn(rank, n_columns, generator=generator).to(value.device) / n_columns**0.5
    return value.clone(), up.requires_grad_(), down.requires_grad_()
