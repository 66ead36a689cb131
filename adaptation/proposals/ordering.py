"""In which order images are worth a look: what is unlike all before, what is doubtful, what is odd.

A labelling team's time goes to the images at the front.  ``farthest_first`` is the greedy k-center
order that Sener and Savarese take for active learning (ICLR 2018, arXiv 1708.00489);
``doubt`` is uncertainty sampling by entropy (Settles 2009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptation.proposals.features import Layers, joint_vectors


def summary_vector(layers: Layers) -> Tensor:
    """One unit vector ``[C]`` for a whole image: the mean of its cells' vectors."""
    vectors, _ = joint_vectors(layers)
    return F.normalize(vectors.mean(dim=0), dim=0)


def farthest_first(vectors: Tensor, known: Tensor) -> list[int]:
    """Every image once, each the one that is least like all before it.

    Args:
        vectors: ``[N, C]`` unit vectors of the images to order.
        known: ``[M, C]`` of those that were looked at before.  Without any, the order begins with
            the image that is most like all of them together.

    Returns:
        Positions in ``vectors``; of two that are equally far the first.
    """
    if not len(vectors):
        return []
    order: list[int] = []
    if not len(known):
        order.append(int((vectors @ vectors.mean(dim=0)).argmax()))
        known = vectors[order]
    likeness = (vectors @ known.T).amax(dim=1)
    left = torch.ones(len(vectors), dtype=torch.bool)
    left[order] = False
    while left.any():
        chosen = int(torch.where(left, likeness, torch.inf).argmin())
        order.append(chosen)
        left[chosen] = False
        likeness = torch.maximum(likeness, vectors @ vectors[chosen])
    return order


def doubt(scores: Sequence[float]) -> float:
    """How unsure the least sure of an image's regions is: its entropy in bits, in [0, 1].

    Args:
        scores: The probability of each to be accepted; without any there is no doubt.
    """
    return max(map(_entropy, scores), default=0.0)


def _entropy(probability: float) -> float:
    if not 0 < probability < 1:
        return 0.0
    other = 1 - probability
    return -probability * math.log2(probability) - other * math.log2(other)
