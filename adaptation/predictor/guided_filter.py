"""Masks whose borders follow the edges of the image: a guided filter over the logits.

The decoder knows the object; its logits lie on a grid much coarser than the picture, and smooth.
The guided filter (He, Sun and Tang 2010, "Guided Image Filtering", equations 19 to 21, colour
guide) explains the foreground probability in every small window as a linear function of the
colour, and so moves a border onto the edge next to it.  Where the window holds one colour only,
nothing moves.  What is fed back to the decoder stays its own.
"""

from __future__ import annotations

import threading

import cv2
import numpy as np
import torch
from cachetools import LRUCache
from numpy.typing import NDArray
from torch import Tensor

from adaptation.models.prompts import click_coordinates
from adaptation.predictor.settings import EdgeSettings
from adaptation.types import Embedding, Prompt

Plane = NDArray[np.float32]

_FULL_REACH = 1.5
_END_OF_REACH = 4.0
_SCALE = 8.0
_PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


def at_edges(
    logits: Tensor,
    prompt: Prompt,
    embedding: Embedding,
    stride: float,
    settings: EdgeSettings,
) -> Tensor:
    """Move a mask's border to the image's edges.

    Args:
        logits: ``[h, w]`` low-resolution logits of one mask.
        prompt: In the pixels of the embedded view; its clicks stay obeyed where they were.
        embedding: Of the view, with its guide.
        stride: Pixels of the model's frame per logit.
        settings: How far.

    Returns:
        ``[h, w]`` float32, above 0 where the moved mask is; not to be fed back.
    """
    height, width = embedding.guide.shape[:2]
    own = _probability(logits[:height, :width].float().cpu().numpy()) - 0.5
    radius = max(1, round(settings.radius * len(logits)))
    moved = _RECENT.of(embedding.guide, radius, settings.epsilon)(own)
    _keep_clicks(moved, own, prompt, embedding, stride)
    drawn = torch.full_like(logits, -_SCALE / 2, dtype=torch.float32)
    drawn[:height, :width] = torch.from_numpy(_SCALE * moved)
    # Padding goes on as its border does, or interpolation would pull the border to it.
    drawn[height:, :width] = drawn[height - 1 : height, :width]
    drawn[:, width:] = drawn[:, width - 1 : width]
    return drawn


def _probability(logits: Plane) -> Plane:
    """The logistic function; what would overflow is 0 to float32 anyway."""
    return np.asarray(1 / (1 + np.exp(np.minimum(-logits, 80))), np.float32)


class GuidedFilter:
    """The filter of one guide; what depends on the guide alone is computed once.

    Args:
        guide: ``[h, w, 3]`` float32 in [0, 1].
        radius: Half side of the windows, in pixels.
        epsilon: Added to the guide's variances; the larger, the smoother.
    """

    def __init__(self, guide: Plane, radius: int, epsilon: float) -> None:
        self._side = (2 * radius + 1, 2 * radius + 1)
        self._channels = [np.ascontiguousarray(guide[..., i]) for i in range(3)]
        self._means = [self._mean(channel) for channel in self._channels]
        self._inverse = _inverted([self._variance(i, j, epsilon) for i, j in _PAIRS])

    def __call__(self, values: Plane) -> Plane:
        """Filter ``values``, ``[h, w]`` float32."""
        mean_values = self._mean(values)
        covariance = [
            self._mean(channel * values) - mean * mean_values
            for channel, mean in zip(self._channels, self._means, strict=True)
        ]
        slopes = _product(self._inverse, covariance)
        offset = mean_values
        for slope, mean in zip(slopes, self._means, strict=True):
            offset = offset - slope * mean
        filtered = self._mean(offset)
        for slope, channel in zip(slopes, self._channels, strict=True):
            filtered += self._mean(slope) * channel
        return filtered

    def _mean(self, plane: Plane) -> Plane:
        found = cv2.boxFilter(plane, -1, self._side, borderType=cv2.BORDER_REFLECT)
        return np.asarray(found, np.float32)

    def _variance(self, i: int, j: int, epsilon: float) -> Plane:
        product = self._mean(self._channels[i] * self._channels[j])
        return product - self._means[i] * self._means[j] + np.float32(epsilon if i == j else 0)


def _inverted(matrix: list[Plane]) -> list[Plane]:
    """Invert symmetric 3x3 matrices, one for each pixel, by their cofactors.

    In double precision: the channels of a grey image are one, and its matrices nearly singular.

    Args:
        matrix: The entries 00, 01, 02, 11, 12 and 22, ``[h, w]`` each.
    """
    m00, m01, m02, m11, m12, m22 = (entry.astype(np.float64) for entry in matrix)
    c00, c01, c02 = m11 * m22 - m12 * m12, m02 * m12 - m01 * m22, m01 * m12 - m02 * m11
    c11, c12, c22 = m00 * m22 - m02 * m02, m01 * m02 - m00 * m12, m00 * m11 - m01 * m01
    determinant = m00 * c00 + m01 * c01 + m02 * c02
    cofactors = (c00, c01, c02, c11, c12, c22)
    return [np.asarray(cofactor / determinant, np.float32) for cofactor in cofactors]


def _product(matrix: list[Plane], vector: list[Plane]) -> list[Plane]:
    m00, m01, m02, m11, m12, m22 = matrix
    v0, v1, v2 = vector
    return [
        m00 * v0 + m01 * v1 + m02 * v2,
        m01 * v0 + m11 * v1 + m12 * v2,
        m02 * v0 + m12 * v1 + m22 * v2,
    ]


class _Recent:
    """The filters used last, by any thread: an object's masks and clicks mostly share a view.

    Args:
        n_kept: How many; one takes 2 MB.
    """

    def __init__(self, n_kept: int) -> None:
        self._lock = threading.Lock()
        # With its guide, so that no other guide can come to have the same id.
        self._kept: LRUCache[tuple[int, int, float], tuple[Tensor, GuidedFilter]] = LRUCache(n_kept)

    def of(self, guide: Tensor, radius: int, epsilon: float) -> GuidedFilter:
        key = id(guide), radius, epsilon
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None:
            return kept[1]
        values = np.asarray(guide.numpy() / np.float32(255), np.float32)
        made = GuidedFilter(values, radius, epsilon)
        with self._lock:
            self._kept[key] = guide, made
        return made


_RECENT = _Recent(8)


def _keep_clicks(
    moved: Plane, own: Plane, prompt: Prompt, embedding: Embedding, stride: float
) -> None:
    """Around clicks that the moved border would contradict, put back the decoder's own."""
    if not prompt.clicks:
        return
    points = (click_coordinates(prompt.clicks, embedding) + 0.5) / stride - 0.5
    height, width = own.shape
    for (x, y), click in zip(points, prompt.clicks, strict=True):
        at = min(max(round(y), 0), height - 1), min(max(round(x), 0), width - 1)
        around = (slice(max(0, at[0] - 1), at[0] + 2), slice(max(0, at[1] - 1), at[1] + 2))
        sign = 1.0 if click.is_positive else -1.0
        if (sign * moved[around]).min() > 0 or sign * own[at] <= 0:
            continue
        rows, columns = np.ogrid[:height, :width]
        distance = np.hypot(rows - y, columns - x)
        share = np.clip((_END_OF_REACH - distance) / (_END_OF_REACH - _FULL_REACH), 0, 1)
        moved += share.astype(np.float32) * (own - moved)
