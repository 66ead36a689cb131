"""SFT, DPO and calibration of models of the hub, by the commands that tune the others."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from adaptation.models.base_decoder import load_base, read_card, save_base
from adaptation.models.catalog import load_model
from adaptation.types import Prompt, as_clicks
from tests.training.fakes import write_discs
from tests.training.tuning_kit import write_preferences
from training.cli import main

if find_spec("transformers") is None or find_spec("timm") is None:
    pytest.skip("needs the extra hub", allow_module_level=True)

from tests.adaptation.models.hub import tiny

CONFIGS = Path(__file__).parents[3] / "configs"
STEPS = ["steps=3", "batch=2", "micro_batch=2", "eval_every=3", "log_every=1", "lr=1e-3"]


@pytest.fixture(scope="module", params=("sam", "sam_hq", "sam2", "edgetam"))
def root(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, a data set and preferences."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny.save(request.param, folder / "model")
    write_discs(folder / "sets" / "discs", 4, n_groups=4)
    write_preferences(folder, n_images=4, n_val=1)
    return folder


def command(name: str, root: Path, *more: str) -> Result:
    about = [f"model={root / 'model'}", f"cache={root / 'cache'}", f"run={root / name}"]
    arguments = [name, "--config", str(CONFIGS / f"{name}.yaml"), *about, *more]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result


def assert_serves(root: Path, name: str, stage: str) -> None:
    """The run's decoder is another one of this model, and answers."""
    path, sam = root / name / "decoder.safetensors", load_model(str(root / "model"), root)
    assert read_card(path).stage == stage and read_card(path).encoder_id == sam.encoder_id
    tuned = load_base(path, sam)
    assert tuned.decoder_id != sam.decoder_id
    embedding = sam.embed(torch.zeros(48, 64, 3, dtype=torch.uint8).numpy())
    with torch.no_grad():
        got = tuned.decode(embedding, [Prompt(clicks=as_clicks([(10, 12, True)]))])
    assert got.low_res_logits.isfinite().all()


def test_sft(root: Path) -> None:
    command("sft", root, f"data={root / 'sets'}", "sets=[discs]", "clicks=2", *STEPS)
    assert_serves(root, "sft", "sft")


def test_dpo(root: Path) -> None:
    sam, base = load_model(str(root / "model"), root), root / "base.safetensors"
    save_base(base, sam, sam.decoder_parameters(), "sft", {})
    preferences = [f"preferences=[{root / 'preferences'}]", f"album={root / 'album'}"]
    command("dpo", root, f"base={base}", *preferences, *STEPS)
    assert_serves(root, "dpo", "dpo")


def test_calibrate(root: Path) -> None:
    command("calibrate", root, f"data={root / 'sets'}", "sets=[discs]")
    assert_serves(root, "calibrate", "calibrate")
    rows = [
        json.loads(line)
        for line in (root / "calibrate" / "log.jsonl").read_text().split("\n")
        if line
    ]
    scores = [row["eval_predicted_iou_error"] for row in rows]
    assert all(0 <= error <= 1 for error in scores)
