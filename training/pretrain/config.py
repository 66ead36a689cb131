"""What a pretraining run depends on, and what that says about each of its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.random import Generator

from adaptation.config import Share, range_mistakes
from training.pretrain.episode import LossWeights, Plan
from training.pretrain.validation import ValidationConfig

_LONG = 6
"""Corrections from which on a window shows half of its objects: such episodes are costly."""

_MOST_MENDING = 3
_MOST_EARLIER = 6


@dataclass(frozen=True, kw_only=True)
class WindowMix:
    """One kind of window and how often it comes.

    Args:
        size: Side in pixels, a multiple of 32, at most the model's input size.
        objects: Objects that share the window's encoding; higher costs memory.
        first_share, last_share: Its share at the start and at the end of the run.
    """

    size: int
    objects: int
    first_share: float
    last_share: float


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Size of the compact model."""

    input_size: int = 384
    dim: int = 128


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Everything that a pretraining run depends on; see configs/pretrain.yaml for the effects."""

    data: Path
    run: Path = Path("runs/pretrain")
    shares: dict[str, float] = field(default_factory=dict)
    merging: tuple[str, ...] = ()
    photographs: str = ""
    model: ModelConfig = ModelConfig()
    loss: LossWeights = LossWeights()
    windows: tuple[WindowMix, ...] = ()
    corrections: tuple[float, ...] = (1.0,)
    supervise: Share = 0.45
    supervised_rounds: float = 6.0
    boxes: Share = 0.12
    mends: Share = 0.0
    validation: ValidationConfig = ValidationConfig()
    seed: int = 0
    processes: int = 1
    threads: int = 1
    windows_per_step: int = 1
    imagenet: bool = True
    start: Path | None = None
    max_steps: int | None = None
    max_minutes: float | None = None
    lr: float = 1e-3
    trunk_lr_scale: float = 0.25
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    clip: float = 2.0
    ema_decay: float = 0.998
    log_every: int = 25
    save_every_minutes: float = 3.0

    @property
    def drawn(self) -> dict[str, float]:
        """The shares of what is drawn at all; 0 leaves out what another source of values names."""
        return {name: share for name, share in self.shares.items() if share > 0}

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = range_mistakes(self)
        if self.max_steps is None and self.max_minutes is None:
            found.append("max_steps or max_minutes must be set, or the run never ends")
        if not self.windows:
            found.append("windows must list at least one kind of window")
        for mix in self.windows:
            if mix.size % 32 or not 0 < mix.size <= self.model.input_size:
                found.append(
                    f"window size {mix.size} must be a multiple of 32, at most the input size"
                )
        if self.windows_per_step < self.processes:
            found.append(
                f"windows_per_step must give each of the {self.processes} processes a window, "
                f"got {self.windows_per_step}"
            )
        if self.start is not None and not self.start.is_file():
            found.append(f"start must be a file of weights to go on from, got {self.start}")
        if not self.drawn or min(self.shares.values()) < 0:
            found.append("shares must name at least one source, none with a negative share")
        if self.photographs not in self.drawn:
            found.append(f"photographs must be one of shares, got {self.photographs!r}")
        found += self.validation.mistakes(self.drawn)
        return found


def draw_plan(config: PretrainConfig, progress: float, rng: Generator) -> Plan:
    """What every rank does in one step."""
    shares = np.array(
        [m.first_share + (m.last_share - m.first_share) * progress for m in config.windows]
    )
    mix = config.windows[int(rng.choice(len(shares), p=shares / shares.sum()))]
    chances = np.array(config.corrections)
    n_corrections = int(rng.choice(len(chances), p=chances / chances.sum()))
    mends = bool(rng.random() < config.mends)
    if mends:
        n_corrections = min(n_corrections, _MOST_MENDING)
    has_boxes = not mends and bool(rng.random() < config.boxes)
    n_scattered = int(rng.integers(1, 4)) if rng.random() < 0.15 and not has_boxes else 0
    n_objects = mix.objects if n_corrections < _LONG else max(2, mix.objects // 2)
    return Plan(
        window_size=mix.size,
        max_objects=n_objects,
        supervised=_draw_supervised(n_corrections, config, rng),
        has_boxes=has_boxes,
        starts_with_click=not has_boxes or bool(rng.random() < 0.4),
        n_scattered=int(rng.integers(1, _MOST_EARLIER + 1)) if mends else n_scattered,
        starts_from_mask=mends,
    )


def _draw_supervised(
    n_corrections: int, config: PretrainConfig, rng: Generator
) -> tuple[bool, ...]:
    """Which rounds carry a loss: the last, the first often, of the others a few at most."""
    if n_corrections == 0:
        return (True,)
    n_between = n_corrections - 1
    chance = min(config.supervise, config.supervised_rounds / max(1, n_between))
    first = bool(rng.random() < config.supervise)
    between = (bool(v) for v in rng.random(n_between) < chance)
    return (first, *between, True)


def learning_rate(progress: float, step: int, config: PretrainConfig) -> float:
    """Factor on the learning rate: linear warm-up, then a half cosine down to 1 %."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warmup * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
