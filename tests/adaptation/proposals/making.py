"""Images for the tests of proposals: vectors by hand, on the grid of the embedding."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptation.proposals.features import Layers
from adaptation.proposals.interface import ProposalImage
from adaptation.types import Embedding

CELLS = 8
STRIDE = 8
N_CHANNELS = 4

NORMAL = (1.0, 0.0, 0.0, 0.0)
OTHER = (0.0, 1.0, 0.0, 0.0)
DEFECT = (0.0, 0.0, 1.0, 0.0)


def made(
    name: str,
    cells: dict[tuple[int, int], tuple[float, ...]] | None = None,
    *,
    group: str | None = None,
    rows: int = CELLS,
) -> ProposalImage:
    """An image of 64 pixels in width whose vectors are NORMAL but for the cells (row, column)."""
    features = torch.zeros(1, N_CHANNELS + 2, CELLS, CELLS)
    features[0, : len(NORMAL), :rows] = torch.tensor(NORMAL)[:, None, None]
    for (row, column), vector in (cells or {}).items():
        features[0, :N_CHANNELS, row, column] = torch.tensor(vector)
    size = (rows * STRIDE, CELLS * STRIDE)
    return ProposalImage(
        image_id=name,
        group=name if group is None else group,
        embedding=Embedding(
            features=features,
            original_size=size,
            input_size=size,
            image_id=name,
            encoder_id="made",
            guide=torch.zeros(1, 1, 3, dtype=torch.uint8),
        ),
        read=lambda: np.zeros((*size, 3), np.uint8),
    )


class OneLayer:
    """The made vectors themselves, as the only layer."""

    name = "one"

    def layers(self, image: ProposalImage) -> Layers:
        features: Tensor = image.embedding.features[0, :N_CHANNELS]
        return {"one": features[:, : image.size[0] // STRIDE]}


def square(rows: slice, columns: slice, size: tuple[int, int] = (64, 64)) -> NDArray[np.bool_]:
    mask = np.zeros(size, dtype=np.bool_)
    mask[rows, columns] = True
    return mask
