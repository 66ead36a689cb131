"""One session's learner and the diary of what it was taught.

The diary makes a session a function of what happened: an object that is deleted or rewritten is
un-learned by teaching the rest again from the start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from adaptation.adapter import Adapter
from adaptation.learner import LearnerSettings, ObjectReport, OnlineLearner
from adaptation.lessons import AskedPrompt
from adaptation.masks import Rle, decode_rle
from adaptation.sam import PromptableSam
from adaptation.types import Click, Embedding
from adaptation.zoom import View

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Taught:
    """A finished object as a session is taught it.

    Args:
        annotation_id: The annotation that it is part of.
        region_id: The region that it became.
        asked: What was asked on it, oldest first.
        clicks: All clicks on it, original pixels.
        mask: As submitted.
        encode: Embedding of a view of its image.
    """

    annotation_id: str
    region_id: str
    asked: tuple[AskedPrompt, ...]
    clicks: tuple[Click, ...]
    mask: Rle
    encode: Callable[[View], Embedding]


@dataclass(slots=True, eq=False)
class _Lesson:
    """An entry of the diary: an object, and the thinking that followed it, in steps."""

    taught: Taught
    thought: list[int] = field(default_factory=list)


class TaughtSession:
    """A learner with its diary.  Used by one thread; :attr:`adapter` may be read by any.

    Args:
        sam: The shared model.
        settings: How it learns.
        seed: Of all draws.
        start: The adapter it starts from.
        max_diary: Objects that can be un-learned; older ones stay learned.
    """

    def __init__(
        self,
        sam: PromptableSam,
        settings: LearnerSettings,
        seed: int,
        start: Adapter,
        max_diary: int = 500,
    ) -> None:
        self._sam, self._settings, self._seed = sam, settings, seed
        self._start, self._max_diary = start, max_diary
        self._diary: list[_Lesson] = []
        self._learner = OnlineLearner(sam, settings, seed, start)

    @property
    def adapter(self) -> Adapter:
        """What the session has learned so far; immutable."""
        return self._learner.adapter

    def teach(self, taught: Taught, pause: Callable[[], object]) -> ObjectReport:
        """Learn from a finished object."""
        if len(self._diary) >= self._max_diary:
            self._start, self._diary = self._learner.adapter, []
        self._diary.append(_Lesson(taught))
        return self._observe(taught, pause)

    def think(self, should_stop: Callable[[], bool]) -> int:
        """Replay in idle time; steps made."""
        n_steps = self._learner.think(should_stop)
        if n_steps and self._diary:
            self._diary[-1].thought.append(n_steps)
        return n_steps

    def forget(self, annotation_id: str, pause: Callable[[], object]) -> int:
        """Un-learn an annotation: everything else is taught again from the start.

        Returns:
            Objects forgotten; 0 where the annotation taught nothing.
        """
        kept = [entry for entry in self._diary if entry.taught.annotation_id != annotation_id]
        n_forgotten = len(self._diary) - len(kept)
        if not n_forgotten:
            return 0
        self._learner = OnlineLearner(self._sam, self._settings, self._seed, self._start)
        self._diary = kept
        for entry in kept:
            self._observe(entry.taught, pause)
            self._think_again(entry.thought, pause)
        return n_forgotten

    def _observe(self, taught: Taught, pause: Callable[[], object]) -> ObjectReport:
        return self._learner.observe_mask(
            taught.asked, taught.clicks, decode_rle(taught.mask), taught.encode, pause
        )

    def _think_again(self, stretches: Sequence[int], pause: Callable[[], object]) -> None:
        """Make as many steps as were made when the session thought for itself."""
        for wanted in stretches:
            made = 0

            def enough(limit: int = wanted) -> bool:
                nonlocal made
                pause()
                made += 1
                return made > limit

            self._learner.think(enough)
