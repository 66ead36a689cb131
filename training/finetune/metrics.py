"""Sums of what the steps of a run measured, exact over batches and ranks."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from training.runtime.distributed import Rank

N_TENTHS = 10
_TENTH = "#"


@dataclass(slots=True)
class MetricSums:
    """Sums and counts by name, so that means stay exact however the examples were shared out."""

    values: dict[str, tuple[float, float]] = field(default_factory=dict)

    def note(self, name: str, values: Tensor) -> None:
        """Add one value for each example; NaN where an example has none."""
        known = values.detach()[~values.isnan()]
        total, count = self.values.get(name, (0.0, 0.0))
        self.values[name] = total + float(known.double().sum()), count + len(known)

    def note_gap(self, name: str, scores: Tensor, outcomes: Tensor) -> None:
        """Add to the expected calibration error of scores, by tenths of the score.

        The mean of `name` is then sum_b (n_b / n) |mean score - mean outcome| over the tenths b
        (Naeini et al. 2015), over all that was added, whatever the batches were.

        Args:
            name: Of the error.
            scores: Predictions, clamped to [0, 1] to find their tenth.
            outcomes: What was measured, of the same shape; NaN where nothing was.
        """
        gap = scores.detach() - outcomes
        tenth = (scores.detach() * N_TENTHS).long().clamp(0, N_TENTHS - 1)
        for index in range(N_TENTHS):
            self.note(f"{name}{_TENTH}{index}", gap[tenth == index])

    def add(self, other: MetricSums) -> None:
        """Add another one."""
        for name, (total, count) in other.values.items():
            mine = self.values.get(name, (0.0, 0.0))
            self.values[name] = mine[0] + total, mine[1] + count

    def over_ranks(self, rank: Rank) -> MetricSums:
        """The sum over all ranks, on every rank."""
        total = MetricSums()
        for values in rank.gather(self.values):
            total.add(MetricSums(values))
        return total

    def means(self, prefix: str = "") -> dict[str, float]:
        """The mean of each name that has a value; of gaps, the mean over their tenths."""
        sums: dict[str, tuple[float, float]] = {}
        for name, (total, count) in self.values.items():
            whole, is_gap, _ = name.partition(_TENTH)
            before = sums.get(whole, (0.0, 0.0))
            sums[whole] = before[0] + (abs(total) if is_gap else total), before[1] + count
        return {f"{prefix}{name}": total / count for name, (total, count) in sums.items() if count}
