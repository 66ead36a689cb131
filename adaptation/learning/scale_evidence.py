"""What finished objects said of a session's weights: how they did with none, half and all of them.

Kept by the stage of an object (one click, a few, many), as fading sums, so that old objects count
less; immutable, small, and carried along by the adapter that it speaks of.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STAGE_ENDS = (1, 3, 7)
"""Clicks with which the stages of an object end: its first click, a few, some; then many."""

N_STAGES = len(STAGE_ENDS) + 1

SHARES = (0.0, 0.5, 1.0)
"""What is tried; the first is the frozen decoder, the last the one that is trained."""

RECENT = 0.5
"""Weight of the newest object in what happened lately."""

Row = tuple[float, ...]
"""A number for each of :data:`SHARES`."""


def stage_of(n_clicks: int) -> int:
    """Stage of an object, from 0, at a number of clicks (0 for a box alone)."""
    return bisect_left(STAGE_ENDS, n_clicks)


@dataclass(frozen=True, slots=True)
class StageEvidence:
    """What was seen in one stage: how much IoU each share gained over the frozen decoder.

    Args:
        count: Objects, older ones fading.
        gains: Sums over them, one for each of :data:`SHARES`, fading alike.
        squares: Sums of the squared gains, fading alike.
        recent: Mean gains over about the last two objects.
    """

    count: float = 0.0
    gains: Row = (0.0,) * len(SHARES)
    squares: Row = (0.0,) * len(SHARES)
    recent: Row = (0.0,) * len(SHARES)

    def sure_gains(self, n_errors: float) -> NDArray[np.float64]:
        """``[S]``, mean gains less so many of their standard errors; above one object."""
        mean = np.array(self.gains) / self.count
        spread = np.maximum(np.array(self.squares) / self.count - mean**2, 0.0)
        return np.asarray(mean - n_errors * np.sqrt(spread / max(self.count - 1.0, 1.0)))

    def faded(self, memory: float) -> StageEvidence:
        """A little less of it."""
        gains, squares = _scaled(self.gains, memory), _scaled(self.squares, memory)
        return StageEvidence(memory * self.count, gains, squares, self.recent)

    def seen(self, ious: NDArray[np.float64]) -> StageEvidence:
        """With one more object, ``[S]`` IoU."""
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
    """What was seen in every stage."""

    stages: tuple[StageEvidence, ...] = (StageEvidence(),) * N_STAGES

    def after(
        self, n_clicks: Sequence[int], ious: NDArray[np.float64], memory: float
    ) -> ScaleEvidence:
        """With one more object.

        Args:
            n_clicks: Of each prompt that was asked, ``L`` numbers.
            ious: ``[S, L]``, IoU of the answers with the submitted mask, a row for each of
                :data:`SHARES`.
            memory: What remains of earlier objects, in the stages that this one reached.
        """
        reached = np.array([stage_of(n) for n in n_clicks])
        stages = list(self.faded(n_clicks, memory).stages)
        for stage in np.unique(reached):
            stages[stage] = stages[stage].seen(ious[:, reached == stage].mean(axis=1))
        return ScaleEvidence(tuple(stages))

    def faded(self, n_clicks: Sequence[int], memory: float) -> ScaleEvidence:
        """A little less of it in the stages that an object reached."""
        reached = {stage_of(n) for n in n_clicks}
        return ScaleEvidence(
            tuple(
                stage.faded(memory) if number in reached else stage
                for number, stage in enumerate(self.stages)
            )
        )

    def at_most(self, count: float) -> ScaleEvidence:
        """The same, counting for no more than so many objects in any stage."""
        return ScaleEvidence(
            tuple(
                stage.faded(count / stage.count) if stage.count > count else stage
                for stage in self.stages
            )
        )

    def __add__(self, other: ScaleEvidence) -> ScaleEvidence:
        """What two sessions saw."""
        return ScaleEvidence(tuple(a + b for a, b in zip(self.stages, other.stages, strict=True)))

    def to_json(self) -> str:
        """As text that gives the same numbers back."""
        return json.dumps(
            [[s.count, list(s.gains), list(s.squares), list(s.recent)] for s in self.stages]
        )

    @staticmethod
    def from_json(text: str) -> ScaleEvidence:
        """Back from text, that of earlier versions too.

        Raises:
            ValueError: It is not evidence.
        """
        try:
            stages = tuple(_stage(*stage) for stage in json.loads(text))
        except (TypeError, KeyError) as error:
            raise ValueError(f"got {text[:60]!r}") from error
        if len(stages) != N_STAGES:
            raise ValueError(f"{N_STAGES} stages are needed, got {len(stages)}")
        return ScaleEvidence(stages)


NONE = ScaleEvidence()
"""Nothing was seen yet."""


SPREAD_BEFORE = 0.1
"""Standard deviation of an object's gain, for evidence of a time when none was kept."""


def _stage(count: float, *rows: Sequence[float]) -> StageEvidence:
    """A stage's numbers as they were read; two rows are sums of IoU and what happened lately."""
    number, found = float(count), [_checked(row) for row in rows]
    if len(found) == 2:
        sums, recent = found
        if not number:
            return StageEvidence()
        gains = np.array(sums) - sums[0]
        squares = gains**2 / number + SPREAD_BEFORE**2 * number
        squares[0] = 0.0
        return StageEvidence(number, _row(gains), _row(squares), recent)
    gains, squares, recent = found
    return StageEvidence(number, gains, squares, recent)


def _checked(row: Sequence[float]) -> Row:
    found = tuple(float(value) for value in row)
    if len(found) != len(SHARES):
        raise ValueError(f"{len(SHARES)} shares are needed, got {len(found)}")
    return found


def _scaled(row: Row, factor: float) -> Row:
    return tuple(factor * value for value in row)


def _row(values: NDArray[np.float64]) -> Row:
    return tuple(float(value) for value in values)
