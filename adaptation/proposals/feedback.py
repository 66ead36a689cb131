"""What annotators accept and reject becomes references for the images after.

An accepted region's patches become references of what is looked for, a rejected one's of what is
normal; where an annotation says all that is to be said of its image, so does the rest of it.  That
repairs recurring defects at once: they no longer vouch for one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptation.errors import SettingsError
from adaptation.masks import Mask
from adaptation.proposals.calibration import PATCH_PRIOR, LogisticModel
from adaptation.proposals.distances import mean_of_nearest
from adaptation.proposals.features import FeatureExtractor, joint_vectors
from adaptation.proposals.interface import (
    Context,
    Generated,
    Generator,
    ProposalImage,
    ScoreMap,
)
from adaptation.proposals.memory import coverage
from adaptation.proposals.peaks import enlarged


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackSettings:
    """How references are kept and compared.

    Args:
        max_images: Whose references are kept; the oldest are forgotten.
        n_nearest: References whose likeness is averaged.
        row_weight: What one patch counts in the fit: patches of one image are much alike.
    """

    __pydantic_config__ = {"extra": "forbid"}

    max_images: int = 200
    n_nearest: int = 3
    row_weight: float = 0.2

    def __post_init__(self) -> None:
        if min(self.max_images, self.n_nearest) < 1 or self.row_weight <= 0:
            raise SettingsError("All settings of the feedback must be above 0.")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Judged:
    """One image's references, and its generator's scores of the same patches."""

    group: str
    vectors: Tensor
    base: NDArray[np.float32]
    is_anomalous: NDArray[np.bool_]


class References:
    """Patches that people judged, of many images.

    Args:
        features: Makes the vectors.
        settings: How many are kept, and how they are compared.
    """

    def __init__(self, features: FeatureExtractor, settings: FeedbackSettings) -> None:
        self.features, self.settings = features, settings
        self._images: dict[str, _Judged] = {}

    def __len__(self) -> int:
        return len(self._images)

    def judge(
        self,
        image: ProposalImage,
        base: ScoreMap,
        *,
        accepted: Sequence[Mask],
        rejected: Sequence[Mask] = (),
        is_complete: bool = True,
    ) -> None:
        """Take in what became of an image's regions; what was known of the image is replaced.

        Args:
            image: The image.
            base: Its generator's map.
            accepted: Masks ``[H, W]`` that were accepted, corrected or drawn by hand.
            rejected: Masks ``[H, W]`` that were rejected.
            is_complete: Whether all of it was looked at: what was not accepted is then normal.
        """
        vectors, size = joint_vectors(self.features.layers(image))
        inside = _covered(accepted, size)
        some = inside > 0.1 if accepted else np.zeros(size, bool)
        normal = ~some if is_complete else (_covered(rejected, size) >= 0.5) & ~some
        anomalous = (inside >= 0.5) | (some & (inside >= inside.max(initial=0.0)))
        kept = np.flatnonzero((anomalous | normal).ravel())
        self._images.pop(image.image_id, None)
        self._images[image.image_id] = _Judged(
            group=image.group,
            vectors=vectors[torch.from_numpy(kept)].half(),
            base=enlarged(base, size).ravel()[kept],
            is_anomalous=anomalous.ravel()[kept],
        )
        while len(self._images) > self.settings.max_images:
            del self._images[next(iter(self._images))]

    def likeness(self, image: ProposalImage) -> dict[str, ScoreMap]:
        """Likeness to anomalous and to normal references, each ``[h, w]`` cosines.

        References of the image's own group are left out.  A kind without references is missing.
        """
        vectors, size = joint_vectors(self.features.layers(image))
        return {
            name: np.asarray(value.reshape(size), np.float32)
            for name, value in self._likeness(vectors, image.group).items()
        }

    def fit(self, prior: LogisticModel = PATCH_PRIOR) -> LogisticModel:
        """How much likeness and the generator's score count, from all that was judged.

        Every image is compared with the others only, as a new image will be.
        """
        rows: list[dict[str, float]] = []
        truths: list[bool] = []
        for judged in self._images.values():
            columns = {"base": judged.base}
            columns |= self._likeness(judged.vectors.float(), judged.group)
            for index, is_anomalous in enumerate(judged.is_anomalous):
                rows.append({name: float(c[index]) for name, c in columns.items()})
                truths.append(bool(is_anomalous))
        return prior.fitted(rows, truths, [self.settings.row_weight] * len(rows))

    def _likeness(self, vectors: Tensor, group: str) -> dict[str, NDArray[np.float32]]:
        found = {}
        for name, wanted in (("anomalous", True), ("normal", False)):
            parts = [
                judged.vectors[torch.from_numpy(judged.is_anomalous == wanted)]
                for judged in self._images.values()
                if judged.group != group
            ]
            references = torch.cat(parts).float() if parts else vectors[:0]
            if len(references):
                value = mean_of_nearest(vectors, references, self.settings.n_nearest)
                found[name] = np.asarray(value.numpy(), np.float32)
        return found


def _covered(masks: Sequence[Mask], size: tuple[int, int]) -> NDArray[np.float32]:
    """Share of each cell that any of the masks covers."""
    if not masks:
        return np.zeros(size, np.float32)
    return coverage(np.asarray(np.logical_or.reduce(masks)), size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TaughtGenerator:
    """A generator whose map is weighed against what people accepted and rejected.

    Args:
        base: The generator; its map is needed.
        references: What people judged.
        model: Weights of the evidence, from `References.fit`.
    """

    base: Generator
    references: References
    model: LogisticModel

    @property
    def name(self) -> str:
        """What users call it."""
        return f"{self.base.name}+feedback"

    def generate(self, image: ProposalImage, context: Context) -> Generated:
        """See `Generator.generate`; the map holds log odds."""
        found = self.base.generate(image, context)
        if found.score_map is None or not len(self.references):
            return found
        likeness = self.references.likeness(image)
        size = next((m.shape for m in likeness.values()), found.score_map.shape)
        columns = {"base": enlarged(found.score_map, (size[0], size[1])), **likeness}
        return Generated(score_map=self.model.logits(columns))
