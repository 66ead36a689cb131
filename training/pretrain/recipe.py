"""Pretrain the compact model: photographs, made-up images, simulated annotators.

Assumes the data sets of the config below one data folder and the `training` extra installed.
Supports any number of processes on one machine (`processes: 2`) or several (`torchrun`), a GPU or
none, and resuming: the same command goes on from the run's last checkpoint.  With `max_steps` a
run is determined by the seed, whatever the number of ranks (but for the order in which floats are
added); with `max_minutes` the learning rate follows the clock instead.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from segment_anything.modeling import Sam
from torch import Tensor, nn
from tqdm import tqdm

from adaptation.errors import SettingsError, StropError
from adaptation.models.compact.model import DEFAULT_WEIGHTS, build_compact, load_compact
from adaptation.storage.datasets import FolderSet, held_out_stems, open_sets
from adaptation.storage.digests import file_sha256
from adaptation.storage.files import write_text
from adaptation.storage.provenance import commit
from adaptation.types import STRIDE
from training.pretrain.arguments import EMBEDDED, parse_arguments
from training.pretrain.config import PretrainConfig, draw_plan, learning_rate
from training.pretrain.episode import Episode, EpisodeReport, Plan
from training.pretrain.export import WeightAverage, export_weights, plot_log
from training.pretrain.imagenet import import_imagenet_weights
from training.pretrain.packing import pack, unpack
from training.pretrain.synthesis import Composer
from training.pretrain.validation import ValidationConfig, Watch
from training.pretrain.windows import SYNTHETIC, SceneSource, WindowSampler
from training.runtime.checkpoints import (
    BEST,
    CHECKPOINT,
    LOG,
    append_log,
    cut_log,
    load_checkpoint,
    save_checkpoint,
)
from training.runtime.config import as_dict, load_config
from training.runtime.distributed import Rank, run_ranks

logger = logging.getLogger(__name__)


class Pretraining:
    """One rank's run: `setup` on construction, then `train`."""

    def __init__(self, config: PretrainConfig, rank: Rank) -> None:
        self._config, self._rank = config, rank
        self._device = device_of(rank)
        torch.manual_seed(config.seed)
        self._sam = build_compact(input_size=config.model.input_size, dim=config.model.dim)
        path = config.run / CHECKPOINT
        self._origin = "" if path.is_file() else begin(self._sam, config)
        self._sam.to(self._device)
        self._optimizer = make_optimizer(self._sam, config)
        self._average = WeightAverage(self._sam, config.ema_decay)
        self._sampler = make_sampler(config)
        self._step, self._spent_s = 0, 0.0
        self._watch = Watch(config.data, config.validation, rank)
        if path.is_file():
            self._resume(load_checkpoint(path))
        self._started = self._saved = time.monotonic()
        self._reports: list[EpisodeReport] = []

    @property
    def progress(self) -> float:
        """How much of the run is done, from 0 to 1, alike on every rank."""
        config, done = self._config, []
        if config.max_steps is not None:
            done.append(self._step / config.max_steps)
        if config.max_minutes is not None:
            elapsed_s = self._rank.gather(self._elapsed_s())[0]
            done.append(elapsed_s / (60 * config.max_minutes))
        return min(1.0, max(done))

    def train(self) -> None:
        """Train until the steps or the minutes are used up."""
        bar = tqdm(total=100, unit="%", mininterval=20, disable=not self._rank.is_first)
        while (progress := self.progress) < 1 and not self._watch.is_over:
            self._reports.extend(self.step(progress))
            if self._rank.is_first and self._step % self._config.log_every == 0:
                self._log()
                bar.n = round(100 * progress, 1)
                bar.set_postfix(step=self._step, refresh=False)
                bar.update(0)
            self._validate()
            if time.monotonic() - self._saved > 60 * self._config.save_every_minutes:
                self.save()
        bar.close()
        self._validate(is_last=True)
        self.save()

    def step(self, progress: float) -> list[EpisodeReport]:
        """One optimiser step over this rank's share of the windows."""
        config = self._config
        plan = draw_plan(config, progress, np.random.default_rng([config.seed, self._step]))
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * learning_rate(progress, self._step, config)
        self._optimizer.zero_grad(set_to_none=True)
        turns = self._rank.turns(range(config.windows_per_step))
        reports = [self._play(plan, index) for index in turns]
        self._average_gradients()
        norm = nn.utils.clip_grad_norm_(self._sam.parameters(), config.clip)
        if torch.isfinite(norm):
            self._optimizer.step()
            self._average.update(self._sam, self._step)
        else:
            logger.warning("step %d has no finite gradient and is skipped", self._step)
        self._step += 1
        return reports

    def _average_gradients(self) -> None:
        """Replace every gradient by its mean over the windows of all ranks."""
        parameters = [p for p in self._sam.parameters() if p.requires_grad]
        self._rank.sum_gradients(parameters)
        for parameter in parameters:
            assert parameter.grad is not None
            parameter.grad /= self._config.windows_per_step

    def _play(self, plan: Plan, index: int) -> EpisodeReport:
        """Add the gradients of the step's window number `index`, whichever rank it falls to."""
        config = self._config
        rng = np.random.default_rng([config.seed, self._step, 1 + index])
        window = self._sampler.sample(plan.window_size, plan.max_objects, rng)
        return Episode(self._sam, window, plan, config.loss, rng, device=self._device).run()

    def save(self) -> None:
        """Write the checkpoint and the curves (first rank only)."""
        self._saved = time.monotonic()
        if not self._rank.is_first:
            return
        content = {
            "model": self._sam.state_dict(),
            "ema": self._average.weights,
            "optimizer": self._optimizer.state_dict(),
            "step": self._step,
            "spent_s": self._elapsed_s(),
            "config": as_dict(self._config),
            "origin": self._origin,
            "validation": self._watch.state,
        }
        save_checkpoint(self._config.run / CHECKPOINT, content)
        if (self._config.run / LOG).is_file():
            plot_log(self._config.run / LOG, self._config.run / "curves.png")

    def _resume(self, checkpoint: dict[str, Any]) -> None:
        self._sam.load_state_dict(checkpoint["model"])
        self._average.weights = {k: v.to(self._device) for k, v in checkpoint["ema"].items()}
        self._optimizer.load_state_dict(checkpoint["optimizer"])
        self._step, self._spent_s = checkpoint["step"], checkpoint["spent_s"]
        self._origin = checkpoint["origin"]
        self._watch.state = checkpoint["validation"]
        if self._rank.is_first:
            cut_log(self._config.run / LOG, self._step)
        logger.info("resumed at step %d", self._step)

    def _validate(self, *, is_last: bool = False) -> None:
        """Measure the averaged weights when it is time, and keep them if they are the best."""
        minutes = float("inf") if is_last else self._elapsed_s() / 60
        row = self._watch.look(self._sam, self._average.weights, minutes)
        if row is None:
            return
        row = {"step": self._step, "minutes": round(self._elapsed_s() / 60, 2), **row}
        append_log(self._config.run / LOG, row)
        if self._watch.state["since_best"] == 0:
            best = {"ema": self._average.weights, "step": self._step}
            save_checkpoint(self._config.run / BEST, best)

    def _elapsed_s(self) -> float:
        return self._spent_s + time.monotonic() - self._started

    def _log(self) -> None:
        row: dict[str, object] = {
            "step": self._step,
            "minutes": round(self._elapsed_s() / 60, 2),
            "lr": self._optimizer.param_groups[0]["lr"],
            **summarise(self._reports),
        }
        append_log(self._config.run / LOG, row)
        self._reports.clear()


