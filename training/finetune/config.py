"""What tuning depends on: the model, the data, the optimiser, the run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adaptation.learning.adapter import SUBSETS
from adaptation.predictor.zoom import ZoomSettings
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
    seed: int = 0
    max_unusable: float = 0.1
    threads: int = 1
    device: str = "auto"
    cache: Path = Path("runs/embeddings")
    cache_gb: float = 20.0
    zoom: ZoomSettings = field(default_factory=ZoomSettings)

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = []
        if self.threads < 1:
            found.append("threads must be 1 or more")
        if self.cache_gb <= 0:
            found.append("cache_gb must be above 0")
        if self.seed < 0:
            found.append("seed must not be negative")
        if not 0 <= self.max_unusable <= 1:
            found.append("max_unusable is a share between 0 and 1")
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
    held_out: float = 0.2

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = super().mistakes()
        if bool(self.sets) != (self.data is not None):
            found.append("data and sets go together: a folder, and the names of sets in it")
        if not self.sets and not self.preferences:
            found.append("give sets (with data) or preferences (with album) to train on")
        if self.objects is not None and self.objects < 1:
            found.append("objects must be 1 or more, or empty for all of them")
        if not 0 < self.held_out < 1:
            found.append("held_out is a share above 0 and below 1")
        return found


@dataclass(frozen=True, kw_only=True)
class TuningConfig(SourceConfig):
    """The part of a config that SFT and DPO share; configs/sft.yaml says what each value does."""

    steps: int | None = None
    epochs: float = 4.0
    batch: int = 16
    micro_batch: int = 4
    subset: str = "all"
    lr: float = 1e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 10
    clip: float = 1.0
    log_every: int = 5
    eval_every: int = 50
    save_every_minutes: float = 3.0
    processes: int = 1
    mixed_precision: bool = True
    compile: bool = True

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = super().mistakes()
        found += [
            f"{name} must be 1 or more"
            for name in ("batch", "micro_batch", "log_every", "eval_every", "processes")
            if getattr(self, name) < 1
        ]
        found += [
            f"{name} must be above 0"
            for name in ("epochs", "lr", "clip", "save_every_minutes")
            if getattr(self, name) <= 0
        ]
        found += [
            f"{name} must not be negative"
            for name in ("weight_decay", "warmup_steps")
            if getattr(self, name) < 0
        ]
        if self.steps is not None and self.steps < 1:
            found.append("steps must be 1 or more, or empty to count in epochs")
        if self.batch < self.processes:
            found.append(
                f"batch must give each of the {self.processes} processes an example, "
                f"got {self.batch}"
            )
        if self.subset not in SUBSETS:
            found.append(f"subset must be one of {', '.join(SUBSETS)}, got {self.subset!r}")
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
