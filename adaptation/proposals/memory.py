"""More of what was labelled: places that look like finished objects and unlike their surroundings.

A finished object leaves vectors of the frozen embedding: those inside its eroded mask, and those of
a ring around it (METHODS: the session's memory; after MultiverSeg, arXiv 2412.15058, and PerSAM,
arXiv 2305.03048).  A patch's score is its likeness to the former less that to the latter.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptation.errors import SettingsError
from adaptation.masks import Mask, erosion_radius
from adaptation.proposals.distances import mean_of_nearest
from adaptation.proposals.features import as_vectors, embedded_features
from adaptation.proposals.interface import Context, Generated, ProposalImage, ScoreMap


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """What an object leaves, and how it is compared.

    Args:
        n_vectors: Foreground vectors an object at most; as many background ones.
        ring: Width of the ring around an object over the side of the square of its area.
        n_nearest: Vectors whose likeness is averaged.
        max_objects: Remembered; the oldest is forgotten.
    """

    __pydantic_config__ = {"extra": "forbid"}

    n_vectors: int = 24
    ring: float = 0.75
    n_nearest: int = 3
    max_objects: int = 200

    def __post_init__(self) -> None:
        if min(self.n_vectors, self.n_nearest, self.max_objects) < 1 or self.ring <= 0:
            raise SettingsError("All settings of the memory must be above 0.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RememberedObject:
    """What one finished object leaves.

    Args:
        foreground: ``[n, C]`` float16 unit vectors inside of it.
        background: ``[n, C]`` float16 unit vectors around it.
        area: Its pixels over those of its image.
        label: Its label.
    """

    foreground: Tensor
    background: Tensor
    area: float
    label: str = ""


class ObjectMemory:
    """Finished objects, as vectors.

    Args:
        n_channels: Of the embedding that are compared.
        settings: What is kept, and how it is compared.
    """

    def __init__(self, n_channels: int, settings: MemorySettings) -> None:
        self.n_channels, self.settings = n_channels, settings
        self._objects: deque[RememberedObject] = deque(maxlen=settings.max_objects)

    def __len__(self) -> int:
        return len(self._objects)

    @property
    def median_area(self) -> float:
        """Of the objects, over their images'; 0 without any."""
        return float(np.median([o.area for o in self._objects])) if self._objects else 0.0

    def add(
        self, image: ProposalImage, mask: Mask, *, exclude: Mask | None = None, label: str = ""
    ) -> RememberedObject:
        """Remember a finished object.

        Args:
            image: Its image.
            mask: ``[H, W]``.
            exclude: Pixels that are no background, such as other objects of the kind.
            label: Its label.
        """
        features = embedded_features(image.embedding, self.n_channels)
        vectors = as_vectors(features)
        inside, around = _object_and_ring(mask, exclude, self.settings.ring)
        size = (int(features.shape[1]), int(features.shape[2]))
        remembered = RememberedObject(
            foreground=_most_covered(vectors, inside, size, self.settings.n_vectors),
            background=_most_covered(vectors, around, size, self.settings.n_vectors),
            area=float(mask.mean()),
            label=label,
        )
        self._objects.append(remembered)
        return remembered

    def likeness(self, image: ProposalImage) -> ScoreMap:
        """Likeness to the objects less that to their surroundings, ``[h, w]`` in [-2, 2].

        Raises:
            SettingsError: Nothing is remembered.
        """
        if not self._objects:
            raise SettingsError("The memory is empty: finish an object first.")
        features = embedded_features(image.embedding, self.n_channels)
        vectors = as_vectors(features)
        inside = torch.cat([o.foreground for o in self._objects]).float()
        around = torch.cat([o.background for o in self._objects]).float()
        value = mean_of_nearest(vectors, inside, self.settings.n_nearest)
        if len(around):
            value = value - mean_of_nearest(vectors, around, self.settings.n_nearest)
        return np.asarray(value.view(features.shape[-2:]).numpy(), dtype=np.float32)


def _object_and_ring(mask: Mask, exclude: Mask | None, ring: float) -> tuple[Mask, Mask]:
    """The eroded object, and a ring around it that its outline's uncertainty is left out of."""
    radius = erosion_radius(mask)
    side = float(np.sqrt(np.count_nonzero(mask)))
    inner = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    outer = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    inside: Mask = inner > min(radius, float(inner.max()) / 2)
    around: Mask = (outer > radius) & (outer <= radius + max(2.0, ring * side))
    if exclude is not None:
        around &= ~exclude
    return inside, around


def _most_covered(vectors: Tensor, mask: Mask, size: tuple[int, int], count: int) -> Tensor:
    """The vectors of the cells that a mask covers most, spread evenly where there are too many."""
    share = coverage(mask, size).ravel()
    covered = np.flatnonzero(share >= 0.5)
    if len(covered) == 0:
        covered = np.argsort(-share, kind="stable")[: int((share > 0).sum())][:1]
    if len(covered) > count:
        covered = covered[np.linspace(0, len(covered) - 1, count).round().astype(int)]
    return vectors[torch.from_numpy(covered.astype(np.int64))].half()


def coverage(mask: Mask, size: tuple[int, int]) -> NDArray[np.float32]:
    """Share of each cell that a mask covers, on a grid of ``size`` (h, w) over the image."""
    grid = cv2.resize(mask.astype(np.float32), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(grid, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MemoryGenerator:
    """Finds more of what is remembered."""

    memory: ObjectMemory

    @property
    def name(self) -> str:
        """What users call it."""
        return "memory"

    def generate(self, image: ProposalImage, context: Context) -> Generated:
        """See `Generator.generate`; nothing where nothing is remembered."""
        if not len(self.memory):
            return Generated()
        return Generated(score_map=self.memory.likeness(image))
