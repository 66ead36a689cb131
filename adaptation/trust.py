"""How much of what a session learned answers a click: none, half or all of it, by evidence.

What helps with an object's first click may hurt with its tenth: the first is a guess at what the
annotator means, which a session can learn; the tenth corrects a detail, which the base decoder has
practised on far more objects.  So before anything is learned from a finished object, its prompts
are asked with none, half and all of the session's differences, and for each stage of an object
(one click, a few, many) the share is used that has won so far, and none before any has.  Every
object is judged by weights that have not seen it, so the evidence is that of a held-out object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adaptation.adapter import N_STAGES, WHOLE, Adapter, stage_of
from adaptation.errors import SettingsError

SHARES = (0.0, 0.5, 1.0)
"""What is tried; the first is the frozen decoder, the last the one that is trained."""


_RECENT = 0.5
"""Weight of the newest object in what happened lately."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSettings:
    """How evidence is weighed.

    Args:
        is_on: False answers every click with all that was learned.
        start: Share that is used while a stage has too little evidence.
        memory: What an object's evidence keeps of its weight with each later one.
        least: Objects, weighted so, that a stage needs before its share may leave the start.
        margin: Mean IoU that a share must win over the frozen decoder to be used.
        alarm: Mean IoU lost to the frozen decoder over about the last two objects at which a
            share is not used, whatever came before: an annotator who changes is noticed at once.
    """

    __pydantic_config__ = {"extra": "forbid"}

    is_on: bool = True
    start: float = 0.0
    memory: float = 0.9
    least: float = 4.5
    margin: float = 0.0
    alarm: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.memory <= 1:
            raise SettingsError(f"The memory of trust lies in (0, 1], got {self.memory}.")
        if not 0 <= self.start <= 1:
            raise SettingsError(f"The start of trust lies in [0, 1], got {self.start}.")


class Trust:
    """Evidence of one session, by the stage of an object.

    Args:
        settings: How it is weighed.
        adapter: What the session starts from; its shares are used while there is too little
            evidence, those of the settings where it is the base decoder.
    """

    def __init__(self, settings: TrustSettings, adapter: Adapter) -> None:
        own = (settings.start,) * N_STAGES
        self._settings, self._start = settings, own if adapter.is_base else adapter.shares
        self._sums = np.zeros((N_STAGES, len(SHARES)))
        self._counts = np.zeros(N_STAGES)
        self._recent = np.zeros((N_STAGES, len(SHARES)))

    def observe(self, n_clicks: Sequence[int], ious: NDArray[np.float64]) -> None:
        """Take one object into account.

        Args:
            n_clicks: Of each prompt that was asked again, ``L`` numbers.
            ious: ``[S, L]``, IoU of the answers with the submitted mask, a row for each of
                :data:`SHARES`.
        """
        stages = np.array([stage_of(n) for n in n_clicks])
        for stage in np.unique(stages):
            memory = self._settings.memory
            mean = ious[:, stages == stage].mean(axis=1)
            self._sums[stage] = memory * self._sums[stage] + mean
            self._counts[stage] = memory * self._counts[stage] + 1
            self._recent[stage] += _RECENT * (mean - mean[0] - self._recent[stage])

    def shares(self) -> tuple[float, ...]:
        """The share to use in each stage."""
        if not self._settings.is_on:
            return WHOLE
        return tuple(self._share(stage) for stage in range(N_STAGES))

    def _share(self, stage: int) -> float:
        if self._counts[stage] < self._settings.least:
            return self._start[stage]
        gains = (self._sums[stage] - self._sums[stage][0]) / self._counts[stage]
        gains[self._recent[stage] < -self._settings.alarm] = -np.inf
        best = int(np.argmax(gains))
        return SHARES[best] if gains[best] > self._settings.margin else SHARES[0]
