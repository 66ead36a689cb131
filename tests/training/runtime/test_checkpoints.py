"""What a run leaves on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from adaptation.errors import StoreError
from training.pretrain.export import WeightAverage, digest, export_weights, plot_log
from training.runtime.checkpoints import (
    append_log,
    cut_log,
    load_checkpoint,
    read_log,
    save_checkpoint,
)


def test_the_average_moves_a_step_towards_the_model() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = WeightAverage(model, decay=0.9)
    torch.nn.init.ones_(model.weight)
    average.update(model, step=0)  # early steps forget fast: decay min(0.9, 1 / 10)
    assert average.weights["weight"].item() == pytest.approx(0.9)
    average.update(model, step=1000)
    assert average.weights["weight"].item() == pytest.approx(0.91)


def test_the_average_is_no_view_of_the_model() -> None:
    model = torch.nn.Linear(2, 2)
    average = WeightAverage(model, decay=0.9)
    before = average.weights["weight"].clone()
    torch.nn.init.zeros_(model.weight)
    assert torch.equal(average.weights["weight"], before)


def test_a_checkpoint_comes_back_and_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoint.pt"
    save_checkpoint(path, {"model": {"w": torch.arange(3)}, "step": 7})
    save_checkpoint(path, {"model": {"w": torch.arange(4)}, "step": 8})
    content = load_checkpoint(path)
    assert content["step"] == 8 and content["model"]["w"].tolist() == [0, 1, 2, 3]
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_broken_checkpoint_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(StoreError, match="checkpoint.pt cannot be read"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    with pytest.raises(StoreError, match="gone.pt"):
        load_checkpoint(tmp_path / "gone.pt")


def test_logs_grow_by_rows_and_forget_what_is_done_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    for step in (25, 50, 75):
        append_log(path, {"step": step, "loss": 1 / step, "iou@1": 0.5})
    cut_log(path, 50)
    assert [row["step"] for row in read_log(path)] == [25, 50]


def test_curves_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    append_log(path, {"step": 25, "loss": 1.0, "obeyed": 0.9, "iou@1": 0.5})
    append_log(path, {"step": 50, "loss": 0.5, "obeyed": 1.0, "iou@2": 0.6})
    plot_log(path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_exports_are_halves_with_their_digest(tmp_path: Path) -> None:
    weights = {"b": torch.rand(2, 3), "a": torch.arange(3)}
    value = export_weights(weights, tmp_path / "w.safetensors", {"recipe": "r"})
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert file.metadata() == {"recipe": "r", "sha256": value}
        read = {name: file.get_tensor(name) for name in file.keys()}
    assert read["b"].dtype == torch.float16 and read["a"].dtype == torch.int64
    assert digest(read) == value
    assert digest({**read, "a": read["a"] + 1}) != value