def device_of(rank: Rank) -> torch.device:
    """A GPU where there is one; several ranks may share it."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", rank.local_index % torch.cuda.device_count())


def begin(sam: Sam, config: PretrainConfig) -> str:
    """Give a new run its first weights; returns where they came from."""
    if config.start is not None:
        sam.load_state_dict(load_compact(config.start).state_dict())
        return f"{config.start.name}, sha256 {file_sha256(config.start)}"
    if config.imagenet:
        import_imagenet_weights(sam.image_encoder.trunk)
        return "EfficientNet-Lite0, ImageNet"
    return "random"


def make_optimizer(sam: Sam, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW with a lower rate for the trunk, which starts from ImageNet."""
    trunk = list(sam.image_encoder.trunk.parameters())
    known = {id(p) for p in trunk}
    rest = [p for p in sam.parameters() if id(p) not in known]
    groups = [
        {"params": rest, "lr": config.lr, "base_lr": config.lr},
        {
            "params": trunk,
            "lr": config.lr * config.trunk_lr_scale,
            "base_lr": config.lr * config.trunk_lr_scale,
        },
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=config.weight_decay)


def make_sampler(config: PretrainConfig) -> WindowSampler:
    """Open the data sets of the config, without what is kept for validation."""
    names = [name for name in config.drawn if name != SYNTHETIC]
    sources = {
        name: SceneSource(dataset, left_out=left_out(dataset, config.validation))
        for name, dataset in zip(names, open_sets(config.data, names), strict=True)
    }
    return WindowSampler(
        sources=sources,
        composer=Composer(sources[config.photographs]),
        shares=config.drawn,
        merging=frozenset(config.merging),
        frame_size=config.model.input_size,
    )


def left_out(dataset: FolderSet, validation: ValidationConfig) -> frozenset[str]:
    """The stems of a set of the shares that are kept for validation."""
    if dataset.name not in validation.groups_of:
        return frozenset()
    return held_out_stems(dataset, validation.share)


