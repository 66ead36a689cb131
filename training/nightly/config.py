"""What a night does, checked as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from adaptation.config import Count, one_of, range_mistakes
from training.runtime.config import NO_JOURNAL

CANDIDATES = ("dpo", "sft")
STARTS = ("embedded", "current")


@dataclass(frozen=True, kw_only=True)
class NightlyConfig:
    """What a night depends on; configs/nightly.yaml says what each value does."""

    journal: str = ""
    album: Path = Path(".strop/images")
    work: Path = Path("runs/nightly")
    registry: Path = Path(".strop/registry")
    min_new_objects: Count = 20
    candidates: tuple[str, ...] = CANDIDATES
    calibrated: bool = True
    start: Annotated[str, one_of(STARTS)] = "embedded"
    gate_sets: tuple[str, ...] = ()
    guard_sets: tuple[str, ...] = ()
    use_held_out: bool = True
    model: str = "compact"
    checkpoint: Path | None = None
    models_dir: Path = Path("models")
    preferences: Path | None = None
    sft: Path | None = None
    dpo: Path | None = None
    calibrate: Path | None = None
    gate: Path | None = None

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = range_mistakes(self)
        if not self.journal:
            found.append(NO_JOURNAL)
        unknown = sorted(set(self.candidates) - set(CANDIDATES))
        if unknown or not self.candidates:
            found.append(f"candidates must be some of {', '.join(CANDIDATES)}")
        if not self.use_held_out and not self.gate_sets:
            found.append("give gate_sets, or use_held_out: nothing would decide otherwise")
        return found
