"""A session's scores: which of the masks offered for a lone click this session means.

The masks may be right and the predicted IoUs wrong: on images unlike those that the decoder was
trained on, which mask is meant is what it knows least.  Finished objects tell.  A ridge regression
says what the scores lack, by the mask token and the score itself::

    IoU - score  ~  slope * score + offset[token]

Its sums fade, add, and are un-learned like all evidence
(:mod:`adaptation.learning.scale_evidence`), and its solution is a change of the last layer of the
IoU head: no mask is touched, and a click costs nothing.  ``strop-train calibrate`` does the like
for a base decoder, with more to go by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

# What brings torch along is imported where it is used: pages read evidence without it.

PRIOR = 3.0
"""Objects that must speak against the decoder's own scores to count as much as these."""

Numbers = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ScoreChange:
    """What is added to the scores of the candidates.

    Args:
        slope: Of the score itself.
        offsets: One for each candidate.
    """

    slope: float
    offsets: Numbers

    def applied(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """``[T - 1]`` scores of candidates after the change."""
        return np.asarray(scores + self.slope * scores + np.array(self.offsets))

    def weights(self, decoder: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The last layer of a decoder's IoU head after the change, by parameter name.

        Args:
            decoder: All of its parameters; not written to.
        """
        from adaptation.models.decoder import score_layer

        name = score_layer(decoder)
        weight, bias = (decoder[f"{name}.{part}"].detach().clone() for part in ("weight", "bias"))
        weight[1:] *= 1 + self.slope
        bias[1:] = bias[1:] * (1 + self.slope) + bias.new_tensor(self.offsets)
        return {f"{name}.weight": weight, f"{name}.bias": bias}


@dataclass(frozen=True, slots=True)
class ScoreSums:
    """The sums of the regression over finished objects, older ones fading.

    Args:
        squares: ``[T * T]``, of the design (score, and one column for each candidate).
        lacking: ``[T]``, of the design times what the scores lacked.
    """

    squares: Numbers = ()
    lacking: Numbers = ()

    def seen(self, scores: NDArray[np.float64], ious: NDArray[np.float64]) -> ScoreSums:
        """With one more lone click.

        Args:
            scores: ``[T - 1]``, predicted IoU of the candidates.
            ious: ``[T - 1]``, their IoU with the submitted mask.
        """
        design = np.column_stack([scores, np.eye(len(scores))])
        found = ScoreSums(
            _numbers((design.T @ design).ravel()), _numbers(design.T @ (ious - scores))
        )
        return self + found

    def faded(self, memory: float) -> ScoreSums:
        """A little less of it."""
        return ScoreSums(
            tuple(memory * v for v in self.squares), tuple(memory * v for v in self.lacking)
        )

    def __add__(self, other: ScoreSums) -> ScoreSums:
        """Both."""
        if not (self.squares and other.squares):
            return self if self.squares else other
        return ScoreSums(
            _numbers(np.array(self.squares) + np.array(other.squares)),
            _numbers(np.array(self.lacking) + np.array(other.lacking)),
        )

    @property
    def count(self) -> float:
        """Lone clicks, older ones fading."""
        return self.squares[len(self.lacking) + 1] if self.squares else 0.0

    @property
    def change(self) -> ScoreChange | None:
        """The most probable change; None where nothing was seen."""
        if not self.squares:
            return None
        n = len(self.lacking)
        penalised = np.array(self.squares).reshape(n, n) + PRIOR * np.eye(n)
        slope, *offsets = np.linalg.solve(penalised, np.array(self.lacking))
        return ScoreChange(float(slope), _numbers(np.array(offsets)))


def _numbers(values: NDArray[np.float64]) -> Numbers:
    return tuple(float(value) for value in values)