def summarise(reports: Iterable[EpisodeReport]) -> dict[str, float]:
    """Means over the episodes since the last row of the log.

    Returns:
        Loss; `iou@k`, IoU after 1, 2, 3-4, 5-8 and 9 or more clicks, of episodes that begin from
        nothing; `gain@k`, what a corrective click added, and `far@k`, the share of the pixels far
        from it that it changed; `before@mend`, `gain@mend` and `far@mend`, the same of the first
        click of episodes that begin from good masks; and the share of clicks obeyed.
    """
    reports = list(reports)
    bins: dict[str, list[float]] = {}
    for report in reports:
        for n_clicks, iou in () if report.mends else report.rounds:
            bins.setdefault(f"iou@{_bin(n_clicks)}", []).append(iou)
        for correction in report.corrections[:1] if report.mends else report.corrections:
            name = f"@{_bin(correction.n_clicks)}"
            if report.mends:
                name = "@mend"
                bins.setdefault("before@mend", []).append(correction.before)
            bins.setdefault(f"gain{name}", []).append(correction.after - correction.before)
            bins.setdefault(f"far{name}", []).append(correction.far_changed)
    obeyed = [value for report in reports for value in report.obeyed]
    row = {name: round(float(np.mean(values)), 4) for name, values in sorted(bins.items())}
    row["loss"] = round(float(np.mean([r.loss for r in reports])), 4)
    row["obeyed"] = round(float(np.mean(obeyed)), 4) if obeyed else 1.0
    row["objects"] = sum(r.n_objects for r in reports)
    return row


def _bin(n_clicks: int) -> int:
    """The smallest number of clicks of the bin that a number of clicks falls into."""
    return max(start for start in (0, 1, 2, 3, 5, 9) if start <= n_clicks)


def run(config: PretrainConfig) -> None:
    """Train with the ranks that `torchrun` started, or with `processes` of our own."""
    config.run.mkdir(parents=True, exist_ok=True)
    if config.data.is_file():
        config = replace(config, data=unpack(config.data, config.run / "data"))
    write_text(config.run / "config.yaml", yaml.safe_dump(as_dict(config)))
    run_ranks(_train, config, config.processes)


def _train(config: PretrainConfig, rank: Rank) -> None:
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)
    Pretraining(config, rank).train()


def export(run_folder: Path, target: Path, blend: float = 0.0) -> str:
    """Write a run's averaged weights as the file that `load_compact` reads.

    Args:
        run_folder: Of the run.
        target: The file.
        blend: Share of the weights that the run started from: a later stage of training forgets
            some of what helps on other domains, and the mean of both keeps most of either
            (Wortsman et al. 2022, arXiv 2109.01903).

    Returns:
        The SHA-256 digest of the weights.

    Raises:
        StropError: There is no run, or nothing to blend with.
    """
    checkpoint = load_checkpoint(run_folder / CHECKPOINT)
    config = checkpoint["config"]
    metadata = {
        "model": "strop-compact",
        "input_size": str(config["model"]["input_size"]),
        "dim": str(config["model"]["dim"]),
        "stride": str(STRIDE),
        "recipe": "training/pretrain/recipe.py",
        "commit": commit(),
        "data": ", ".join(f"{n} {share:g}" for n, share in config["shares"].items() if share),
        "start": checkpoint["origin"],
        "seed": str(config["seed"]),
        "steps": str(checkpoint["step"]),
        "minutes": f"{checkpoint['spent_s'] / 60:.0f}",
    }
    weights: dict[str, Tensor] = checkpoint["ema"]
    if (run_folder / BEST).is_file():
        best = load_checkpoint(run_folder / BEST)
        weights, metadata["steps"] = best["ema"], str(best["step"])
    if blend:
        weights = _blended(weights, config["start"], blend)
        metadata["blend"] = f"{blend:g} of the start"
    return export_weights(weights, target, metadata)


def _blended(weights: dict[str, Tensor], start: str | None, share: float) -> dict[str, Tensor]:
    """Weighted mean of a run's weights and those that it started from."""
    if start is None or not 0 < share < 1:
        raise SettingsError(
            f"A blend takes a share between 0 and 1 of the weights that the run started from, got "
            f"{share} of {start}; only a run with start= has them."
        )
    given = load_compact(Path(start)).state_dict()
    return {
        name: value.lerp(given[name], share) if value.is_floating_point() else value
        for name, value in weights.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line: train, or export the averaged weights of a run; returns the exit code."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        config = load_config(PretrainConfig, options.config, options.overrides)
        if options.pack is not None:
            names = {*config.drawn, *config.validation.sets} - {SYNTHETIC}
            quality = pack(config.data, sorted(names), options.pack)
            logger.info("packed %d sets, images at quality %d", len(names), quality)
        elif options.export is None:
            run(config)
        else:
            path = DEFAULT_WEIGHTS if options.export == EMBEDDED else options.export
            logger.info("exported, sha256 %s", export(config.run, path, options.blend))
    except StropError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
