"""One tensor for an image's embedding and the finer maps that a family's decoder wants beside it.

A map at twice the resolution has its 2 x 2 neighbours put into channels, one at four times its
4 x 4, as the compact model does it: what is cached, moved and stored stays a single tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def pack(image: Tensor, finer: Sequence[Tensor]) -> Tensor:
    """Channels of all maps at the resolution of the coarsest.

    Args:
        image: ``[B, C, h, w]``.
        finer: Each ``[B, c, n * h, n * w]`` for a whole number n.

    Returns:
        ``[B, C + sum of n * n * c, h, w]``.
    """
    folded = [F.pixel_unshuffle(each, each.shape[-1] // image.shape[-1]) for each in finer]
    return torch.cat([image, *folded], dim=1)


def unpack(packed: Tensor, n_channels: int, finer: Sequence[tuple[int, int]]) -> list[Tensor]:
    """What :func:`pack` put together.

    Args:
        packed: ``[B, C + ..., h, w]``.
        n_channels: C, of the coarsest map.
        finer: Channels c and factor n of each finer map.

    Returns:
        The coarsest map, then the finer ones.
    """
    sizes = [n_channels, *(channels * factor**2 for channels, factor in finer)]
    image, *folded = torch.split(packed, sizes, dim=1)
    return [
        image,
        *(F.pixel_shuffle(f, n) for f, (_, n) in zip(folded, finer, strict=True)),
    ]
