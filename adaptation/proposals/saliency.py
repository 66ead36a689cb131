"""Saliency within one image: how little a patch resembles the rest of its image.

SAA+ (Cao et al. 2023, equation 5): the mean over the N most similar patches of the same image of
one minus the cosine.  N = 400 of the source's feature map; here the same share of the patches is
taken where the map has fewer, since N above their number would be a plain mean.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from adaptation.errors import SettingsError
from adaptation.proposals.distances import mean_of_nearest
from adaptation.proposals.features import FeatureExtractor, as_vectors
from adaptation.proposals.interface import Context, Generated, ProposalImage, ScoreMap

N_NEIGHBOURS = 400
"""The source's N."""

MOST_OF_MAP = 0.5
"""Of an image's patches at most this share are neighbours: a defect has to leave some out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SaliencyGenerator:
    """Finds what stands out within its own image; needs no other image.

    Args:
        features: Makes the layers; their maps are averaged.
        n_neighbours: N.
    """

    features: FeatureExtractor
    n_neighbours: int = N_NEIGHBOURS

    def __post_init__(self) -> None:
        if self.n_neighbours < 1:
            raise SettingsError(f"Saliency needs a neighbour at least, got {self.n_neighbours}.")

    @property
    def name(self) -> str:
        """What users call it."""
        return "saliency"

    def generate(self, image: ProposalImage, context: Context) -> Generated:
        """See `Generator.generate`."""
        return Generated(score_map=self.saliency(image))

    def saliency(self, image: ProposalImage) -> ScoreMap:
        """The map, ``[h, w]`` in [0, 2]."""
        layers = self.features.layers(image)
        size = max((tuple(layer.shape[-2:]) for layer in layers.values()), key=np.prod)
        maps = []
        for layer in layers.values():
            vectors = as_vectors(layer)
            count = max(1, min(self.n_neighbours, int(MOST_OF_MAP * len(vectors))))
            value = (1 - mean_of_nearest(vectors, vectors, count)).view(1, 1, *layer.shape[-2:])
            maps.append(F.interpolate(value, size, mode="bilinear", align_corners=False)[0, 0])
        return np.asarray(torch.stack(maps).mean(dim=0).clamp(min=0).numpy(), dtype=np.float32)
