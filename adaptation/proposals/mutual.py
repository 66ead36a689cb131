"""Mutual scoring: what has its like in few of the other images deserves a look.

MuSc (Li et al. ICLR 2024, arXiv 2401.16753).  A patch's distance to another image is that to its
most similar patch there; its score is the mean of the lowest 30 % of these over all other images: a
normal patch finds its like in most of them, a defect in few.  No text, no detector, no labels.

Where one defect recurs in several images, they vouch for each other.  CoDeGraph (arXiv 2510.10456)
finds such images by a graph; the simple form used here leaves out, for each patch, its few closest
images when the distance to the next one jumps.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adaptation.errors import InputError, SettingsError
from adaptation.proposals.distances import as_distance, nearest_similarity
from adaptation.proposals.features import FeatureExtractor, as_vectors, neighbourhood
from adaptation.proposals.interface import Context, Generated, ProposalImage, ScoreMap


@dataclass(frozen=True, slots=True, kw_only=True)
class MutualSettings:
    """How images score each other.

    Args:
        neighbourhoods: Sides, in patches, over which features are averaged; odd.
        share: Of the other images, the nearest, whose distances are averaged.
        max_vouchers: Images that a patch is compared with at most: more gains little, and so the
            time grows with the number of images and not with its square.  0: all of them.
        recurring_share: Of the images, the closest, that may be left out of a patch's vote where
            the distance jumps behind them.  0: none are.
        jump: Ratio of one distance to the one before that counts as such a jump.
        seed: Of the draw of the images that vouch.
    """

    __pydantic_config__ = {"extra": "forbid"}

    neighbourhoods: tuple[int, ...] = (1, 3, 5)
    share: float = 0.3
    max_vouchers: int = 80
    recurring_share: float = 0.1
    jump: float = 1.5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or not 0 <= self.recurring_share < 1 or self.jump <= 1:
            raise SettingsError(
                "Mutual scoring needs 0 < share <= 1, 0 <= recurring_share < 1 and jump > 1, got "
                f"{self.share}, {self.recurring_share} and {self.jump}."
            )
        if not self.neighbourhoods or any(n < 1 or n % 2 == 0 for n in self.neighbourhoods):
            raise SettingsError(
                f"Neighbourhoods are odd numbers of patches, got {self.neighbourhoods}."
            )


class MutualBank:
    """The patches of the images that vouch for others, as float16 unit vectors.

    Args:
        features: Makes the layers; those of queries must be made by the same.
        settings: Neighbourhoods; others are applied when scoring.
    """

    def __init__(self, features: FeatureExtractor, settings: MutualSettings) -> None:
        self.features, self.settings = features, settings
        self._vectors: dict[str, dict[tuple[str, int], Tensor]] = {}
        self._groups: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._vectors)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._vectors

    @property
    def n_bytes(self) -> int:
        """Bytes of all vectors: linear in the images."""
        tensors = (v for layers in self._vectors.values() for v in layers.values())
        return sum(v.element_size() * v.nelement() for v in tensors)

    def add(self, image: ProposalImage) -> None:
        """Let an image vouch for others; one that is there already is replaced."""
        self._vectors[image.image_id] = {
            (name, patches): as_vectors(neighbourhood(layer, patches)).half()
            for name, layer in self.features.layers(image).items()
            for patches in self.settings.neighbourhoods
        }
        self._groups[image.image_id] = image.group

    def remove(self, image_id: str) -> None:
        """Forget an image, if it is there."""
        self._vectors.pop(image_id, None)
        self._groups.pop(image_id, None)

    def vouchers(self, image: ProposalImage) -> list[str]:
        """Ids of the images that a query is compared with: of other groups, drawn for it."""
        others = sorted(
            name
            for name, group in self._groups.items()
            if group != image.group and name != image.image_id
        )
        most = self.settings.max_vouchers
        if most and len(others) > most:
            others = random.Random(f"{self.settings.seed} {image.image_id}").sample(others, most)
        return others

    def score(self, image: ProposalImage) -> ScoreMap:
        """Score every patch of an image: the mean over layers and neighbourhoods, ``[h, w]``.

        Raises:
            InputError: There is no image of another group in the bank.
        """
        vouchers = self.vouchers(image)
        if not vouchers:
            raise InputError(
                f"Mutual scoring compares {image.image_id} with images of other groups, and there "
                "are none yet: add some, or take the saliency within the image."
            )
        layers = self.features.layers(image)
        size = max((tuple(layer.shape[-2:]) for layer in layers.values()), key=np.prod)
        maps = [
            F.interpolate(part[None, None], size, mode="bilinear", align_corners=False)[0, 0]
            for name, layer in layers.items()
            for part in self._layer_maps(name, layer, vouchers)
        ]
        return np.asarray(torch.stack(maps).mean(dim=0).numpy(), dtype=np.float32)

    def _layer_maps(self, name: str, layer: Tensor, vouchers: Sequence[str]) -> Iterable[Tensor]:
        for patches in self.settings.neighbourhoods:
            queries = as_vectors(neighbourhood(layer, patches))
            distances = torch.stack(
                [
                    as_distance(
                        nearest_similarity(queries, self._vectors[v][name, patches].float())
                    )
                    for v in vouchers
                ],
                dim=1,
            )
            yield vote(distances, self.settings).view(layer.shape[-2:])


def vote(distances: Tensor, settings: MutualSettings) -> Tensor:
    """A patch's score from its distance to each other image.

    Args:
        distances: ``[P, N]``, of P patches to N images.
        settings: The share that is averaged, and when the closest images are left out.

    Returns:
        ``[P]``.
    """
    ordered = distances.sort(dim=1).values
    n_images = ordered.shape[1]
    first = _left_out(ordered, settings)
    count = max(1, int(settings.share * n_images))
    totals = F.pad(ordered.cumsum(dim=1), (1, 0))
    last = (first + count).clamp(max=n_images)
    total: Tensor = totals.gather(1, last[:, None]) - totals.gather(1, first[:, None])
    return total[:, 0] / (last - first)


def _left_out(ordered: Tensor, settings: MutualSettings) -> Tensor:
    """How many of the closest images each patch leaves out, ``[P]`` int64."""
    n_most = int(settings.recurring_share * ordered.shape[1])
    if n_most == 0:
        return torch.zeros(len(ordered), dtype=torch.int64)
    ratio = ordered[:, 1 : n_most + 1] / ordered[:, :n_most].clamp(min=1e-6)
    jumps = ratio > settings.jump
    positions = torch.arange(1, n_most + 1)
    furthest: Tensor = torch.where(jumps, positions, torch.zeros_like(positions)).amax(dim=1)
    return furthest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MutualGenerator:
    """Scores an image against a bank of others.

    Args:
        bank: Of the project's images.
    """

    bank: MutualBank

    @property
    def name(self) -> str:
        """What users call it."""
        return "mutual"

    def generate(self, image: ProposalImage, context: Context) -> Generated:
        """See `Generator.generate`; InputError where the bank has nothing to compare with."""
        return Generated(score_map=self.bank.score(image))
