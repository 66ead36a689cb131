"""What finished objects said of what a session learned: how they did with none, half and all of it.

Kept by the stage of an object (one click, a few, many), as fading sums, so that old objects count
less; immutable, small, and carried along by the adapter that it speaks of.  So are the sums that
the session's scores are fitted to.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from adaptation.learning.scores import ScoreSums

STAGE_ENDS = (1, 3, 7)
"""Clicks with which the stages of an object end: its first click, a few, some; then many."""

N_STAGES = len(STAGE_ENDS) + 1

SHARES = (0.0, 0.5, 1.0)
"""How much of the learned differences is tried, with the session's scores each time."""

N_TRIED = 1 + len(SHARES)
"""What is tried on an object's prompts: the frozen decoder as it is, and each of SHARES."""

RECENT = 0.5
"""Weight of the newest object in what happened lately."""

Row = tuple[float, ...]
"""A number for each of :data:`N_TRIED`."""

NO_ROW = (0.0,) * N_TRIED


@dataclass(frozen=True, slots=True, eq=False)
class LoneClick:
    """What the decoder offered for an object's first click.

    Args:
        scores: ``[T - 1]``, predicted IoU of the candidates.
        ious: ``[T - 1]``, their IoU with the submitted mask.
    """

    scores: NDArray[np.float64]
    ious: NDArray[np.float64]


def stage_of(n_clicks: int) -> int:
    """Stage of an object, from 0, at a number of clicks (0 for a box alone)."""
    return bisect_left(STAGE_ENDS, n_clicks)


@dataclass(frozen=True, slots=True)
class StageEvidence:
    """What was seen in one stage: how much IoU was gained over the frozen decoder.

    Args:
        count: Objects, older ones fading.
        gains: Sums over them, one for each that is tried, fading alike.
        squares: Sums of the squared gains, fading alike.
        recent: Mean gains over about the last two objects.
    """

    count: float = 0.0
    gains: Row = NO_ROW
    squares: Row = NO_ROW
    recent: Row = NO_ROW

    def sure_gains(self, n_errors: float) -> NDArray[np.float64]:
        """``[N_TRIED]``, mean gains less so many of their standard errors; above one object."""
        mean = np.array(self.gains) / self.count
        spread = np.maximum(np.array(self.squares) / self.count - mean**2, 0.0)
        return np.asarray(mean - n_errors * np.sqrt(spread / max(self.count - 1.0, 1.0)))

    def faded(self, memory: float) -> StageEvidence:
        """A little less of it."""
        gains, squares = _scaled(self.gains, memory), _scaled(self.squares, memory)
        return StageEvidence(memory * self.count, gains, squares, self.recent)

    def seen(self, ious: NDArray[np.float64]) -> StageEvidence:
        """With one more object, ``[N_TRIED]`` IoU."""
        gained, recent = ious - ious[0], np.array(self.recent)
        return StageEvidence(
            self.count + 1.0,
            _row(np.array(self.gains) + gained),
            _row(np.array(self.squares) + gained**2),
            _row(recent + RECENT * (gained - recent)),
        )

    def __add__(self, other: StageEvidence) -> StageEvidence:
        """Both; what happened lately is the mean of both, each by its objects."""
        if not (self.count and other.count):
            return self if self.count else other
        count = self.count + other.count
        recent = np.array(self.recent) * self.count + np.array(other.recent) * other.count
        return StageEvidence(
            count,
            _row(np.array(self.gains) + np.array(other.gains)),
            _row(np.array(self.squares) + np.array(other.squares)),
            _row(recent / count),
        )


