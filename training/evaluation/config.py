"""What an evaluation depends on, checked as a whole, and the command that asks for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt

from adaptation.config import Count, one_of, range_mistakes
from adaptation.predictor.settings import EdgeSettings, ZoomSettings
from adaptation.simulation.annotator import CLICKERS, PROMPTS, Rules
from training.evaluation.harness import Mode

ADAPT = ("none", "online", "both", "weights", "scores", "seed")
"""What is run: the frozen decoder, what learns, or both on the same objects.  `weights` learns the
decoder's weights alone, `scores` only which of the masks offered for a lone click is meant."""

ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "": {},
    "scores": {"trust": {"scores": False}},
    "weights": {"steps": 0, "think_steps": 0},
    "trust": {"trust": {"is_on": False}},
    "errors": {"trust": {"n_errors": 0.0}},
    "replay": {"replay": 1, "batch": 1},
    "correction": {"correction": {"is_on": False}},
}
"""Parts of the learner that can be left out, and the settings that do so."""

LEFT_OUT = {"weights": ("scores",), "scores": ("weights",)}
"""What `adapt` leaves out by itself."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What an evaluation depends on; configs/evaluate.yaml says what each value does."""

    data: Path
    part: str = ""
    model: str = "compact"
    checkpoint: Path | None = None
    encoder: Path | None = None
    base: Path | None = None
    adapter: Path | None = None
    models_dir: Path = Path("models")
    device: str = "cpu"
    prompts: Annotated[str, one_of(PROMPTS)] = "clicks"
    correct: bool = True
    adapt: Annotated[str, one_of(ADAPT)] = "none"
    ablate: Annotated[str, one_of(tuple(ABLATIONS))] = ""
    objects: int | None = 100
    seed: NonNegativeInt = 0
    orders: Count = 3
    sessions: Count = 1
    keep_groups: bool = True
    clicker: Annotated[str, one_of(CLICKERS)] = "central"
    max_clicks: Count = 30
    target: Annotated[float, Field(gt=0, le=1)] = 0.90
    zoom: ZoomSettings = field(default_factory=ZoomSettings)
    edges: EdgeSettings = field(default_factory=EdgeSettings)
    learner: Path | None = None
    think: NonNegativeInt = 1
    workers: Count = 1
    threads: Count = 1
    cache: Path | None = Path("runs/embeddings")
    cache_gb: float = 8.0
    out: Path | None = None

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = range_mistakes(self)
        if self.objects is not None and self.objects < 1:
            found.append("objects must be 1 or more, or empty for all of them")
        if self.cache_gb <= 0:
            found.append("cache_gb must be above 0; leave cache empty to cache nothing")
        if self.ablate and self.adapt in ("none", "seed"):
            found.append(
                f"ablate leaves out a part of the learner, and adapt {self.adapt} has none"
            )
        return found

    def left_out(self) -> tuple[str, ...]:
        """Parts of the learner that are left out."""
        return (*LEFT_OUT.get(self.adapt, ()), *([self.ablate] if self.ablate else []))

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
        if self.adapt in ("none", "online"):
            return ("frozen",) if self.adapt == "none" else ("adapted",)
        return "frozen", "adapted"

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
