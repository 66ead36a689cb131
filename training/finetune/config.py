"""What tuning depends on: the model, the data, the optimiser, the run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from adaptation.config import Count, Share, one_of, range_mistakes
from adaptation.learning.adapter import SUBSETS
from adaptation.predictor.settings import ZoomSettings
from training.runtime.config import as_dict

WITHOUT_EFFECT = frozenset(
    {
        "run",
        "models_dir",
        "album",
        "processes",
        "threads",
        "micro_batch",
        "log_every",
        "save_every_minutes",
        "cache",
        "cache_gb",
        "mixed_precision",
        "compile",
        "device",
    }
)
"""Keys that do not change what a run learns, but for the order in which floats are added."""


TUNED = ("sft", "dpo")
"""Stages of a decoder that was tuned with masks."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where a decoder and what it learns from come from, and where the work is done."""

    run: Path = Path("runs/tuning")
    model: str = "compact"
    checkpoint: Path | None = None
    models_dir: Path = Path("models")
    base: Path | None = None
    preferences: tuple[Path, ...] = ()
    album: Path | None = None
    seed: NonNegativeInt = 0
    max_unusable: Share = 0.1
    threads: Count = 1
    device: str = "auto"
    cache: Path = Path("runs/embeddings")
    cache_gb: PositiveFloat = 20.0
    zoom: ZoomSettings = field(default_factory=ZoomSettings)

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = range_mistakes(self)
        if self.base is not None and not self.base.is_file():
            found.append(f"base must be a file that a tuning run wrote, got {self.base}")
        if self.preferences and self.album is None:
            found.append("album must name the folder of the images that the preferences are about")
        found += [
            f"preferences must be folders made by `strop-train preferences`, got {folder}"
            for folder in self.preferences
            if not folder.is_dir()
        ]
        return found

    def identity(self) -> dict[str, Any]:
        """What the result depends on, as plain values; paths are told by what they hold."""
        paths = {f.name for f in dataclasses.fields(self) if _is_path(getattr(self, f.name))}
        values = as_dict(self)
        return {k: v for k, v in values.items() if k not in WITHOUT_EFFECT and k not in paths}

    def torch_device(self, local_index: int) -> str:
        """The device of one of a machine's ranks; with several GPUs each rank has its own."""
        if self.device != "auto":
            return self.device
        n_gpus = torch.cuda.device_count()
        return f"cuda:{local_index % n_gpus}" if n_gpus else "cpu"


@dataclass(frozen=True, kw_only=True)
class ObjectsConfig(SourceConfig):
    """Which objects with known masks, besides those of the preferences folders."""

    data: Path | None = None
    sets: tuple[str, ...] = ()
    objects: int | None = None
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = super().mistakes()
        if bool(self.sets) != (self.data is not None):
            found.append("data and sets go together: a folder, and the names of sets in it")
        if not self.sets and not self.preferences:
            found.append("give sets (with data) or preferences (with album) to train on")
        if self.objects is not None and self.objects < 1:
            found.append("objects must be 1 or more, or empty for all of them")
        return found


@dataclass(frozen=True, kw_only=True)
class TuningConfig(SourceConfig):
    """The part of a config that SFT and DPO share; configs/sft.yaml says what each value does."""

    steps: int | None = None
    epochs: PositiveFloat = 4.0
    batch: Count = 16
    micro_batch: Count = 4
    subset: Annotated[str, one_of(tuple(SUBSETS))] = "all"
    lr: PositiveFloat = 1e-4
    weight_decay: NonNegativeFloat = 1e-4
    warmup_steps: NonNegativeInt = 10
    clip: PositiveFloat = 1.0
    log_every: Count = 5
    eval_every: Count = 50
    save_every_minutes: PositiveFloat = 3.0
    processes: Count = 1
    mixed_precision: bool = True
    compile: bool = True

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = super().mistakes()
        if self.steps is not None and self.steps < 1:
            found.append("steps must be 1 or more, or empty to count in epochs")
        if self.batch < self.processes:
            found.append(
                f"batch must give each of the {self.processes} processes an example, "
                f"got {self.batch}"
            )
        return found

    def n_steps(self, n_items: int) -> int:
        """Optimiser steps of the run over so many training items."""
        if self.steps is not None:
            return self.steps
        return max(1, math.ceil(self.epochs * n_items / self.batch))

    def learning_rate(self, step: int, n_steps: int) -> float:
        """Rate of a step: linear warm-up, then a half cosine down to 1 % of `lr`."""
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / n_steps))
        return self.lr * warmup * fall


def _is_path(value: object) -> bool:
    items = value if isinstance(value, tuple) and value else (value,)
    return all(isinstance(item, Path) for item in items)
