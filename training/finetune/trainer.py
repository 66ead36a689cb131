"""The loop that SFT and DPO share: steps on the decoder, and nothing that an interruption can hurt.

A run is its folder: `run.json` (what it depends on; another start in the same folder is refused),
`checkpoint.pt` (written atomically every few minutes), `log.jsonl`, `curves.png`, and at the end
`decoder.safetensors` and `report.json`.  The same command goes on from the last checkpoint with the
losses that it would have had.  Which examples a step sees, and what is drawn for each, depends on
the seed, the step and the example's place in it only: neither micro-batches nor ranks nor
interruptions change that.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from tqdm import tqdm

from adaptation.errors import StoreError
from adaptation.models.base_decoder import load_base
from adaptation.models.catalog import load_model
from adaptation.models.sam import PromptableSam
from adaptation.storage.provenance import commit
from training.evaluation.results import RunFolder
from training.finetune.config import SourceConfig, TuningConfig
from training.finetune.metrics import MetricSums
from training.finetune.policy import Policy
from training.finetune.prompt_cache import PromptCache
from training.finetune.report import RunSummary, write_checkpoint, write_result, write_row
from training.runtime.checkpoints import CHECKPOINT, LOG, cut_log, load_checkpoint
from training.runtime.distributed import Rank
from training.runtime.embedding_cache import CachedEncoder, EncodingStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pick:
    """One example's turn.

    Args:
        index: Of the training or validation item.
        rng: For what is drawn in this turn.
    """

    index: int
    rng: Generator


class Recipe(Protocol):
    """What is trained on, and what for."""

    stage: str
    n_train: int
    n_val: int

    def train(self, policy: Policy, picks: Sequence[Pick]) -> tuple[Tensor, MetricSums]:
        """The SUM of the picked training items' losses, with gradients, and what to report."""
        ...

    def validate(self, policy: Policy, picks: Sequence[Pick]) -> MetricSums:
        """What to report of the picked validation items; called without gradients."""
        ...

    def data(self) -> Mapping[str, Any]:
        """The items in numbers, and their digest; part of the run's identity."""
        ...

    def notes(self) -> Mapping[str, Any]:
        """What else belongs into the report."""
        ...


def open_model(config: SourceConfig, rank: Rank) -> PromptableSam:
    """The base model of a run, and this process's threads.

    Raises:
        ModelError: It, or the base file, cannot be used.
    """
    torch.set_num_threads(config.threads)
    cv2.setNumThreads(1)
    sam = load_model(
        config.model,
        config.models_dir,
        device=config.torch_device(rank.local_index),
        checkpoint=config.checkpoint,
        show_progress=rank.is_first,
    )
    return sam if config.base is None else load_base(config.base, sam)


def open_replayer(config: SourceConfig, sam: PromptableSam) -> PromptCache:
    """Replays and embeddings on the disk, shared by all runs with this cache."""
    encoder = CachedEncoder(sam, EncodingStore(config.cache, int(config.cache_gb * 1e9)))
    return PromptCache(sam, encoder, config.cache / "replays", config.zoom)