@dataclass(frozen=True, slots=True)
class ScaleEvidence:
    """What was seen in every stage, and at lone clicks with each of :data:`SHARES`."""

    stages: tuple[StageEvidence, ...] = (StageEvidence(),) * N_STAGES
    scores: tuple[ScoreSums, ...] = (ScoreSums(),) * len(SHARES)

    def after(
        self, n_clicks: Sequence[int], ious: NDArray[np.float64], memory: float
    ) -> ScaleEvidence:
        """With one more object.

        Args:
            n_clicks: Of each prompt that was asked, ``L`` numbers.
            ious: ``[N_TRIED, L]``, IoU of the answers with the submitted mask.
            memory: What remains of earlier objects, in the stages that this one reached.
        """
        reached = np.array([stage_of(n) for n in n_clicks])
        stages = list(self.faded(n_clicks, memory).stages)
        for stage in np.unique(reached):
            stages[stage] = stages[stage].seen(ious[:, reached == stage].mean(axis=1))
        return replace(self, stages=tuple(stages))

    def after_lone_click(self, offered: Sequence[LoneClick], memory: float) -> ScaleEvidence:
        """With one more lone click, answered with each of :data:`SHARES`."""
        pairs = zip(self.scores, offered, strict=True)
        scores = tuple(s.faded(memory).seen(click.scores, click.ious) for s, click in pairs)
        return replace(self, scores=scores)

    def faded(self, n_clicks: Sequence[int], memory: float) -> ScaleEvidence:
        """A little less of it in the stages that an object reached."""
        reached = {stage_of(n) for n in n_clicks}
        stages = tuple(
            stage.faded(memory) if number in reached else stage
            for number, stage in enumerate(self.stages)
        )
        return replace(self, stages=stages)

    def faded_scores(self, memory: float) -> ScaleEvidence:
        """A little less of what lone clicks said."""
        return replace(self, scores=tuple(sums.faded(memory) for sums in self.scores))

    def at_most(self, count: float) -> ScaleEvidence:
        """The same, counting for no more than so many objects in any stage."""
        return ScaleEvidence(
            tuple(
                each.faded(min(1.0, count / each.count)) if each.count else each
                for each in self.stages
            ),
            tuple(
                each.faded(min(1.0, count / each.count)) if each.count else each
                for each in self.scores
            ),
        )

    def __add__(self, other: ScaleEvidence) -> ScaleEvidence:
        """What two sessions saw."""
        return ScaleEvidence(
            tuple(a + b for a, b in zip(self.stages, other.stages, strict=True)),
            tuple(a + b for a, b in zip(self.scores, other.scores, strict=True)),
        )

    def to_json(self) -> str:
        """As text that gives the same numbers back."""
        return json.dumps(
            {
                "stages": [[s.count, s.gains, s.squares, s.recent] for s in self.stages],
                "scores": [[s.squares, s.lacking] for s in self.scores],
            }
        )

    @staticmethod
    def from_json(text: str) -> ScaleEvidence:
        """Back from text, that of earlier versions too.

        Raises:
            ValueError: It is not evidence.
        """
        content = json.loads(text)
        try:
            if isinstance(content, list):  # before scores were fitted: sums of IoU for SHARES
                return ScaleEvidence(_of_all(N_STAGES, [_stage_before(*s) for s in content]))
            stages = [_stage(*s) for s in content["stages"]]
            scores = [_sums(*s) for s in content["scores"]]
        except (TypeError, KeyError) as error:
            raise ValueError(f"got {text[:60]!r}") from error
        return ScaleEvidence(_of_all(N_STAGES, stages), _of_all(len(SHARES), scores))


NONE = ScaleEvidence()
"""Nothing was seen yet."""

SPREAD_BEFORE = 0.1
"""Standard deviation of an object's gain, for evidence of a time when none was kept."""

T = TypeVar("T")


def _of_all(n: int, found: Sequence[T]) -> tuple[T, ...]:
    if len(found) != n:
        raise ValueError(f"{n} parts are needed, got {len(found)}")
    return tuple(found)


def _stage(count: float, gains: Row, squares: Row, recent: Row) -> StageEvidence:
    rows = (_checked(row, N_TRIED) for row in (gains, squares, recent))
    return StageEvidence(float(count), *rows)


def _stage_before(count: float, sums: Row, recent: Row) -> StageEvidence:
    """A stage of a time without squares: sums of IoU and what happened lately, of SHARES."""
    number, summed = float(count), np.array(_checked(sums, len(SHARES)))
    none, *lately = _checked(recent, len(SHARES))
    if not number:
        return StageEvidence()
    gains = np.insert(summed - summed[0], 1, 0.0)
    squares = gains**2 / number + SPREAD_BEFORE**2 * number * (np.arange(N_TRIED) > 1)
    return StageEvidence(number, _row(gains), _row(squares), (none, none, *lately))


def _sums(squares: Sequence[float], lacking: Sequence[float]) -> ScoreSums:
    if len(squares) != len(lacking) ** 2:
        raise ValueError(f"got {len(squares)} squares of {len(lacking)} columns")
    return ScoreSums(_checked(squares, len(squares)), _checked(lacking, len(lacking)))


def _checked(row: Sequence[float], n: int) -> Row:
    found = tuple(float(value) for value in row)
    if len(found) != n:
        raise ValueError(f"{n} numbers are needed, got {len(found)}")
    return found


def _scaled(row: Row, factor: float) -> Row:
    return tuple(factor * value for value in row)


def _row(values: NDArray[np.float64]) -> Row:
    return tuple(float(value) for value in values)
