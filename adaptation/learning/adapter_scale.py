"""How much of what a session learned answers a click: none, half or all of it, by evidence.

What helps with an object's first click may hurt with its tenth: the first is a guess at what the
annotator means, which a session can learn; the tenth corrects a detail, which the base decoder has
practised on far more objects.  So before anything is learned from a finished object, its prompts
are asked of the frozen decoder, and with none, half and all of the session's differences and its
scores (:mod:`adaptation.learning.scores`).  For each stage of an object (one click, a few, many) is
used what surely won there so far, and the frozen decoder before anything has.  Every object is
judged by weights that have not seen it, so the evidence is that of a held-out object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat

from adaptation.config import Share, check_ranges
from adaptation.learning.adapter import WHOLE, Adapter
from adaptation.learning.scale_evidence import (
    N_STAGES,
    N_TRIED,
    SHARES,
    LoneClick,
    ScaleEvidence,
    StageEvidence,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSettings:
    """How evidence is weighed.

    Args:
        is_on: False answers every click with all that was learned.
        scores: Choose among the masks offered for a lone click by scores fitted to the session.
        start: Share that is used while a stage has too little evidence.
        memory: What an object's evidence keeps of its weight with each later one.
        least: Objects, weighted so, that a stage needs before its share may leave the start.
        margin: Mean IoU that a share must win over the frozen decoder to be used.
        n_errors: Standard errors that are taken off a mean gain first: what was won by chance
            alone is not won.
        alarm: Mean IoU lost to the frozen decoder over about the last two objects at which a
            share is not used in this stage of an object nor in a later one, whatever came before:
            an annotator who changes is noticed at once.
    """

    is_on: bool = True
    scores: bool = True
    start: Share = 0.0
    memory: Annotated[float, Field(gt=0, le=1)] = 0.9
    least: float = 4.5
    margin: float = 0.0
    n_errors: NonNegativeFloat = 0.5
    alarm: float = 0.02

    def __post_init__(self) -> None:
        check_ranges(self, "Trust")


class ScaleSelector:
    """Evidence of one session, by the stage of an object.

    Args:
        settings: How it is weighed.
        adapter: What the session starts from.  Its evidence goes on; its shares are used while
            there is too little of it, those of the settings where it is the base decoder.
    """

    def __init__(self, settings: TrustSettings, adapter: Adapter) -> None:
        own = (settings.start,) * N_STAGES
        self._settings, self._start = settings, adapter.shares if adapter.deltas else own
        self._starts_scored = adapter.is_scored
        self.evidence = adapter.evidence
        """What the objects of this session said."""
        self.inherited = adapter.inherited
        """What those of the sessions said that it started from; fades alike."""

    def observe(self, n_clicks: Sequence[int], ious: NDArray[np.float64]) -> None:
        """Take one object into account; see :meth:`ScaleEvidence.after`."""
        memory = self._settings.memory
        self.evidence = self.evidence.after(n_clicks, ious, memory)
        self.inherited = self.inherited.faded(n_clicks, memory)

    def observe_lone_click(self, offered: Sequence[LoneClick]) -> None:
        """Fit the scores to one more lone click; see :meth:`ScaleEvidence.after_lone_click`."""
        if self._settings.scores:
            memory = self._settings.memory
            self.evidence = self.evidence.after_lone_click(offered, memory)
            self.inherited = self.inherited.faded_scores(memory)

    def applied(self, adapter: Adapter) -> Adapter:
        """An adapter with the evidence, and with what is to be used of it by this evidence."""
        chosen = self._chosen()
        return replace(
            adapter,
            shares=tuple(share for share, _ in chosen),
            is_scored=chosen[0][1],
            evidence=self.evidence,
            inherited=self.inherited,
        )

    def _chosen(self) -> list[tuple[float, bool]]:
        """In each stage the share to use, and whether it is used with the session's scores."""
        if not self._settings.is_on:
            return [(share, True) for share in WHOLE]
        lost, chosen = np.zeros(N_TRIED, np.bool_), []
        seen = zip(self.inherited.stages, self.evidence.stages, self._start, strict=True)
        for inherited, own, start in seen:
            # What misreads an object's first clicks is of another kind of object, or of another
            # annotator: what it once won with later clicks does not hold.
            lost |= self._lost_lately(inherited, own)
            chosen.append(self._best(inherited + own, lost) or (start, self._starts_scored))
        return chosen

    def _lost_lately(self, inherited: StageEvidence, own: StageEvidence) -> NDArray[np.bool_]:
        """``[N_TRIED]``, what raises the alarm in a stage.

        What happened lately happened here, if anything did: it is not drowned in the past.
        """
        lately = own.recent if own.count else inherited.recent
        return np.asarray(np.array(lately) < -self._settings.alarm)

    def _best(self, seen: StageEvidence, lost: NDArray[np.bool_]) -> tuple[float, bool] | None:
        """What won; None where too little was seen."""
        if not seen.count or seen.count < self._settings.least:
            return None
        gains = np.where(lost, -np.inf, seen.sure_gains(self._settings.n_errors))
        best = int(np.argmax(gains))
        if best == 0 or gains[best] <= self._settings.margin:
            return 0.0, False
        return SHARES[best - 1], True


MOST_INHERITED = 10.0
"""Objects that inherited evidence counts for at most: the next session's own soon outweigh it."""


def pooled(of_sessions: Sequence[ScaleEvidence]) -> ScaleEvidence:
    """What a start inherits from the sessions that it is merged from."""
    return sum(of_sessions, ScaleEvidence()).at_most(MOST_INHERITED)
