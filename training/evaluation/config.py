"""What an evaluation depends on, checked as a whole, and the command that asks for it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaptation.predictor.guided_filter import EdgeSettings
from adaptation.predictor.zoom import ZoomSettings
from adaptation.simulation.annotator import CLICKERS, PROMPTS, Rules
from training.evaluation.harness import Mode

ADAPT = ("none", "online", "both", "seed")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What an evaluation depends on; configs/evaluate.yaml says what each value does."""

    data: Path
    part: str = ""
    model: str = "compact"
    checkpoint: Path | None = None
    base: Path | None = None
    adapter: Path | None = None
    models_dir: Path = Path("models")
    device: str = "cpu"
    prompts: str = "clicks"
    correct: bool = True
    adapt: str = "none"
    objects: int | None = 100
    seed: int = 0
    orders: int = 3
    sessions: int = 1
    keep_groups: bool = True
    clicker: str = "central"
    max_clicks: int = 30
    target: float = 0.90
    zoom: ZoomSettings = field(default_factory=ZoomSettings)
    edges: EdgeSettings = field(default_factory=EdgeSettings)
    learner: Path | None = None
    think: int = 1
    workers: int = 1
    threads: int = 1
    cache: Path | None = Path("runs/embeddings")
    cache_gb: float = 8.0
    out: Path | None = None

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = [
            f"{name} must be one of {', '.join(known)}, got {value!r}"
            for name, value, known in (
                ("prompts", self.prompts, PROMPTS),
                ("clicker", self.clicker, CLICKERS),
                ("adapt", self.adapt, ADAPT),
            )
            if value not in known
        ]
        counts = ("orders", "sessions", "max_clicks", "workers", "threads")
        found += [f"{name} must be 1 or more" for name in counts if getattr(self, name) < 1]
        if self.objects is not None and self.objects < 1:
            found.append("objects must be 1 or more, or empty for all of them")
        if not 0 < self.target <= 1:
            found.append(f"target is an IoU above 0 and at most 1, got {self.target}")
        if self.cache_gb <= 0:
            found.append("cache_gb must be above 0; leave cache empty to cache nothing")
        if self.seed < 0 or self.think < 0:
            found.append("seed and think must not be negative")
        return found

    def rules(self) -> Rules:
        """How the annotator behaves."""
        return Rules(
            prompts=self.prompts,
            clicker=self.clicker,
            max_clicks=self.max_clicks,
            target=self.target,
            seed=self.seed,
        )

    @property
    def modes(self) -> tuple[Mode, ...]:
        """What is run."""
        if self.adapt in ("both", "seed"):
            return "frozen", "adapted"
        return ("frozen",) if self.adapt == "none" else ("adapted",)

    def options(self) -> dict[str, Any]:
        """Command-line options of everything that affects results and is not the default."""
        flags: dict[str, dict[Any, dict[str, Any]]] = {
            "zoom.is_on": {False: {"no-zoom": True}},
            "edges.is_on": {False: {"no-edges": True}},
            "correct": {False: {"plain": True}},
            "keep_groups": {False: {"shuffle": True}},
            "objects": {None: {"all-objects": True}},
        }
        found: dict[str, Any] = {"data": self.data}
        for key, value in self._changed().items():
            as_flag = flags.get(key, {}).get(value)
            found.update(as_flag or {key.replace("_", "-"): value})
        return found

    def _changed(self) -> dict[str, Any]:
        """Values that differ from their defaults, nested ones by their dotted names."""
        without_effect = {"data", "models_dir", "workers", "threads", "cache", "cache_gb", "out"}
        plain = type(self)(data=self.data)
        changed = {
            name: value
            for name, value in _flat(self).items()
            if value != _flat(plain)[name] and name not in without_effect
        }
        return changed


def _flat(config: EvaluateConfig) -> dict[str, Any]:
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    for part in ("zoom", "edges"):
        nested = dataclasses.asdict(values.pop(part))
        values.update({f"{part}.{name}": value for name, value in nested.items()})
    return values
