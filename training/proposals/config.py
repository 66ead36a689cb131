"""What measuring proposals depends on; configs/evaluate-*.yaml say what each value does."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adaptation.proposals.hybrid_prompts import HybridPrompts
from adaptation.proposals.mutual import MutualSettings

GENERATORS = ("saliency", "mutual")


@dataclass(frozen=True, kw_only=True)
class AnomalyConfig:
    """Of `strop-train evaluate-anomaly`."""

    data: Path
    model: str = "compact"
    checkpoint: Path | None = None
    models_dir: Path = Path("models")
    device: str = "cpu"
    generators: tuple[str, ...] = GENERATORS
    images: int | None = None
    feedback: int = 30
    seed: int = 0
    places: int = 12
    prompts: HybridPrompts = field(default_factory=HybridPrompts)
    mutual: MutualSettings = field(default_factory=MutualSettings)
    panels: int = 12
    cache: Path | None = Path("runs/embeddings")
    cache_gb: float = 8.0
    out: Path = Path("runs/evaluate-anomaly")

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        unknown = [name for name in self.generators if name not in GENERATORS]
        found = [f"generators must be of {', '.join(GENERATORS)}, got {n!r}" for n in unknown]
        if not self.generators:
            found.append("generators must name one at least")
        if self.images is not None and self.images < 2:
            found.append("images must be 2 or more, or empty for all of them")
        if min(self.feedback, self.panels, self.seed) < 0:
            found.append("feedback, panels and seed must not be negative")
        if self.places < 0:
            found.append("places must be 1 or more, or 0 to measure maps alone")
        return found


@dataclass(frozen=True, kw_only=True)
class SimilarConfig:
    """Of `strop-train evaluate-similar`."""

    data: Path
    model: str = "compact"
    checkpoint: Path | None = None
    models_dir: Path = Path("models")
    device: str = "cpu"
    finished: tuple[int, ...] = (1, 3, 5, 10)
    images: int = 10
    seed: int = 0
    places: int = 60
    min_score: float = 0.5
    zoom: bool = False
    cache: Path | None = Path("runs/embeddings")
    cache_gb: float = 8.0
    out: Path = Path("runs/evaluate-similar")

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = []
        if not self.finished or min(self.finished) < 1:
            found.append("finished must be numbers of objects, 1 or more")
        if min(self.images, self.places) < 1:
            found.append("images and places must be 1 or more")
        if not 0 <= self.min_score <= 1:
            found.append(f"min_score is a probability, got {self.min_score}")
        return found
