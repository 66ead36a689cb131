"""What a preferences folder depends on; configs/preferences.yaml says what each value does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adaptation.config import Count, Share, range_mistakes
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
    margin: Share = 0.05
    most_per_prompt: Count = 3
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
    margin: Share = 0.02
    reach: Share = 0.01
    edits: bool = True


@dataclass(frozen=True, kw_only=True)
class ChoiceSettings:
    """One of several suggestions that were shown at once was accepted.

    Args:
        is_on: Whether pairs are made of them.
        margin: 1 - IoU of the two masks at least: between nearly equal ones nobody chooses.
    """

    is_on: bool = True
    margin: Share = 0.05


@dataclass(frozen=True, kw_only=True)
class RankingSettings:
    """Lists that people ranked in a project made for it.

    Args:
        is_on: Whether pairs and ranked lists are made of them.
        most_per_prompt: Pairs of one list, those of the worst masks first.
    """

    is_on: bool = True
    most_per_prompt: Count = 3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Finished objects that are taken for slips; see `adaptation.learning.guard.GuardSettings`."""

    largest_share: Share = 0.9
    agreement: Share = 0.8
    least_overlap: Share = 0.2

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
    val_share: Share = 0.1
    outcome: OutcomeSettings = field(default_factory=OutcomeSettings)
    correction: CorrectionPairSettings = field(default_factory=CorrectionPairSettings)
    choice: ChoiceSettings = field(default_factory=ChoiceSettings)
    ranking: RankingSettings = field(default_factory=RankingSettings)
    limits: Limits = field(default_factory=Limits)
    sheet_pairs: int = 48
    replace: bool = False

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = range_mistakes(self)
        if self.sheet_pairs < 0:
            found.append("sheet_pairs must not be negative; 0 makes an empty sheet")
        if not self.journal:
            found.append(NO_JOURNAL)
        return found
