from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.training.fakes import OneStepLearners, tiny_model, write_discs
from training.cli import main
from training.evaluation.config import EvaluateConfig


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    return write_discs(tmp_path / "discs")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tiny model and its small learner in place of the catalog's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "training.evaluation.evaluate.load_evaluated_model", lambda config: tiny_model()
    )
    monkeypatch.setattr(
        "training.evaluation.learners.make_learners",
        lambda config: OneStepLearners() if config.adapt != "none" else None,
    )


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_evaluate_prints_a_table_and_fills_the_run_folder(discs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(
        "evaluate", "--data", discs, "--adapt", "both", "--objects", 4, "--orders", 2,
        "--max-clicks", 3, "--no-zoom", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for word in ("discs: 4 objects", "NoC3@85", "FR3@90", "mIoU@1", "frozen [95 %]", "zoom off"):
        assert word in result.output
    assert {p.name for p in out.iterdir()} >= {
        "result.json", "results.jsonl", "run.json", "iou_over_clicks.png", "stream_FR3_at_90.png",
    }  # fmt: skip
    content = json.loads((out / "result.json").read_text())
    assert content["command"] == (
        "strop-train evaluate --data discs --adapt both --objects 4 --orders 2 --max-clicks 3 "
        "--no-zoom"
    )


def test_the_same_command_goes_on_and_another_one_is_refused(discs: Path, tmp_path: Path) -> None:
    command = ("evaluate", "--data", discs, "--max-clicks", 2, "--out", tmp_path / "out")
    first, again = run(*command), run(*command)
    table = [line for line in first.output.splitlines() if line.startswith("mIoU")]
    assert table and all(line in again.output for line in table)
    refused = run(*command, "--seed", 1)
    assert refused.exit_code == 2
    assert (
        "cannot be resumed" in refused.output and "streams.seed: 0 before, 1 now" in refused.output
    )


def test_single_prompts_have_a_table(discs: Path) -> None:
    result = run("evaluate", "--data", discs, "--prompts", "point+negative")
    assert result.exit_code == 0, result.output
    assert "prompt: point+negative, one mask an object" in result.output
    assert "NoC" not in result.output and "Dice@1" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "data is required"),
        (("--data", "nowhere"), "not found"),
        (("--data", "discs", "--prompts", "lasso", "--orders", "0"), "orders must be 1 or more"),
        (("--data", "discs", "objekts=3"), "did you mean objects?"),
        (("--data", "discs", "--sessions", "9"), "9 sessions need as many groups"),
        (("--data", "discs", "--config", "none.yaml"), "none.yaml"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    discs: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = run("evaluate", *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_the_shipped_config_is_the_default() -> None:
    from training.runtime.config import load_config

    path = Path(__file__).parents[2] / "configs" / "evaluate.yaml"
    shipped = load_config(EvaluateConfig, path, ["data=discs"])
    assert shipped == EvaluateConfig(data=Path("discs"))


def test_options_tell_what_is_not_the_default() -> None:
    config = EvaluateConfig(data=Path("/a/mtd"), objects=None, keep_groups=False, workers=2, seed=3)
    assert config.options() == {
        "data": Path("/a/mtd"), "all-objects": True, "seed": 3, "shuffle": True,
    }  # fmt: skip


def test_several_runs_make_one_table(discs: Path, tmp_path: Path) -> None:
    command = ("evaluate", "--data", discs, "--objects", 4, "--max-clicks", 3)
    run(*command, "--adapt", "both", "--orders", 2, "--out", tmp_path / "both")
    run(*command, "--out", tmp_path / "frozen")
    result = run("table", tmp_path / "both", tmp_path / "frozen", "--metrics", "FR3@90,mIoU@1")
    assert result.exit_code == 0, result.output
    head, rule, both, frozen = result.output.splitlines()
    assert head == "| set | objects | FR3@90 | mIoU@1 |"
    assert both.startswith("| discs | 4 |") and "→" in both and " to " in both and ", p " in both
    assert "→" not in frozen
    assert all(line.count("|") == head.count("|") for line in (rule, both, frozen))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("elsewhere.json", "{}", "no result of"),
        ("torn.json", "{", "no result of"),
        (None, "", "finish the run first"),
    ],
)
def test_what_is_no_result_makes_no_table(
    tmp_path: Path, file: str | None, content: str, message: str
) -> None:
    path = tmp_path / (file or "empty")
    path.write_text(content) if file else path.mkdir()
    result = run("table", path)
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.parametrize("command", ["evaluate", "pretrain", "table"])
def test_every_command_explains_itself(command: str) -> None:
    assert command in run("--help").output


def test_pretrain_reads_its_own_arguments() -> None:
    result = run("pretrain", "--config", "none.yaml", "steps=1")
    assert result.exit_code == 2
    assert "none.yaml" in result.output
