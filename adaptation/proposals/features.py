"""Vectors of an image's patches, from an embedding that is there already or from the trunk.

A layer of features is one grid of vectors over the image, without the model's padding.  Averaged
over neighbourhoods of 1, 3 and 5 patches it sees defects of different sizes (MuSc, Li et al. 2024,
arXiv 2401.16753, section 3.1: LNAMD).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from adaptation.errors import SettingsError
from adaptation.models.compact.model import CompactEncoder
from adaptation.models.prompts import resize_image
from adaptation.models.sam import PromptableSam
from adaptation.proposals.interface import ProposalImage
from adaptation.types import Embedding, Size

Layers = Mapping[str, Tensor]
"""Name of the layer -> ``[C, h, w]`` float32, over the image without padding."""


class FeatureExtractor(Protocol):
    """Makes the layers of one image.

    Implementations give the same layers, with the same numbers of channels, for every image.
    """

    @property
    def name(self) -> str:
        """What tells its features from those of another."""
        ...

    def layers(self, image: ProposalImage) -> Layers:
        """The layers of one image."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingFeatures:
    """Layers of the embedding itself, at several grids: nothing has to be encoded again.

    Args:
        n_channels: How many of the embedding's channels are compared: of the compact model's, the
            first 128 are the semantic ones (the rest are its finer strides, folded in).
        grids: Cells along the longest side of the image, one layer each.
    """

    n_channels: int
    grids: tuple[int, ...] = (24, 12)

    @classmethod
    def of(cls, sam: PromptableSam, grids: tuple[int, ...] = (24, 12)) -> EmbeddingFeatures:
        """For the embeddings of a model."""
        return cls(n_channels=int(sam.sam.prompt_encoder.embed_dim), grids=grids)

    @property
    def name(self) -> str:
        """The grids are part of it."""
        return f"embedding-{self.n_channels}-{'-'.join(map(str, self.grids))}"

    def layers(self, image: ProposalImage) -> Layers:
        """See `FeatureExtractor.layers`."""
        whole = embedded_features(image.embedding, self.n_channels)
        return {f"grid{grid}": on_grid(whole, grid) for grid in self.grids}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrunkFeatures:
    """Layers of the compact model's trunk at several strides; the image is run through it anew.

    Args:
        sam: The compact model.
        strides: Of 2, 4, 8, 16 and 32.
        grid: Cells along the longest side at most: finer layers are averaged down to it.

    Raises:
        SettingsError: The model has another encoder.
    """

    sam: PromptableSam
    strides: tuple[int, ...] = (8, 16, 32)
    grid: int = 24

    def __post_init__(self) -> None:
        if not isinstance(self.sam.sam.image_encoder, CompactEncoder):
            raise SettingsError(
                f"The model {self.sam.model_id} has no trunk of several strides: take the features "
                "of its embedding, or the compact model."
            )

    @property
    def name(self) -> str:
        """The strides are part of it."""
        return f"trunk-{'-'.join(map(str, self.strides))}-{self.grid}"

    def layers(self, image: ProposalImage) -> Layers:
        """See `FeatureExtractor.layers`."""
        sam, embedding = self.sam, image.embedding
        small = resize_image(image.read(), embedding.input_size)
        pixels = torch.from_numpy(small.copy()).to(sam.device).permute(2, 0, 1).float()
        height, width = embedding.input_size
        padding = (0, sam.input_size - width, 0, sam.input_size - height)
        with torch.no_grad():
            normal = (pixels - sam.sam.pixel_mean) / sam.sam.pixel_std
            taps = sam.sam.image_encoder.trunk(F.pad(normal, padding)[None])
        return {
            f"stride{stride}": on_grid(
                _unpadded(taps[stride][0], embedding.input_size, stride), self.grid
            ).cpu()
            for stride in self.strides
        }


def embedded_features(embedding: Embedding, n_channels: int) -> Tensor:
    """The first channels of an embedding without its padding, ``[C, h, w]`` float32."""
    features = embedding.features[0, :n_channels].float()
    # The frame is square, and its longest side is the image's.
    stride = max(embedding.input_size) / max(features.shape[-2:])
    return _unpadded(features, embedding.input_size, stride)


def _unpadded(features: Tensor, input_size: Size, stride: float) -> Tensor:
    rows, columns = (math.ceil(side / stride) for side in input_size)
    return features[:, :rows, :columns]


def on_grid(features: Tensor, cells: int) -> Tensor:
    """Features averaged down to a grid of so many cells along the longest side.

    Args:
        features: ``[C, h, w]``; what is coarser than the grid is left as it is.
        cells: Along the longest side.
    """
    height, width = features.shape[-2:]
    longest = max(height, width)
    if longest <= cells:
        return features
    size = (max(1, round(height * cells / longest)), max(1, round(width * cells / longest)))
    averaged: Tensor = F.adaptive_avg_pool2d(features[None], size)[0]
    return averaged


def neighbourhood(features: Tensor, patches: int) -> Tensor:
    """Every vector averaged with those around it, in squares of ``patches`` x ``patches``.

    Args:
        features: ``[C, h, w]``.
        patches: Odd; at the border only what is inside counts.
    """
    if patches == 1:
        return features
    averaged: Tensor = F.avg_pool2d(
        features[None], patches, stride=1, padding=patches // 2, count_include_pad=False
    )[0]
    return averaged


def as_vectors(features: Tensor) -> Tensor:
    """``[C, h, w]`` to unit vectors ``[h * w, C]``, row by row."""
    return F.normalize(features.flatten(1).T, dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class JointFeatures:
    """The layers of several extractors together.

    Args:
        parts: Each layer keeps its name, with its extractor's in front.
    """

    parts: tuple[FeatureExtractor, ...]

    @property
    def name(self) -> str:
        """The names of all parts."""
        return "+".join(part.name for part in self.parts)

    def layers(self, image: ProposalImage) -> Layers:
        """See `FeatureExtractor.layers`."""
        return {
            f"{part.name}/{name}": layer
            for part in self.parts
            for name, layer in part.layers(image).items()
        }


COARSE_GRID = 12
"""Cells along the longest side: on 60 magnetic tiles, layers this coarse scored defects best."""


def default_features(sam: PromptableSam) -> FeatureExtractor:
    """What was measured to find defects best: the embedding, and the compact trunk's last stage.

    Other encoders give their embedding alone.
    """
    embedded = EmbeddingFeatures.of(sam, grids=(COARSE_GRID,))
    if not isinstance(sam.sam.image_encoder, CompactEncoder):
        return embedded
    return JointFeatures(parts=(embedded, TrunkFeatures(sam=sam, strides=(32,), grid=COARSE_GRID)))


def joint_vectors(layers: Layers) -> tuple[Tensor, Size]:
    """All layers on the finest one's grid as one unit vector a cell.

    The cosine of two such vectors is the mean of the layers' cosines.

    Returns:
        ``[h * w, C]`` row by row, and (h, w).
    """
    sizes = [(int(v.shape[-2]), int(v.shape[-1])) for v in layers.values()]
    size = max(sizes, key=lambda s: s[0] * s[1])
    parts = [
        as_vectors(F.interpolate(v[None], size, mode="bilinear", align_corners=False)[0])
        for v in layers.values()
    ]
    return torch.cat(parts, dim=1) / math.sqrt(len(parts)), size
