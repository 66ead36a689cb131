"""All of it in one call: generator, refiner, hybrid prompts, calibrated score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from adaptation.errors import SettingsError
from adaptation.models.decoder import Weights
from adaptation.predictor.interactive import Encode
from adaptation.proposals.calibration import REGION_PRIOR, LogisticModel
from adaptation.proposals.hybrid_prompts import HybridPrompts, sift
from adaptation.proposals.interface import Context, Generator, Place, ProposalImage, ScoreMap
from adaptation.proposals.peaks import enlarged, peaks_of
from adaptation.proposals.refiner import Refiner, Region, ZoomRefiner, without_duplicates
from adaptation.proposals.saliency import SaliencyGenerator


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposerSettings:
    """How many places are looked at, and which regions are proposed.

    Args:
        places: Peaks of a map that are prompted at, at most.
        apart: Cells of the map between two peaks.
        overlap: IoU, or share of the smaller one, from which two regions are the same.
        min_score: Regions below this calibrated score are not proposed.
        prompts: The hybrid prompts.
    """

    __pydantic_config__ = {"extra": "forbid"}

    places: int = 12
    apart: int = 1
    overlap: float = 0.5
    min_score: float = 0.0
    prompts: HybridPrompts = HybridPrompts()

    def __post_init__(self) -> None:
        if self.places < 1 or self.apart < 0 or not 0 < self.overlap <= 1:
            raise SettingsError(
                "Proposals need places >= 1, apart >= 0 and 0 < overlap <= 1, got "
                f"{self.places}, {self.apart} and {self.overlap}."
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposals:
    """What is proposed for one image.

    Args:
        regions: Best first; their scores are probabilities that they will be accepted.
        score_map: Of the generator, ``[h, w]``; None where it gave places only.
    """

    regions: tuple[Region, ...]
    score_map: ScoreMap | None

    @property
    def score(self) -> float:
        """Of the image: the best region's; 0 without any."""
        return self.regions[0].score if self.regions else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Proposer:
    """Proposes regions.

    Args:
        generator: Finds places.
        refiner: Draws masks at them.
        settings: How many, and which.
        saliency: Makes the map of the saliency prompt; None: that prompt is off.
        model: Makes calibrated scores of the evidence; None: a region keeps its generator's.
    """

    generator: Generator
    refiner: Refiner | ZoomRefiner
    settings: ProposerSettings
    saliency: SaliencyGenerator | None = None
    model: LogisticModel | None = REGION_PRIOR

    def propose(
        self,
        image: ProposalImage,
        context: Context | None = None,
        *,
        encode: Encode | None = None,
        weights: Weights | None = None,
    ) -> Proposals:
        """Propose regions of one image.

        Args:
            image: The image.
            context: What is known of it; regions labelled already are never proposed again.
            encode: Gives embeddings of crops; needed by a refiner that zooms.
            weights: Decoder weights of a session; None for the base model's.
        """
        regions, score_map = self.candidates(image, context, encode=encode, weights=weights)
        judged = (self._judged(region, score_map) for region in regions)
        kept = sorted(
            (r for r in judged if r.score >= self.settings.min_score), key=lambda r: -r.score
        )
        return Proposals(regions=tuple(kept), score_map=score_map)

    def candidates(
        self,
        image: ProposalImage,
        context: Context | None = None,
        *,
        encode: Encode | None = None,
        weights: Weights | None = None,
    ) -> tuple[list[Region], ScoreMap | None]:
        """The regions with SAA+'s own scores, best first, and the generator's map.

        A region's score is the mean of the generator's map in it (its place's score where there is
        no map), times its saliency where that prompt is on.  Arguments as for `propose`.
        """
        known = context or Context()
        found = self.generator.generate(image, known)
        places = found.places or self._places(found.score_map, image, known)
        regions = [
            _scored_by(region, found.score_map)
            for region in self._refined(image, places, encode, weights)
        ]
        regions = without_duplicates(regions, known.labelled, overlap=self.settings.overlap)
        return self._sifted(regions, image), found.score_map

    def _places(
        self, score_map: ScoreMap | None, image: ProposalImage, context: Context
    ) -> tuple[Place, ...]:
        if score_map is None:
            return ()
        return peaks_of(
            score_map,
            image.size,
            count=self.settings.places,
            apart=self.settings.apart,
            above=float(np.median(score_map)),
            taken=context.labelled,
        )

    def _refined(
        self,
        image: ProposalImage,
        places: Sequence[Place],
        encode: Encode | None,
        weights: Weights | None,
    ) -> list[Region]:
        if isinstance(self.refiner, Refiner):
            return self.refiner.refine(image.embedding, places, weights)
        if encode is None:
            raise ValueError("a refiner that zooms needs a way to encode crops")
        return self.refiner.refine(image.embedding, places, encode, weights)

    def _judged(self, region: Region, score_map: ScoreMap | None) -> Region:
        evidence = {**region.evidence, **region_evidence(region, score_map)}
        score = region.score if self.model is None else self.model.probability(evidence)
        return replace(region, evidence=evidence, score=score)

    def _sifted(self, regions: Sequence[Region], image: ProposalImage) -> list[Region]:
        prompts = self.settings.prompts
        if not regions:
            return []
        if self.saliency is None or not prompts.saliency:
            return sift(regions, replace(prompts, saliency=False), pixels=image.read())
        saliency = self.saliency.saliency(image)
        return sift(regions, prompts, saliency=saliency, pixels=image.read())


def _scored_by(region: Region, score_map: ScoreMap | None) -> Region:
    if score_map is None:
        return region
    full = enlarged(score_map, (region.mask.shape[0], region.mask.shape[1]))
    return region.scored(float(full[region.mask].mean()))


def region_evidence(region: Region, score_map: ScoreMap | None) -> dict[str, float]:
    """What the calibrated score is made of, beside the model's own estimate of the mask."""
    size = (region.mask.shape[0], region.mask.shape[1])
    evidence = {"log_area": math.log(region.area / (size[0] * size[1]))}
    if score_map is None:
        return evidence
    full = enlarged(score_map, size)
    spread = max(float(full.std()), 1e-6)
    inside = float(full[region.mask].mean())
    rest = full[~region.mask]
    evidence["map"] = (inside - float(full.mean())) / spread
    evidence["contrast"] = (inside - float(rest.mean())) / spread if len(rest) else 0.0
    return evidence