class Trainer:
    """One rank's run.

    Args:
        config: The optimiser and the run.
        sam: The base model.
        recipe: What is trained on.
        rank: This process.
        command: For the report.

    Raises:
        SettingsError: The run folder holds a run of something else.
        StoreError: Its checkpoint is damaged.
    """

    def __init__(
        self, config: TuningConfig, sam: PromptableSam, recipe: Recipe, rank: Rank, command: str
    ) -> None:
        self._config, self._recipe, self._rank, self._command = config, recipe, rank, command
        self.policy = Policy(sam, config.subset, mixed_precision=config.mixed_precision)
        if config.compile and sam.device.type == "cuda":
            sam.compile()
        self._optimizer = torch.optim.AdamW(
            self.policy.weights.values(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.n_steps = config.n_steps(recipe.n_train)
        self._step, self._spent_s, self._n_starts = 0, 0.0, 1
        self._pending = MetricSums()
        if rank.is_first:
            RunFolder(config.run, self.identity(), commit())
        self._resume(config.run / CHECKPOINT)
        self._started = self._saved = time.monotonic()

    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on, as plain values."""
        sam = self.policy.sam
        return {
            "stage": self._recipe.stage,
            "base": {
                "model_id": sam.model_id,
                "encoder_id": sam.encoder_id,
                "decoder_id": sam.decoder_id,
            },
            "data": dict(self._recipe.data()),
            "config": self._config.identity(),
        }

    def run(self) -> None:
        """Train until the steps are done, and write the result."""
        config = self._config
        if self._step == 0:
            self._evaluate()
        bar = tqdm(
            total=self.n_steps,
            initial=self._step,
            desc=self._recipe.stage,
            unit="step",
            disable=not self._rank.is_first,
        )
        while self._step < self.n_steps:
            self._pending.add(self.step())
            bar.update()
            if self._step % config.log_every == 0 or self._step == self.n_steps:
                bar.set_postfix(self._log(), refresh=False)
            if self._step % config.eval_every == 0 or self._step == self.n_steps:
                self._evaluate()
            if time.monotonic() - self._saved > 60 * config.save_every_minutes:
                self.save()
        bar.close()
        self.save()
        if self._rank.is_first:
            write_result(config.run, self.policy.sam, self.policy.decoder(), self._summary())

    def step(self) -> MetricSums:
        """One optimiser step; returns what it saw, summed over all ranks."""
        config, weights = self._config, list(self.policy.weights.values())
        rate = config.learning_rate(self._step, self.n_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        tally = self._accumulate()
        self._rank.sum_gradients(weights)
        norm = torch.nn.utils.clip_grad_norm_(weights, config.clip)
        if bool(norm.isfinite()):
            self._optimizer.step()
        else:
            logger.warning("step %d has no finite gradient and is skipped", self._step)
        self._step += 1
        tally = tally.over_ranks(self._rank)
        tally.note("grad_norm", norm[None])
        tally.note("learning_rate", torch.tensor([rate], dtype=torch.float64))
        return tally

    def _accumulate(self) -> MetricSums:
        """Gradients of this rank's share of the step's batch, as a mean over the whole batch."""
        tally = MetricSums()
        for picks in _in_pieces(self._rank.turns(self._picks()), self._config.micro_batch):
            loss, seen = self._recipe.train(self.policy, picks)
            torch.autograd.backward(loss / self._config.batch)
            tally.add(seen)
        return tally

    def _picks(self) -> list[Pick]:
        """The step's batch: the next items in the seeded order of each epoch."""
        seed, size, n_items = self._config.seed, self._config.batch, self._recipe.n_train
        picks = []
        for place in range(self._step * size, (self._step + 1) * size):
            epoch, position = divmod(place, n_items)
            order = np.random.default_rng([seed, epoch]).permutation(n_items)
            rng = np.random.default_rng([seed, epoch, position])
            picks.append(Pick(int(order[position]), rng))
        return picks

    def _evaluate(self) -> None:
        """Log what the recipe measures on its validation items."""
        if not self._recipe.n_val:
            return
        tally = MetricSums()
        seed = self._config.seed
        picks = [Pick(i, np.random.default_rng([seed, i])) for i in range(self._recipe.n_val)]
        with torch.no_grad():
            for piece in _in_pieces(self._rank.turns(picks), self._config.micro_batch):
                tally.add(self._recipe.validate(self.policy, piece))
        self._append(tally.over_ranks(self._rank).means("eval_"))

    def _log(self) -> dict[str, float]:
        """Log the means since the last time; returns the ones for the progress bar."""
        means = self._pending.means()
        self._pending = MetricSums()
        self._append(means)
        return {"loss": round(means["loss"], 4)}

    def _append(self, values: Mapping[str, float]) -> None:
        if self._rank.is_first:
            epoch = self._step * self._config.batch / self._recipe.n_train
            about = {"step": self._step, "epoch": epoch, "minutes": self._elapsed_s() / 60}
            rounded = {name: float(f"{value:.6g}") for name, value in {**about, **values}.items()}
            write_row(self._config.run, {**rounded, "step": self._step})

    def save(self) -> None:
        """Write the checkpoint and the curves (first rank only).

        Raises:
            StoreError: The disk is full; the checkpoint before is still there.
        """
        self._saved = time.monotonic()
        if not self._rank.is_first:
            return
        content = {
            "weights": {n: w.detach().cpu() for n, w in self.policy.weights.items()},
            "optimizer": self._optimizer.state_dict(),
            "step": self._step,
            "spent_s": self._elapsed_s(),
            "n_starts": self._n_starts,
            "pending": self._pending.values,
        }
        write_checkpoint(self._config.run, content, self._step)

    def _resume(self, path: Path) -> None:
        """Go on from the last checkpoint; without one, rows of a start that left none are lost."""
        if not path.is_file():
            if self._rank.is_first:
                (self._config.run / LOG).unlink(missing_ok=True)
            return
        content = load_checkpoint(path)
        if content["weights"].keys() != self.policy.weights.keys():
            raise StoreError(f"{path.name} is of another decoder; choose another run folder.")
        with torch.no_grad():
            for name, value in content["weights"].items():
                self.policy.weights[name].copy_(value)
        self._optimizer.load_state_dict(content["optimizer"])
        self._step, self._spent_s = content["step"], content["spent_s"]
        self._n_starts = content["n_starts"] + 1
        self._pending = MetricSums({name: (t, c) for name, (t, c) in content["pending"].items()})
        if self._rank.is_first:
            cut_log(self._config.run / LOG, self._step)
        logger.info("resumed at step %d", self._step)

    def _elapsed_s(self) -> float:
        return self._spent_s + time.monotonic() - self._started

    def _summary(self) -> RunSummary:
        return RunSummary(
            command=self._command,
            identity=self.identity(),
            notes=dict(self._recipe.notes()),
            steps=self._step,
            minutes=self._elapsed_s() / 60,
            n_starts=self._n_starts,
        )


def _in_pieces(picks: Sequence[Pick], size: int) -> Iterator[Sequence[Pick]]:
    for start in range(0, len(picks), size):
        yield picks[start : start + size]
