"""SFT on the part of the frame around the object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adaptation.models.compact.model import build_compact
from adaptation.types import STRIDE
from tests.training.tuning_kit import write_discs
from training.finetune.policy import Policy
from training.finetune.sft import SftConfig, SftRecipe
from training.finetune.trainer import Pick, open_model, open_replayer
from training.pretrain.export import export_weights
from training.runtime.config import load_config
from training.runtime.distributed import Rank

SIDE = 128
"""Of the model's frame: large enough for parts of it."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("windows")
    torch.manual_seed(0)
    about = {"model": "strop-compact", "input_size": str(SIDE), "dim": "16", "stride": str(STRIDE)}
    model = build_compact(input_size=SIDE, dim=16)
    export_weights(model.state_dict(), folder / "tiny.safetensors", about)
    write_discs(folder / "sets" / "discs", 4, n_groups=4)
    return folder


def recipe_of(root: Path, *more: str) -> tuple[SftRecipe, Policy]:
    settings = [
        f"checkpoint={root / 'tiny.safetensors'}",
        f"data={root / 'sets'}",
        "sets=[discs]",
        f"cache={root / 'cache'}",
        f"run={root / 'run'}",
        "clicks=2",
        *more,
    ]
    config = load_config(SftConfig, None, settings)
    sam = open_model(config, Rank())
    recipe = SftRecipe(config, open_replayer(config, sam), Rank())
    return recipe, Policy(sam, "all", mixed_precision=False)


def picks(recipe: SftRecipe) -> list[Pick]:
    return [Pick(i, np.random.default_rng(i)) for i in range(recipe.n_train)]


def test_a_window_is_part_of_the_frame_and_of_the_labels(root: Path) -> None:
    recipe, policy = recipe_of(root, "windows=true", "simulated_share=0")
    found = list(recipe._answered(policy, recipe._turns(policy, picks(recipe))))
    assert sum(len(lessons) for _, lessons in found) == recipe.n_train
    sizes = [tuple(prediction.low_res_logits.shape[-2:]) for prediction, _ in found]
    grid = policy.sam.low_res_size
    assert any(height * width < 0.8 * grid**2 for height, width in sizes)
    for (_, lessons), size in zip(found, sizes, strict=True):
        for lesson in lessons:
            assert tuple(lesson.labels.shape) == size and bool((lesson.labels == 1).any())


def test_windows_have_nearly_the_losses_of_whole_frames(root: Path) -> None:
    means, gradients = [], []
    for windows in ("false", "true"):
        recipe, policy = recipe_of(root, f"windows={windows}", "simulated_share=0.5")
        loss, tally = recipe.train(policy, picks(recipe))
        loss.backward()  # type: ignore[no-untyped-call]
        means.append(tally.means()["loss"])
        gradients.append(policy.weights["iou_token.weight"].grad)
    # Not the same: less background is seen.  Of a random decoder the losses are near 1.5.
    assert means[0] != means[1] and means[1] == pytest.approx(means[0], rel=0.4)
    assert all(each is not None and bool(each.isfinite().all()) for each in gradients)
