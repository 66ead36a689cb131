"""Prompts as maps: clicks and boxes drawn on a grid, and how like and near a click each cell is.

Pure functions of tensors.  Positions are (x, y); on a grid of any size [-1, 1] spans the whole of
it, as in `torch.nn.functional.grid_sample` without aligned corners.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from adaptation.types import LOGIT_STRIDE

_DISK_SIGMA = 2.0
_SIMILARITY_SHARPNESS = 6.0
_PROXIMITY_CELLS = 8.4


def draw_clicks(coords: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Gaussian disks around positive and negative clicks at stride 2, [B, 2, H, W] in [0, 1].

    Args:
        coords: [B, N, 2] as (x, y) in pixels at stride 1.
        labels: [B, N]; 1 positive, 0 negative, anything else is not drawn.
        size: (H, W) of the map.
    """
    centres = (coords.float() + 0.5) / LOGIT_STRIDE - 0.5
    rows = torch.arange(size[0], device=coords.device)[:, None]
    columns = torch.arange(size[1], device=coords.device)
    squared = (columns - centres[..., 0, None, None]) ** 2 + (
        rows - centres[..., 1, None, None]
    ) ** 2
    return torch.exp(-_nearest(squared, labels) / (2 * _DISK_SIGMA**2))


def draw_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """How much of each stride-2 cell lies in the box, [B, 1, H, W] in [0, 1]."""
    edges = (boxes.float() + 0.5) / LOGIT_STRIDE
    covered = []
    for axis, length in ((0, size[1]), (1, size[0])):
        cells = torch.arange(length, device=boxes.device)
        low, high = edges[:, axis, None], edges[:, axis + 2, None]
        inside = torch.minimum(high, cells + 1) - torch.maximum(low, cells)
        covered.append(inside.clamp(0, 1))
    return (covered[1][:, :, None] * covered[0][:, None, :])[:, None]


def sample_at(features: Tensor, grid: Tensor) -> Tensor:
    """Features [1 or B, C, h, w] at positions [B, N, 2] in [-1, 1], as [B, N, C]."""
    maps = features.expand(grid.shape[0], -1, -1, -1)
    at: Tensor = F.grid_sample(maps, grid[:, :, None], align_corners=False, padding_mode="border")
    return at[..., 0].transpose(1, 2)


def click_similarity(features: Tensor, grid: Tensor, labels: Tensor) -> Tensor:
    """Cosine similarity to the most similar positive and negative click, [B, 2, h, w] in [0, 1].

    Args:
        features: [1 or B, C, h, w].
        grid: Clicks [B, N, 2] in [-1, 1].
        labels: [B, N]; 1 positive, 0 negative.
    """
    unit = F.normalize(features.float(), dim=1)
    clicked = F.normalize(sample_at(unit, grid), dim=2)
    maps = unit.expand(grid.shape[0], -1, -1, -1)
    similarity = torch.einsum("bnc,bchw->bnhw", clicked, maps)
    return torch.exp(-_SIMILARITY_SHARPNESS * _nearest(1 - similarity.float(), labels))


def click_proximity(grid: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearness to the closest positive and negative click, [B, 2, h, w] in [0, 1]."""
    height, width = size
    rows = torch.arange(height, device=grid.device)[:, None] + 0.5
    columns = torch.arange(width, device=grid.device) + 0.5
    x = (grid[..., 0, None, None] + 1) * width / 2
    y = (grid[..., 1, None, None] + 1) * height / 2
    squared = _nearest((columns - x) ** 2 + (rows - y) ** 2, labels)
    return torch.exp(-squared.sqrt() / _PROXIMITY_CELLS)


def _nearest(distances: Tensor, labels: Tensor) -> Tensor:
    """The smallest distance [B, N, h, w] to a positive and to a negative click, inf for none."""
    smallest = [
        distances.masked_fill((labels != label)[..., None, None], torch.inf).amin(dim=1)
        for label in (1, 0)
    ]
    return torch.stack(smallest, dim=1)


def resize(x: Tensor, scale: float) -> Tensor:
    """Scale maps [B, C, H, W] bilinearly."""
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
