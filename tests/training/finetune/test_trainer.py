"""The loop that SFT and DPO share: what may and what may not change its losses."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from adaptation.errors import StoreError
from adaptation.models.sam import PromptableSam
from adaptation.storage.files import draft_beside
from tests.training.fakes import tiny_model
from tests.training.tuning_kit import write_discs, write_model
from training.finetune.metrics import MetricSums
from training.finetune.policy import Policy
from training.finetune.prompt_cache import PromptCache, load_replay, save_replay
from training.finetune.sft import SftConfig, SftRecipe
from training.finetune.trainer import Pick, Trainer, open_model, open_replayer
from training.runtime.checkpoints import load_checkpoint, read_log
from training.runtime.config import load_config
from training.runtime.distributed import Rank
from training.runtime.embedding_cache import CachedEncoder, EncodingStore

Row = dict[str, Any]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuning")
    write_model(folder)
    write_discs(folder / "sets" / "discs", 4, n_groups=4)
    return folder


def config_of(root: Path, run: Path, *more: str) -> SftConfig:
    overrides = [
        f"checkpoint={root / 'tiny.safetensors'}",
        f"data={root / 'sets'}",
        "sets=[discs]",
        f"cache={root / 'cache'}",
        f"run={run}",
        "steps=6",
        "batch=4",
        "micro_batch=2",
        "eval_every=3",
        "log_every=2",
        "clicks=3",
        "lr=1e-3",
        *more,
    ]
    return load_config(SftConfig, None, overrides)


def tuning_of(config: SftConfig, sam: PromptableSam | None = None) -> Trainer:
    sam = sam or open_model(config, Rank())
    recipe = SftRecipe(config, open_replayer(config, sam), Rank())
    return Trainer(config, sam, recipe, Rank(), "test")


def rows_of(run: Path) -> list[Row]:
    """The log without what the clock says."""
    return [{k: v for k, v in row.items() if k != "minutes"} for row in read_log(run / "log.jsonl")]


def weights_of(run: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_checkpoint(run / "checkpoint.pt")["weights"]
    return found


@pytest.fixture(scope="module")
def whole(root: Path) -> Path:
    """A run that nothing interrupted."""
    tuning_of(config_of(root, root / "whole")).run()
    return root / "whole"


# Nothing but the seed decides


@pytest.mark.parametrize("n_done", [2, 3])  # at a row of the log, and between two
def test_an_interrupted_run_has_the_losses_of_one_that_was_not(
    root: Path, whole: Path, tmp_path: Path, n_done: int
) -> None:
    config = config_of(root, tmp_path)
    interrupt(tuning_of(config), n_done)
    tuning_of(config).run()
    assert rows_of(tmp_path) == rows_of(whole)
    ours, theirs = weights_of(tmp_path), weights_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["n_starts"] == 2


class Stop(Exception):
    pass


def interrupt(tuning: Trainer, n_done: int, *, n_lost: int = 1) -> None:
    """Run, save after `n_done` steps, do some more that are lost, and stop."""
    step, count = tuning.step, 0

    def counted() -> MetricSums:
        nonlocal count
        if count == n_done:
            tuning.save()
        if count == n_done + n_lost:
            raise Stop
        count += 1
        return step()

    tuning.step = counted  # type: ignore[method-assign]
    with pytest.raises(Stop):
        tuning.run()


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_micro_batches_change_no_loss(
    root: Path, whole: Path, tmp_path: Path, micro_batch: int
) -> None:
    tuning_of(config_of(root, tmp_path, f"micro_batch={micro_batch}", "steps=2")).run()
    split, rows = rows_of(tmp_path), rows_of(whole)
    # Step 1 comes before any difference could build up; its batch is the same objects.
    assert split[0] == pytest.approx(rows[0], rel=1e-4)
    assert split[1]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-3)


def test_another_seed_has_other_losses(root: Path, whole: Path, tmp_path: Path) -> None:
    tuning_of(config_of(root, tmp_path, "seed=1", "steps=2")).run()
    assert rows_of(tmp_path)[1]["loss"] != pytest.approx(rows_of(whole)[1]["loss"], rel=1e-4)


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one(root: Path, tmp_path: Path) -> None:
    from training.finetune.sft import run

    for name, processes in (("one", 1), ("two", 2)):
        # In bfloat16 a batch's size decides how its sums are rounded: ranks agree in float32.
        more = (f"processes={processes}", "mixed_precision=false")
        run(config_of(root, tmp_path / name, *more))
    one, two = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    assert len(one) == len(two) == 6  # three of training, three of validation
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3)
    assert (tmp_path / "two" / "report.json").is_file()


@pytest.mark.slow
def test_a_mistake_in_a_rank_is_told_by_the_one_above(root: Path, tmp_path: Path) -> None:
    from training.finetune.sft import run

    tuning_of(config_of(root, tmp_path, "steps=1")).run()
    with pytest.raises(Exception, match="config.lr: 0.001 before, 0.5 now"):
        run(config_of(root, tmp_path, "steps=1", "lr=0.5", "processes=2"))


@pytest.mark.slow
def test_torchrun_trains_too(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = [
        f"checkpoint={root / 'tiny.safetensors'}", "sets=[discs]", f"cache={root / 'cache'}",
        "steps=2", "batch=4",
    ]  # fmt: skip
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone",
        "-m", "training.cli", "sft", "--data", str(root / "sets"), "--out", str(run), *settings,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (run / "decoder.safetensors").is_file() and "2 steps" in done.stdout


# What learns


def test_the_base_is_never_written_to(root: Path, tmp_path: Path) -> None:
    config = config_of(root, tmp_path)
    sam = open_model(config, Rank())
    before = {name: value.clone() for name, value in sam.sam.state_dict().items()}
    tuning = tuning_of(config, sam)
    tuning.step()
    after = sam.sam.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in sam.sam.parameters())
    base = sam.decoder_parameters()
    assert any(not torch.equal(base[n], w) for n, w in tuning.policy.weights.items())


def test_a_policy_starts_at_its_base() -> None:
    sam = tiny_model()
    policy = Policy(sam, "norms", mixed_precision=True)
    assert policy.weights.keys() < sam.decoder_parameters().keys()
    assert policy.decoder().keys() == sam.decoder_parameters().keys()
    assert all(torch.equal(policy.decoder()[n], v) for n, v in sam.decoder_parameters().items())


def test_a_step_without_a_finite_gradient_is_skipped(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Exploding:
        stage, n_train, n_val = "sft", 8, 0

        def train(self, policy: Policy, picks: Sequence[Pick]) -> tuple[Tensor, MetricSums]:
            return sum(w.sum() for w in policy.weights.values()) * math.inf, MetricSums()  # type: ignore[return-value]

        def validate(self, policy: Policy, picks: Sequence[Pick]) -> MetricSums:
            return MetricSums()

        def data(self) -> Mapping[str, Any]:
            return {}

        def notes(self) -> Mapping[str, Any]:
            return {}

    config = config_of(root, tmp_path)
    tuning = Trainer(config, open_model(config, Rank()), Exploding(), Rank(), "test")
    before = {n: w.detach().clone() for n, w in tuning.policy.weights.items()}
    tuning.step()
    assert "no finite gradient" in caplog.text
    assert all(torch.equal(before[n], w) for n, w in tuning.policy.weights.items())


# Interruptions and full disks


def test_a_half_written_checkpoint_is_no_checkpoint(
    root: Path, whole: Path, tmp_path: Path
) -> None:
    config = config_of(root, tmp_path)
    interrupt(tuning_of(config), 3)
    draft_beside(tmp_path / "checkpoint.pt").write_bytes(b"half of one")  # what a kill leaves
    tuning_of(config).run()
    assert rows_of(tmp_path) == rows_of(whole)


def test_a_damaged_checkpoint_is_named(root: Path, tmp_path: Path) -> None:
    config = config_of(root, tmp_path)
    interrupt(tuning_of(config), 3)
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(StoreError, match=r"checkpoint\.pt cannot be read"):
        tuning_of(config)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_keeps_the_checkpoint_before(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(root, tmp_path)
    tuning = tuning_of(config)
    tuning.step()
    tuning.save()
    tuning.step()
    draft = tmp_path / "draft"
    draft.symlink_to("/dev/full")
    monkeypatch.setattr("adaptation.storage.files.draft_beside", lambda path: draft)
    with pytest.raises(StoreError, match="The checkpoint of step 2 could not be written") as said:
        tuning.save()
    assert "make room" in str(said.value)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 1
    assert not draft.is_symlink()
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(StoreError, match="log"):
        tuning.run()


def test_an_unwritable_cache_costs_speed_only(
    root: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    replay = load_replay(next((root / "cache" / "replays").rglob("*.replay")))
    assert replay is not None
    (tmp_path / "file").write_text("in the way")
    save_replay(tmp_path / "file" / "r.replay", replay)
    assert "could not be kept" in caplog.text
    tuning_of(config_of(root, tmp_path / "run", f"cache={tmp_path / 'file'}", "steps=2")).run()
    assert rows_of(tmp_path / "run")[1]["loss"] == pytest.approx(rows_of(whole)[1]["loss"])


@pytest.mark.slow
def test_killed_at_any_time_nothing_but_time_is_lost(
    root: Path, whole: Path, tmp_path: Path
) -> None:
    """Killed a few times, with checkpoints as often as can be, it ends where `whole` did."""
    code = (
        "import sys; from training.runtime.config import load_config;"
        "from training.finetune.sft import *;"
        "run(load_config(SftConfig, None, sys.argv[1:]))"
    )
    arguments = [
        f"checkpoint={root / 'tiny.safetensors'}", f"data={root / 'sets'}", "sets=[discs]",
        f"cache={root / 'cache'}", f"run={tmp_path}", "steps=6", "batch=4", "micro_batch=2",
        "eval_every=3", "log_every=2", "clicks=3", "lr=1e-3", "save_every_minutes=1e-9",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kills = 0
    for wanted in (1, 3, None):
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment)
        while process.poll() is None:
            if wanted is not None and done_steps(tmp_path) >= wanted:
                process.send_signal(signal.SIGKILL)
                kills += 1
                process.wait()
            time.sleep(0.02)
    assert kills == 2
    assert rows_of(tmp_path) == rows_of(whole)


def done_steps(run: Path) -> int:
    path = run / "checkpoint.pt"
    return int(load_checkpoint(path)["step"]) if path.is_file() else 0


# Replays


def test_a_replay_comes_back_the_same_and_damage_is_noticed(root: Path, tmp_path: Path) -> None:
    config = config_of(root, tmp_path)
    sam = open_model(config, Rank())
    recipe = SftRecipe(config, open_replayer(config, sam), Rank())
    fresh = SftRecipe(config, PromptCache(sam, CachedEncoder(sam), tmp_path, config.zoom), Rank())
    for item in recipe.items:
        kept, made = recipe.replay(item), fresh.replay(item)
        assert kept.image_id == made.image_id and torch.equal(
            kept.planes["labels"], made.planes["labels"]
        )
        for ours, theirs in zip(kept.asked, made.asked, strict=True):
            assert (ours.view, ours.input_size) == (theirs.view, theirs.input_size)
            assert ours.prompt.clicks == theirs.prompt.clicks
            mine, other = ours.prompt.mask_input, theirs.prompt.mask_input
            assert (mine is None) == (other is None)
            assert mine is None or other is None or torch.equal(mine, other)
    path = next(tmp_path.rglob("*.replay"))
    path.write_bytes(path.read_bytes()[:50])
    assert load_replay(path) is None


def test_a_view_is_encoded_once_ever(root: Path, whole: Path, tmp_path: Path) -> None:
    config = config_of(root, tmp_path, "steps=1")
    sam = open_model(config, Rank())
    encoder = CachedEncoder(sam, EncodingStore(config.cache, 1 << 30))
    replayer = PromptCache(sam, encoder, config.cache / "replays", config.zoom)
    recipe = SftRecipe(config, replayer, Rank())
    picks = [Pick(i, np.random.default_rng(i)) for i in range(recipe.n_train)]
    recipe.train(Policy(sam, "all", mixed_precision=False), picks)
    assert encoder.n_encoded == 0


# Tallies and rates


def test_tallies_add_up_whatever_the_split() -> None:
    values = torch.tensor([1.0, 2.0, math.nan, 6.0])
    together, apart = MetricSums(), MetricSums()
    together.note("x", values)
    for value in values:
        part = MetricSums()
        part.note("x", value[None])
        apart.add(part)
    assert together.values == apart.values == {"x": (9.0, 3)}
    assert apart.means("eval_") == {"eval_x": 3.0}
    apart.note("nothing", torch.tensor([math.nan]))
    assert "nothing" not in apart.means()


def test_the_rate_warms_up_and_falls(root: Path, tmp_path: Path) -> None:
    config = config_of(root, tmp_path, "warmup_steps=4", "lr=1")
    rates = [config.learning_rate(step, 100) for step in (0, 3, 50, 100)]
    # A quarter of the warm-up; its end, a little down the cosine; the middle; the floor.
    fallen = 0.01 + 0.99 * 0.5 * (1 + math.cos(0.03 * math.pi))
    assert rates == pytest.approx([0.25, fallen, 0.505, 0.01])


def test_steps_count_in_epochs_unless_given(root: Path, tmp_path: Path) -> None:
    config = config_of(root, tmp_path, "steps=null", "epochs=2.5", "batch=4")
    assert config.n_steps(10) == 7  # 25 objects in batches of 4
    assert config_of(root, tmp_path, "steps=9").n_steps(10) == 9
