"""Never worse than frozen: what a session may learn from, and when it must turn back.

For every finished object the frozen decoder answers the annotator's prompts again, and both masks
are compared with the submitted one.  While the adapted decoder loses, the session falls back to the
last adapter that won.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from adaptation.config import Count
from adaptation.errors import RangeError
from adaptation.learning.adapter import Adapter
from adaptation.types import Click

LEAST_PROGRESS = 1e-3
"""Fall of the loss on kept-out objects below which a stretch of idle training counts as none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardSettings:
    """When an object is not learned from, and when the session turns back.

    Args:
        window: Objects over which adapted and frozen are compared.
        least: Objects needed before the session may turn back.
        margin: Mean IoU that the adapted decoder may lose over the window.
        largest_share: A mask above this share of its image is not learned from.
        agreement: Share of the object's clicks that the mask must agree with.
        least_overlap: IoU of the submitted mask with the best mask shown, below which an object
            is taken for a slip or for another object.
        probe_drop: Mean IoU that an update may cost on earlier objects of the session.
        n_probes: How many earlier objects are asked.
    """

    window: int = 8
    least: Count = 4
    margin: float = 0.03
    largest_share: float = 0.9
    agreement: float = 0.8
    least_overlap: float = 0.2
    probe_drop: float = 0.15
    n_probes: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.window:
            raise RangeError(
                f"The guard needs 1 <= least <= window, got {self.least} and {self.window}."
            )


def reason_against(
    mask: NDArray[np.bool_],
    clicks: Sequence[Click],
    best_overlap: float,
    settings: GuardSettings,
) -> str | None:
    """Why a finished mask is not learned from; None when it may be.

    Args:
        mask: ``[H, W]`` bool, as submitted.
        clicks: All clicks on the object, original pixels.
        best_overlap: Highest IoU of the mask with any mask that was shown.
        settings: The limits.
    """
    share = float(mask.mean())
    if share == 0.0:
        return "the mask is empty"
    if share > settings.largest_share:
        return f"the mask covers {share:.0%} of the image"
    agreeing = [bool(mask[round(c.y), round(c.x)]) == c.is_positive for c in clicks]
    if agreeing and np.mean(agreeing) < settings.agreement:
        return f"the mask contradicts {len(agreeing) - sum(agreeing)} of {len(agreeing)} clicks"
    if best_overlap < settings.least_overlap:
        return f"the mask has IoU {best_overlap:.2f} with the best mask that was shown"
    return None


@dataclass(slots=True)
class Guard:
    """Compares adapted and frozen over the last objects and remembers who won.

    Args:
        settings: Window and margin.
    """

    settings: GuardSettings
    gains: deque[float] = field(default_factory=deque)
    won: Adapter = field(default_factory=Adapter)

    def observe(self, adapter: Adapter, adapted_iou: float, frozen_iou: float) -> bool:
        """Take one object's outcome into account.

        Args:
            adapter: With which the object's clicks were answered.
            adapted_iou: Mean IoU of its answers with the submitted mask.
            frozen_iou: The same of the frozen decoder on the same prompts.

        Returns:
            True when the session must turn back to :attr:`won`.
        """
        if adapter.is_base:
            return False
        self.gains.append(adapted_iou - frozen_iou)
        while len(self.gains) > self.settings.window:
            self.gains.popleft()
        mean = self.mean_gain
        if len(self.gains) >= self.settings.least and mean < -self.settings.margin:
            self.gains.clear()
            return True
        if mean >= 0:
            self.won = adapter
        return False

    @property
    def mean_gain(self) -> float:
        """Mean IoU won over the frozen decoder in the window; 0 before the first object."""
        return float(np.mean(self.gains)) if self.gains else 0.0


class EarlyStopping:
    """Whether idle training still helps, by the loss on objects that are kept out of it.

    Args:
        patience: Stretches without progress before it is over.
    """

    def __init__(self, patience: int) -> None:
        self._patience, self._stale = patience, 0
        self.best: float | None = None
        """The least loss so far; None before the first was measured."""

    @property
    def is_over(self) -> bool:
        """Whether enough stretches came to nothing."""
        return self._stale >= self._patience

    def made(self, loss: float) -> bool:
        """Take a stretch into account; False where the loss after it is no lower than the best."""
        best = math.inf if self.best is None else self.best
        self._stale = 0 if loss < best - LEAST_PROGRESS else self._stale + 1
        self.best = min(loss, best)
        return loss < best
