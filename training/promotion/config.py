"""What the gate asks of a candidate, checked as a whole."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from adaptation.config import Count, one_of, range_mistakes
from adaptation.models.registry import DEFAULT_FOLDER
from adaptation.predictor.settings import EdgeSettings, ZoomSettings
from adaptation.simulation.annotator import CLICKERS
from adaptation.simulation.metrics import Metric
from training.evaluation.config import EvaluateConfig

_NAMES = re.compile(r"(?:(mIoU|Dice)@(\d+)|NoC(\d+)@(\d+(?:\.\d+)?))")


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """What the gate asks; configs/gate.yaml says what each value does."""

    registry: Path = DEFAULT_FOLDER
    gate_sets: tuple[str, ...] = ()
    guard_sets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("mIoU@3", "NoC20@90")
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    tolerance_percent: NonNegativeFloat = 1.0
    tolerance_clicks: NonNegativeFloat = 0.5
    min_objects: int = 30
    model: str = "compact"
    checkpoint: Path | None = None
    models_dir: Path = Path("models")
    device: str = "cpu"
    objects: int | None = 200
    seed: NonNegativeInt = 0
    clicker: Annotated[str, one_of(CLICKERS)] = "central"
    max_clicks: Count = 20
    target: Annotated[float, Field(gt=0, le=1)] = 0.90
    correct: bool = True
    zoom: ZoomSettings = field(default_factory=ZoomSettings)
    edges: EdgeSettings = field(default_factory=EdgeSettings)
    max_report_age_h: float = 24.0
    workers: Count = 1
    threads: Count = 1
    cache: Path | None = Path("runs/embeddings")
    cache_gb: float = 8.0
    out: Path = Path("runs/gate")

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = range_mistakes(self)
        if not self.gate_sets:
            found.append("gate_sets must name at least one data folder (--gate-set FOLDER)")
        twice = sorted(set(self.gate_sets) & set(self.guard_sets))
        if twice:
            found.append(f"{twice[0]} is a gate set and a guarded one; name it once")
        found += self._bad_metrics()
        if self.objects is not None and self.objects < 1:
            found.append("objects must be 1 or more, or empty for all of them")
        if self.min_objects < 6:
            found.append("min_objects must be 6 or more: five objects can show nothing")
        return found

    def _bad_metrics(self) -> list[str]:
        if not self.metrics:
            return ["metrics must name at least one, such as mIoU@3 or NoC20@90"]
        found = []
        for name in self.metrics:
            metric = parse_metric(name)
            if metric is None:
                found.append(
                    f"metrics: {name!r} is none; write mIoU@n or Dice@n for n clicks, or NoCk@t "
                    "for k clicks at most and a threshold t in percent"
                )
            elif not 1 <= metric.clicks <= self.max_clicks:
                found.append(f"metrics: {name} needs more clicks than max_clicks")
            elif metric.threshold > self.target:
                found.append(f"metrics: {name} lies above target, where the annotator stops")
        return found

    def parsed_metrics(self) -> list[Metric]:
        """The metrics of a config without mistakes."""
        return [metric for name in self.metrics if (metric := parse_metric(name)) is not None]

    def tolerance(self, metric: Metric) -> float:
        """How much worse a guarded metric may be, in its unit: percent, or clicks."""
        return self.tolerance_clicks if metric.kind == "noc" else self.tolerance_percent

    def evaluation(self, where: str, out: Path, base: Path | None) -> EvaluateConfig:
        """The evaluation of one decoder on one set.

        Args:
            where: The set, as `split_set` reads it.
            out: Its run folder.
            base: The decoder's file; None for the model's own.
        """
        data, part = split_set(where)
        return EvaluateConfig(
            data=data,
            part=part,
            model=self.model,
            checkpoint=self.checkpoint,
            base=base,
            models_dir=self.models_dir,
            device=self.device,
            correct=self.correct,
            objects=self.objects,
            seed=self.seed,
            orders=1,
            clicker=self.clicker,
            max_clicks=self.max_clicks,
            target=self.target,
            zoom=self.zoom,
            edges=self.edges,
            workers=self.workers,
            threads=self.threads,
            cache=self.cache,
            cache_gb=self.cache_gb,
            out=out,
        )


def split_set(where: str) -> tuple[Path, str]:
    """A data folder and a part of its split.json: "data/mtd:test", or "data/mtd" for all of it."""
    folder, _, part = where.partition(":")
    return Path(folder).expanduser(), part


def parse_metric(name: str) -> Metric | None:
    """A metric by its name in tables; None where that is none that the gate can use."""
    found = _NAMES.fullmatch(name)
    if found is None:
        return None
    overlap, steps, budget, percent = found.groups()
    if overlap is not None:
        return Metric("iou" if overlap == "mIoU" else "dice", int(steps))
    return Metric("noc", int(budget), float(percent) / 100)
