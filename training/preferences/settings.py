"""What a preferences folder depends on; configs/preferences.yaml says what each value does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adaptation.learning.guard import GuardSettings
from training.runtime.config import NO_JOURNAL


@dataclass(frozen=True, kw_only=True)
class OutcomeSettings:
    """Candidates ranked by their IoU with the submitted mask.

    Args:
        is_on: Whether pairs and ranked lists are made of them.
        margin: IoU by which the better mask of a pair is ahead at least.
        most_per_prompt: Pairs of one prompt, those of the worst masks first.
        submitted: The submitted mask itself is the best of every prompt.
    """

    is_on: bool = True
    margin: float = 0.05
    most_per_prompt: int = 3
    submitted: bool = False


@dataclass(frozen=True, kw_only=True)
class CorrectionPairSettings:
    """The submitted mask against the one that was shown before a correction.

    Args:
        is_on: Whether pairs are made of them.
        margin: IoU that the shown mask lacks at least.
        reach: How far beside an error a click may lie and still mean it, as a share of the
            image's longer side (three pixels at least).
        edits: Changes that were painted by hand count as corrections too.
    """

    is_on: bool = True
    margin: float = 0.02
    reach: float = 0.01
    edits: bool = True


@dataclass(frozen=True, kw_only=True)
class ChoiceSettings:
    """One of several suggestions that were shown at once was accepted.

    Args:
        is_on: Whether pairs are made of them.
        margin: 1 - IoU of the two masks at least: between nearly equal ones nobody chooses.
    """

    is_on: bool = True
    margin: float = 0.05


@dataclass(frozen=True, kw_only=True)
class RankingSettings:
    """Lists that people ranked in a project made for it.

    Args:
        is_on: Whether pairs and ranked lists are made of them.
        most_per_prompt: Pairs of one list, those of the worst masks first.
    """

    is_on: bool = True
    most_per_prompt: int = 3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Finished objects that are taken for slips; see `adaptation.learning.guard.GuardSettings`."""

    largest_share: float = 0.9
    agreement: float = 0.8
    least_overlap: float = 0.2

    def as_guard(self) -> GuardSettings:
        """The same for the guard."""
        return GuardSettings(
            largest_share=self.largest_share,
            agreement=self.agreement,
            least_overlap=self.least_overlap,
        )


@dataclass(frozen=True, kw_only=True)
class PreferencesConfig:
    """Everything that a preferences folder depends on."""

    journal: str = ""
    album: Path
    out: Path
    project: str | None = None
    seed: int = 0
    val_share: float = 0.1
    outcome: OutcomeSettings = field(default_factory=OutcomeSettings)
    correction: CorrectionPairSettings = field(default_factory=CorrectionPairSettings)
    choice: ChoiceSettings = field(default_factory=ChoiceSettings)
    ranking: RankingSettings = field(default_factory=RankingSettings)
    limits: Limits = field(default_factory=Limits)
    sheet_pairs: int = 48
    replace: bool = False

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        shares = {
            "outcome.margin": self.outcome.margin,
            "correction.margin": self.correction.margin,
            "correction.reach": self.correction.reach,
            "choice.margin": self.choice.margin,
            "limits.largest_share": self.limits.largest_share,
            "limits.agreement": self.limits.agreement,
            "limits.least_overlap": self.limits.least_overlap,
            "val_share": self.val_share,
        }
        found = [
            f"{name} must lie between 0 and 1, got {value}"
            for name, value in shares.items()
            if not 0 <= value <= 1
        ]
        counts = {
            "outcome.most_per_prompt": self.outcome.most_per_prompt,
            "ranking.most_per_prompt": self.ranking.most_per_prompt,
        }
        found += [f"{name} must be 1 or more" for name, value in counts.items() if value < 1]
        if self.sheet_pairs < 0:
            found.append("sheet_pairs must not be negative; 0 makes an empty sheet")
        if not self.journal:
            found.append(NO_JOURNAL)
        return found
