"""The prompts of SAA+ that need no words: property, saliency, confidence; and the anomaly map.

Cao et al. 2023, "Segment Any Anomaly without Training via Hybrid Prompt Regularization", sections
4.1.2 and 4.2.  Each can be switched off: with all of them off, SAA+ is SAA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from adaptation.errors import SettingsError
from adaptation.masks import Mask
from adaptation.proposals.interface import ScoreMap
from adaptation.proposals.peaks import enlarged
from adaptation.proposals.refiner import Region
from adaptation.types import Size

InspectedObject = Literal["image", "border"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PropertyPrompt:
    """What is known of a defect's place and size.

    Args:
        is_on: False keeps every candidate.
        area: θ_area: candidates above this share of the inspected object's area are left out.
        inside: θ_IoU: candidates of which less than this share lies inside the inspected object
            are left out.  The source compares the IoU with the object; a small defect inside of a
            large object has one near 0, so the intersection is taken over the candidate's area.
        object: The inspected object: the whole image, or what differs from its border's colour.
    """

    __pydantic_config__ = {"extra": "forbid"}

    is_on: bool = True
    area: float = 0.3
    inside: float = 0.5
    object: InspectedObject = "image"

    def __post_init__(self) -> None:
        if not 0 < self.area <= 1 or not 0 <= self.inside <= 1:
            raise SettingsError(
                "The property prompt needs 0 < area <= 1 and 0 <= inside <= 1, got "
                f"{self.area} and {self.inside}."
            )
        if self.object not in ("image", "border"):
            raise SettingsError(f"The inspected object is image or border, got {self.object!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridPrompts:
    """Which prompts regularise the candidates.

    Args:
        property: Filters by place and size.
        saliency: Multiplies each score by the exponential of the region's mean saliency.
        confidence: K: only so many candidates are kept, the best; 0 keeps all.
    """

    __pydantic_config__ = {"extra": "forbid"}

    property: PropertyPrompt = PropertyPrompt()
    saliency: bool = True
    confidence: int = 5

    def __post_init__(self) -> None:
        if self.confidence < 0:
            raise SettingsError(f"confidence must be 0 or more, got {self.confidence}.")

    @classmethod
    def none(cls) -> HybridPrompts:
        """All of them off: SAA."""
        return cls(property=PropertyPrompt(is_on=False), saliency=False, confidence=0)

    def ablations(self) -> dict[str, HybridPrompts]:
        """The source's table 2 without its language rows: all, and each one off."""
        off = replace(self.property, is_on=False)
        return {
            "SAA": HybridPrompts.none(),
            "SAA+ without property": replace(self, property=off),
            "SAA+ without saliency": replace(self, saliency=False),
            "SAA+ without confidence": replace(self, confidence=0),
            "SAA+": self,
        }


def sift(
    regions: Sequence[Region],
    prompts: HybridPrompts,
    *,
    saliency: ScoreMap | None = None,
    pixels: NDArray[np.uint8] | None = None,
) -> list[Region]:
    """Apply the prompts that are on, in the source's order; best first.

    Args:
        regions: Of one image.
        prompts: Which ones.
        saliency: ``[h, w]`` of the image; needed by the saliency prompt.
        pixels: ``[H, W, 3]`` uint8 RGB; needed where the border tells the inspected object.

    Raises:
        ValueError: Something needed is missing.
    """
    kept = list(regions)
    if prompts.property.is_on and kept:
        kept = by_property(kept, prompts.property, _inspected(kept[0], prompts.property, pixels))
    if prompts.saliency:
        if saliency is None:
            raise ValueError("the saliency prompt needs a saliency map")
        kept = by_saliency(kept, saliency)
    kept.sort(key=lambda region: -region.score)
    return kept[: prompts.confidence] if prompts.confidence else kept


def _inspected(region: Region, prompt: PropertyPrompt, pixels: NDArray[np.uint8] | None) -> Mask:
    if prompt.object == "image":
        return np.ones_like(region.mask)
    if pixels is None:
        raise ValueError("telling the object by the border's colour needs the pixels")
    return object_by_border(pixels)


def by_property(regions: Sequence[Region], prompt: PropertyPrompt, inspected: Mask) -> list[Region]:
    """Equation 4: those that lie inside the inspected object and are not too large."""
    limit = prompt.area * np.count_nonzero(inspected)
    return [
        region
        for region in regions
        if region.area <= limit
        and np.count_nonzero(region.mask & inspected) >= prompt.inside * region.area
    ]


def by_saliency(regions: Sequence[Region], saliency: ScoreMap) -> list[Region]:
    """Equations 6 and 7: scores times the exponential of the mean saliency inside.

    A negative score is divided by it: saliency always raises.
    """
    if not regions:
        return []
    size = (regions[0].mask.shape[0], regions[0].mask.shape[1])
    full = enlarged(saliency, size)
    found = []
    for region in regions:
        factor = float(np.exp(full[region.mask].mean()))
        score = region.score * factor if region.score >= 0 else region.score / factor
        found.append(region.scored(score))
    return found


def anomaly_map(regions: Sequence[Region], size: Size) -> ScoreMap:
    """Equation 9: the mean score of the regions over each pixel, 0 where there is none."""
    total, count = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for region in regions:
        total[region.mask] += region.score
        count[region.mask] += 1
    return np.asarray(np.divide(total, count, out=np.zeros_like(total), where=count > 0))


BORDER = 0.02
"""Width of the border whose colour is taken, over the shorter side."""


def object_by_border(pixels: NDArray[np.uint8]) -> Mask:
    """What differs from the colour of the image's border; the whole image where nothing does.

    Otsu's threshold on the distance to the border's median colour; a border of many colours is no
    background, and then the image is the object.

    Args:
        pixels: ``[H, W, 3]`` uint8 RGB.
    """
    height, width = pixels.shape[:2]
    edge = max(1, round(BORDER * min(height, width)))
    border = np.concatenate(
        [
            pixels[:edge].reshape(-1, 3),
            pixels[-edge:].reshape(-1, 3),
            pixels[:, :edge].reshape(-1, 3),
            pixels[:, -edge:].reshape(-1, 3),
        ]
    ).astype(np.float32)
    colour = np.median(border, axis=0)
    spread = float(np.median(np.abs(border - colour).max(axis=1)))
    distance = np.abs(pixels.astype(np.float32) - colour).max(axis=2).clip(0, 255)
    steps = distance.astype(np.uint8)
    threshold, _ = cv2.threshold(steps, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    mask: Mask = steps > threshold
    is_clear = spread <= threshold / 2 and 0.02 < float(mask.mean()) < 0.98
    return mask if is_clear else np.ones((height, width), dtype=np.bool_)
