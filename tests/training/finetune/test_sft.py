"""`strop-train sft` on a model and data small enough to tune in a second."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from adaptation.config import ConfigError
from adaptation.models.base_decoder import load_base, read_card
from adaptation.models.catalog import load_model
from adaptation.types import Prompt, as_clicks
from tests.training.tuning_kit import write_world
from training.cli import main
from training.finetune.sft import SftConfig
from training.runtime.checkpoints import read_log
from training.runtime.config import load_config

CONFIG = Path(__file__).parents[3] / "configs" / "sft.yaml"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("sft"))


@pytest.fixture(scope="module")
def finished(root: Path) -> tuple[Path, Result]:
    """A run that went through, and what it said."""
    return root / "finished", sft(*settings(root, root / "finished"))


def settings(root: Path, run: Path, *more: str) -> list[str]:
    return [
        f"checkpoint={root / 'tiny.safetensors'}",
        f"data={root / 'sets'}",
        "sets=[discs]",
        f"cache={root / 'cache'}",
        f"run={run}",
        "steps=4",
        "batch=4",
        "micro_batch=2",
        "eval_every=2",
        "log_every=1",
        "clicks=3",
        "lr=1e-3",
        *more,
    ]


def sft(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["sft", "--config", str(CONFIG), *arguments])


def report_of(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "report.json").read_text())
    return found


def test_a_run_tunes_the_decoder_and_leaves_its_files(
    root: Path, finished: tuple[Path, Result]
) -> None:
    run, done = finished
    assert done.exit_code == 0, done.output
    assert {p.name for p in run.iterdir()} >= {
        "decoder.safetensors", "report.json", "checkpoint.pt", "log.jsonl", "curves.png", "run.json"
    }  # fmt: skip
    report = report_of(run)
    assert report["steps"] == 4 and report["starts"] == 1 and report["left_out"] == {}
    # 12 discs in six images, each its own group; a fifth of six groups, so one, is held out.
    assert report["data"] | {"digest": ""} == {  # type: ignore[operator]
        "train": 10, "validation": 2, "images": 6, "digest": ""
    }  # fmt: skip
    assert report["sources"] == {"discs": 10}
    rows = read_log(run / "log.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "eval_loss" in row] == [0, 2, 4]
    assert "iou@first" in done.output and str(root) not in json.dumps(report)


def test_the_result_is_a_base_of_another_decoder_on_the_same_encoder(
    root: Path, finished: tuple[Path, Result]
) -> None:
    path = finished[0] / "decoder.safetensors"
    sam = load_model("compact", root, checkpoint=root / "tiny.safetensors")
    card, tuned = read_card(path), load_base(path, sam)
    assert card.stage == "sft" and card.parent == sam.decoder_id != tuned.decoder_id
    assert tuned.encoder_id == sam.encoder_id
    changed = [
        name
        for name, value in tuned.decoder_parameters().items()
        if not torch.equal(value, sam.decoder_parameters()[name])
    ]
    assert len(changed) > 20
    embedding = sam.embed(np.zeros((64, 64, 3), np.uint8))
    prompt = Prompt(clicks=as_clicks([(30.0, 30.0, True)]))
    with torch.no_grad():
        before, after = (m.decode(embedding, [prompt]).low_res_logits for m in (sam, tuned))
    assert not torch.allclose(before, after)


def test_tuning_makes_the_masks_better(root: Path, tmp_path: Path) -> None:
    assert sft(*settings(root, tmp_path / "run", "steps=25", "lr=3e-3")).exit_code == 0
    report = report_of(tmp_path / "run")
    before, after = report["before"], report["after"]
    assert isinstance(before, dict) and isinstance(after, dict)
    assert after["loss"] < before["loss"] and after["iou@last"] > before["iou@last"]


def test_only_the_chosen_part_learns(root: Path, tmp_path: Path) -> None:
    assert sft(*settings(root, tmp_path / "run", "subset=tokens", "steps=1")).exit_code == 0
    sam = load_model("compact", root, checkpoint=root / "tiny.safetensors")
    tuned = load_base(tmp_path / "run" / "decoder.safetensors", sam).decoder_parameters()
    changed = [n for n, v in sam.decoder_parameters().items() if not torch.equal(v, tuned[n])]
    assert changed and all("hypernetworks" in n or "_token" in n for n in changed)


def test_finished_objects_of_a_journal_are_trained_on(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = (
        "data=null",
        "sets=[]",
        f"preferences=[{root / 'preferences'}]",
        f"album={root / 'album'}",
        "steps=1",
    )
    done = sft(*settings(root, run, *more))
    assert done.exit_code == 0, done.output
    report = report_of(run)
    assert report["sources"] == {"preferences": 4}
    assert isinstance(report["data"], dict) and report["data"]["validation"] == 2


def test_a_second_start_of_a_finished_run_changes_nothing(
    root: Path, finished: tuple[Path, Result]
) -> None:
    run = finished[0]
    first = read_card(run / "decoder.safetensors").decoder_id
    log = (run / "log.jsonl").read_text()
    assert sft(*settings(root, run)).exit_code == 0
    assert read_card(run / "decoder.safetensors").decoder_id == first
    assert (run / "log.jsonl").read_text() == log


def test_another_run_in_the_same_folder_is_refused(
    root: Path, finished: tuple[Path, Result]
) -> None:
    done = sft(*settings(root, finished[0], "lr=1e-2"))
    assert done.exit_code == 2
    assert "config.lr: 0.001 before, 0.01 now" in done.output


# Broken data


@pytest.fixture
def broken(root: Path, tmp_path: Path) -> Path:
    """A copy of everything that a test may break, with no cache."""
    for name in ("sets", "preferences", "album"):
        shutil.copytree(root / name, tmp_path / name)
    shutil.copy(root / "tiny.safetensors", tmp_path)
    return tmp_path


def of_journal(root: Path, *more: str) -> list[str]:
    source = ("data=null", "sets=[]", f"preferences=[{root / 'preferences'}]")
    return settings(root, root / "run", *source, f"album={root / 'album'}", *more)


def an_image(root: Path) -> Path:
    return sorted(p for p in (root / "album").rglob("*") if p.is_file())[0]


def test_few_missing_images_are_left_out_and_reported(broken: Path) -> None:
    for path in (p for p in (broken / "album").rglob("*") if p.is_file()):
        missing = path
    missing.unlink()
    done = sft(*of_journal(broken, "max_unusable=0.5", "steps=1"))
    assert done.exit_code == 0, done.output
    left_out = report_of(broken / "run")["left_out"]
    assert isinstance(left_out, dict)
    (group,) = left_out.values()
    assert group["n"] == 1 and "is not in the album" in group["examples"][0]


def test_many_missing_images_end_the_run(broken: Path) -> None:
    shutil.rmtree(broken / "album")
    (broken / "album").mkdir()
    done = sft(*of_journal(broken))
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert "6 of 6 items cannot be trained on" in done.output
    assert "is not in the album" in done.output


def test_a_changed_image_ends_the_run(broken: Path) -> None:
    for path in (p for p in (broken / "album").rglob("*") if p.is_file()):
        path.write_bytes(path.read_bytes() + b"more")
    done = sft(*of_journal(broken))
    assert done.exit_code == 2 and "was changed or damaged" in done.output


def test_an_image_of_another_size_than_its_labels_is_left_out(broken: Path) -> None:
    cv2.imwrite(str(broken / "sets/discs/images/im3.png"), np.zeros((32, 64, 3), np.uint8))
    done = sft(*settings(broken, broken / "run", "max_unusable=0.3", "steps=1"))
    assert done.exit_code == 0, done.output
    left_out = report_of(broken / "run")["left_out"]
    assert isinstance(left_out, dict)
    assert left_out["its mask and its image differ in size"]["n"] == 2


def test_a_half_written_table_is_named(broken: Path) -> None:
    path = broken / "preferences" / "examples.parquet"
    path.write_bytes(path.read_bytes()[:200])
    done = sft(*of_journal(broken))
    assert done.exit_code == 2 and "examples.parquet cannot be read" in done.output


# Configs


def test_the_shipped_config_is_complete_and_needs_data_only(root: Path) -> None:
    config = load_config(SftConfig, CONFIG, [f"data={root}", "sets=[discs]"])
    plain = SftConfig(data=root, sets=("discs",))
    assert config == plain


def test_impossible_configs_are_refused_at_once() -> None:
    wrong = ["batch=0", "lr=0", "subset=half", "held_out=1", "boxes=2", "preferences=[nowhere]"]
    with pytest.raises(ConfigError) as caught:
        load_config(SftConfig, CONFIG, wrong)
    said = str(caught.value)
    for part in ("batch", "lr", "subset", "held_out", "boxes", "album", "got nowhere"):
        assert part in said


def test_the_command_tells_no_folder() -> None:
    from training.commands.options import command_of

    options = {"data": Path("/b/sets"), "run": Path("/r/x")}
    given = ("steps=4", "cache=/c/d", "preferences=[/e/f, g/h]", "sets=[bsds500/train]")
    told = command_of("strop-train sft", Path("/a/configs/sft.yaml"), options, given)
    assert told == (
        "strop-train sft --config sft.yaml --data sets --out x steps=4 cache=d "
        "'preferences=[f, g/h]' 'sets=[bsds500/train]'"
    )


def test_of_a_journal_too_so_many_objects_are_drawn(root: Path) -> None:
    from training.finetune.objects import find_objects

    plain = [f"preferences=[{root / 'preferences'}]", f"album={root / 'album'}"]
    names = []
    for more in (["objects=4"], ["objects=4", "seed=1"], []):
        names.append([e.name for e in find_objects(load_config(SftConfig, None, plain + more))])
    assert [len(each) for each in names] == [4, 4, 6]
    assert set(names[0]) != set(names[1]) and set(names[0]) < set(names[2])
