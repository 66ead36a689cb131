from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest
import torch
from click.testing import CliRunner, Result

from adaptation.models.compact.model import build_compact
from adaptation.models.sam import PromptableSam
from tests.training.fakes import write_discs
from training.cli import main


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    return write_discs(tmp_path / "discs", n_images=6, n_groups=3)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    sam = PromptableSam(build_compact(input_size=64, dim=16, n_heads=2), "compact-random")
    monkeypatch.setattr("training.proposals.images.load", lambda config: sam)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_anomalies_are_measured_as_the_sources_ablation(discs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(
        "evaluate-anomaly", "--data", discs, "--feedback", 2, "--panels", 2, "--out", out,
        "places=3",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    content = json.loads((out / "result.json").read_text())
    variants = [(r["generator"], r["variant"]) for r in content["rows"]]
    assert ("saliency", "SAA") in variants and ("mutual", "SAA+ without confidence") in variants
    assert ("mutual+feedback", "map alone") in variants and ("mutual+feedback", "SAA+") in variants
    assert content["command"].startswith("strop-train evaluate-anomaly --data discs --feedback 2")
    assert content["model"]["model_id"] == "compact-random"
    assert all(0 <= r["max_f1_pixel"] <= 100 for r in content["rows"])
    fed = [r for r in content["rows"] if "without feedback" in r["on"]]
    assert 0 < fed[0]["n_images"] < 6
    panels = sorted((out / "panels").iterdir())
    assert len(panels) == 2
    assert cv2.imread(str(panels[0])).shape == (400, 1600, 3)


def test_maps_alone_draw_no_region(discs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("evaluate-anomaly", "--data", discs, "--feedback", 0, "--out", out, "places=0")
    assert result.exit_code == 0, result.output
    content = json.loads((out / "result.json").read_text())
    assert [r["variant"] for r in content["rows"]] == ["map alone", "map alone"]
    assert not (out / "panels").exists()


def test_more_of_the_same_is_measured_after_each_number_of_objects(
    discs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run(
        "evaluate-similar", "--data", discs, "--images", 2, "--out", out, "finished=[1, 2]",
        "places=4",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    content = json.loads((out / "result.json").read_text())
    assert [r["finished"] for r in content["rows"]] == [1, 2]
    assert all(r["n_objects"] == 4 for r in content["rows"])
    assert content["n_images"] == 2


def test_the_same_run_gives_the_same_numbers(discs: Path, tmp_path: Path) -> None:
    rows = []
    for name in ("a", "b"):
        out = tmp_path / name
        done = run("evaluate-anomaly", "--data", discs, "--feedback", 0, "--out", out, "places=0")
        assert done.exit_code == 0, done.output
        rows.append(json.loads((tmp_path / name / "result.json").read_text())["rows"])
    assert rows[0] == rows[1]


@pytest.mark.parametrize(
    ("command", "setting", "word"),
    [
        ("evaluate-anomaly", "generators=[magic]", "magic"),
        ("evaluate-anomaly", "mutual.share=0", "share"),
        ("evaluate-similar", "finished=[0]", "finished"),
        ("evaluate-similar", "finished=[99]", "ask for fewer"),
    ],
)
def test_mistakes_are_one_message(discs: Path, command: str, setting: str, word: str) -> None:
    result = run(command, "--data", discs, setting)
    assert result.exit_code == 2
    assert word in result.output
    assert "Traceback" not in result.output


def test_a_folder_without_images_is_told(tmp_path: Path) -> None:
    result = run("evaluate-anomaly", "--data", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "images" in result.output
