"""More of what was labelled: peaks of the memory's map, drawn, and scored against the memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from adaptation.errors import SettingsError
from adaptation.masks import Mask
from adaptation.models.decoder import Weights
from adaptation.predictor.interactive import Encode
from adaptation.proposals.calibration import LogisticModel, Term
from adaptation.proposals.interface import Context, ProposalImage, ScoreMap
from adaptation.proposals.memory import MemoryGenerator
from adaptation.proposals.peaks import enlarged, peaks_of
from adaptation.proposals.refiner import Refiner, Region, ZoomRefiner, without_duplicates

SIMILAR_PRIOR = LogisticModel(
    terms={
        "likeness": Term(centre=0.05, scale=0.1, weight=0.5),
        "contrast": Term(centre=0.1, scale=0.1, weight=1.0),
        "predicted_iou": Term(centre=0.5, scale=0.15, weight=1.0),
        "area_ratio": Term(centre=0.6, scale=0.5, weight=-1.0),
    }
)
"""A region: its mean likeness to the objects, how much that drops around it, the model's estimate
of its mask, and how far its area is from the objects' median (the absolute natural logarithm).  The
usual values are those of the embedded model on white blood cells and powder grains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimilarSettings:
    """How more of the same is looked for.

    Args:
        places: Peaks that are prompted at, at most.
        above: Peaks with a lower likeness are left out: below 0 one is more like the surroundings.
        overlap: IoU, or share of the smaller one, from which two regions are the same.
        min_score: Regions below this calibrated score are not proposed.
    """

    __pydantic_config__ = {"extra": "forbid"}

    places: int = 60
    above: float = 0.0
    overlap: float = 0.5
    min_score: float = 0.5

    def __post_init__(self) -> None:
        if self.places < 1 or not 0 < self.overlap <= 1 or not 0 <= self.min_score <= 1:
            raise SettingsError(
                "More of the same needs places >= 1, 0 < overlap <= 1 and 0 <= min_score <= 1, "
                f"got {self.places}, {self.overlap} and {self.min_score}."
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SimilarProposer:
    """Proposes more of what is remembered.

    Args:
        generator: With the memory.
        refiner: Draws masks; one that draws all candidates lets the memory choose.
        settings: How many, and which.
        model: Makes calibrated scores of the evidence.
    """

    generator: MemoryGenerator
    refiner: Refiner | ZoomRefiner
    settings: SimilarSettings
    model: LogisticModel = SIMILAR_PRIOR

    def propose(
        self,
        image: ProposalImage,
        context: Context | None = None,
        *,
        encode: Encode | None = None,
        weights: Weights | None = None,
    ) -> tuple[Region, ...]:
        """Regions that look like what is remembered, best first; none where nothing is.

        Args:
            image: The image.
            context: What is labelled in it is never proposed again.
            encode: Gives embeddings of crops; needed by a refiner that zooms.
            weights: Decoder weights of a session; None for the base model's.
        """
        known = context or Context()
        likeness = self.generator.generate(image, known).score_map
        if likeness is None:
            return ()
        places = peaks_of(
            likeness,
            image.size,
            count=self.settings.places,
            above=self.settings.above,
            taken=known.labelled,
        )
        if isinstance(self.refiner, Refiner):
            regions = self.refiner.refine(image.embedding, places, weights)
        elif encode is None:
            raise ValueError("a refiner that zooms needs a way to encode crops")
        else:
            regions = self.refiner.refine(image.embedding, places, encode, weights)
        return self._best(regions, likeness, known.labelled)

    def _best(
        self, regions: Sequence[Region], likeness: ScoreMap, labelled: Sequence[Mask]
    ) -> tuple[Region, ...]:
        if not regions:
            return ()
        size = (regions[0].mask.shape[0], regions[0].mask.shape[1])
        full = enlarged(likeness, size)
        judged = [self._judged(region, full) for region in regions]
        kept = without_duplicates(judged, labelled, overlap=self.settings.overlap)
        return tuple(r for r in kept if r.score >= self.settings.min_score)

    def _judged(self, region: Region, likeness: ScoreMap) -> Region:
        area = region.area / region.mask.size
        typical = max(self.generator.memory.median_area, 1e-9)
        evidence = {
            **region.evidence,
            "likeness": float(likeness[region.mask].mean()),
            "contrast": _contrast(region.mask, likeness),
            "area_ratio": abs(math.log(area / typical)),
        }
        return replace(region, evidence=evidence, score=self.model.probability(evidence))


def _contrast(mask: Mask, likeness: ScoreMap) -> float:
    """Mean likeness inside less that of a band around it, half as wide as the region."""
    reach = max(3, round(0.5 * math.sqrt(np.count_nonzero(mask))))
    rows, columns = np.nonzero(mask)
    window = (
        slice(max(0, int(rows.min()) - reach), int(rows.max()) + reach + 1),
        slice(max(0, int(columns.min()) - reach), int(columns.max()) + reach + 1),
    )
    near, values = mask[window], likeness[window]
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    band = (cv2.dilate(near.astype(np.uint8), disc) > 0) & ~near
    return float(values[near].mean() - values[band].mean()) if band.any() else 0.0
