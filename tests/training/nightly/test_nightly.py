"""A night on a real journal with a tiny real model: every step, run again, stopped, told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from adaptation.errors import InputError, StoreError
from adaptation.masks import decode_rle, encode_rle
from adaptation.models.base_decoder import Registry, read_card
from adaptation.storage.album import Album
from adaptation.storage.locks import only_one
from tests.training.fakes import disc
from tests.training.preferences.world import World, at_click
from tests.training.tuning_kit import SIZE, example, rle, write_image, write_model
from training.cli import main
from training.nightly import nightly
from training.nightly.config import NightlyConfig
from training.nightly.state import NightlyState, count_new, night_folder
from training.preferences.files import EXAMPLES, TableWriter
from training.promotion.held_out import label_maps, write_held_out
from training.runtime.config import load_config

CONFIG = Path(__file__).parents[3] / "configs" / "nightly.yaml"


def label(world: World, first: int, count: int) -> None:
    """Discs as a team labels them: a poor mask, then the submitted one."""
    for seed in range(first, first + count):
        image_id = write_image(world.album, seed)
        about = {"image_id": image_id, "image_size": SIZE, "task_id": f"task{seed}"}
        shown = world.click([rle(9), rle(6)], at_click((30, 30, True)), **about)
        world.submit(shown, rle(14))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    made = World(tmp_path)
    label(made, 0, 3)
    yield made
    made.journal.close()


@pytest.fixture
def team(world: World) -> None:
    """Labels enough for a night: 30 discs in all."""
    label(world, 3, 27)


@pytest.fixture
def config(world: World, model: Path) -> Path:
    """Config files for tiny steps that nevertheless learn discs."""
    tuning = {"batch": 8, "micro_batch": 8, "warmup_steps": 2, "eval_every": 1000,
              "cache": "cache", "device": "cpu", "mixed_precision": False}  # fmt: skip
    files: dict[str, dict[str, Any]] = {
        "preferences": {"val_share": 0.5, "sheet_pairs": 2},
        "sft": {**tuning, "steps": 25, "lr": 3e-3, "simulated_share": 0.0, "prompts": 1},
        "dpo": {**tuning, "steps": 2},
        "calibrate": {"cache": "cache", "device": "cpu"},
        "gate": {
            "metrics": ["mIoU@1"],
            "max_clicks": 1,
            "min_objects": 6,
            "cache": "cache",
            "correct": False,
        },
    }
    for name, content in files.items():
        (world.folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    night = {
        "journal": world.url,
        "album": str(world.album.folder),
        "work": "nights",
        "registry": "registry",
        "checkpoint": str(model),
        **{name: f"{name}.yaml" for name in files},
    }
    path = world.folder / "nightly.yaml"
    path.write_text(yaml.safe_dump(night))
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["nightly", *[str(a) for a in arguments]])


def report() -> dict[str, Any]:
    path = sorted(Path("nights").glob("*/report.json"))[-1]
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def states() -> dict[str, str]:
    return {step["name"]: step["state"] for step in report()["steps"]}


@pytest.mark.slow
@pytest.mark.usefixtures("team")
def test_a_night_brings_what_was_labelled_into_use_and_is_safe_to_run_again(
    world: World, config: Path
) -> None:
    result = run("--config", config)
    assert result.exit_code == 0, result.output
    found = report()
    assert found["promoted"] is not None, result.output
    registry = Registry(Path("registry"))
    assert registry.current() == found["promoted"]
    assert found["promoted"] in result.output and "strop-train rollback" in result.output
    assert states() == {
        "preferences": "done", "held-out": "done", "sft": "done", "dpo": "done",
        "calibrate-dpo": "done", "calibrate-sft": "done", "gate-dpo": "done",
    }  # fmt: skip
    card = read_card(registry.path(found["promoted"]))
    assert card.stage == "dpo"
    text = next(Path("nights").glob("*/report.txt")).read_text()
    assert text.strip() in result.output and "PASSED" in text
    again = run("--config", config)
    assert again.exit_code == 0 and "nothing to do" in again.output
    assert "0 objects are new since the last night that trained" in again.output
    assert states()["sft"] == "left out" and report()["night"].endswith("-2")

    label(world, 100, 3)
    few = run("--config", config)
    assert "3 objects are new" in few.output, few.output
    enough = run("--config", config, "min_new_objects=3", "candidates=[sft]")
    assert enough.exit_code == 0, enough.output
    assert report()["has_trained"] and states()["dpo"] == "left out"


@pytest.mark.slow
@pytest.mark.usefixtures("team")
def test_a_night_that_was_stopped_goes_on_with_the_step_it_was_in(
    world: World, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("No room left on the disk.")

    with monkeypatch.context() as broken:
        broken.setattr("training.nightly.nightly.promote", full)
        stopped = run("--config", config, "candidates=[sft]")
    assert stopped.exit_code == 2 and "No room left" in stopped.output
    assert report()["error"] == "No room left on the disk." and not report()["is_finished"]
    assert "FAILED" in next(Path("nights").glob("*/report.txt")).read_text()

    result = run("--config", config, "candidates=[sft]")
    assert result.exit_code == 0, result.output
    assert states() == {
        "preferences": "done before", "held-out": "done before", "sft": "done before",
        "calibrate-sft": "done before", "dpo": "left out", "gate-sft": "done",
    }  # fmt: skip
    assert len(list(Path("nights").glob("*/report.json"))) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("team")
def test_a_changed_setting_does_its_step_again_and_what_follows(
    world: World, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("No room left on the disk.")

    monkeypatch.setattr("training.nightly.nightly.promote", full)
    run("--config", config, "candidates=[sft]")
    settings = yaml.safe_load(Path("sft.yaml").read_text())
    Path("sft.yaml").write_text(yaml.safe_dump(settings | {"steps": 2}))
    run("--config", config, "candidates=[sft]")
    assert states()["preferences"] == "done before" and states()["sft"] == "done"


@pytest.mark.slow
@pytest.mark.usefixtures("team")
def test_a_candidate_that_does_not_pass_is_told_and_the_next_one_tried(
    world: World, config: Path
) -> None:
    settings = yaml.safe_load(Path("sft.yaml").read_text())
    Path("sft.yaml").write_text(yaml.safe_dump(settings | {"steps": 1, "lr": 1e-9}))
    result = run("--config", config, "calibrated=false")
    assert result.exit_code == 0, result.output
    assert "nothing was promoted; what was in use still is" in result.output
    assert not any(name.startswith("calibrate") for name in states())
    assert states()["gate-dpo"] == states()["gate-sft"] == "done"
    assert result.output.count("NOT PASSED") == 2
    assert Registry(Path("registry")).current() is None


@pytest.mark.slow
@pytest.mark.usefixtures("team")
def test_without_anything_held_out_nothing_is_promoted(world: World, config: Path) -> None:
    Path("preferences.yaml").write_text("val_share: 0.0\nsheet_pairs: 0\n")
    result = run("--config", config, "candidates=[sft]")
    assert result.exit_code == 0, result.output
    assert "nothing is held out yet, and gate_sets names no folder" in result.output


def test_two_nights_at_once_are_told(world: World, config: Path) -> None:
    with only_one(Path("nights/lock"), "The work folder nights", "a night"):
        result = run("--config", config)
    assert result.exit_code == 2 and "a night in process" in result.output


def test_the_journal_may_come_from_the_environment(world: World, config: Path) -> None:
    settings = yaml.safe_load(config.read_text())
    del settings["journal"]
    config.write_text(yaml.safe_dump(settings))
    arguments = ["nightly", "--config", str(config), "min_new_objects=1000"]
    result = CliRunner().invoke(main, arguments, env={"STROP_JOURNAL__URL": world.url})
    assert result.exit_code == 0 and "3 objects are new" in result.output, result.output
    written = [p for p in Path("nights").rglob("*.json") if world.url in p.read_text()]
    assert written == [Path(f"nights/{date.today()}/preferences/report.json")]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("candidates=[ppo]", "candidates must be some of dpo, sft"),
        ("start=yesterday", "start must be one of embedded, current"),
        ("use_held_out=false", "nothing would decide otherwise"),
        ("min_new_objets=3", "did you mean min_new_objects?"),
        ("preferences=none.yaml", "none.yaml cannot be read"),
        ("journal=sqlite:///nowhere.db", "no journal at nowhere.db"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    world: World, config: Path, setting: str, message: str
) -> None:
    result = run("--config", config, setting)
    assert result.exit_code == 2 and message in result.output
    assert "Traceback" not in result.output


def test_the_shipped_config_is_the_default() -> None:
    shipped = load_config(NightlyConfig, CONFIG)
    names = ("preferences", "sft", "dpo", "calibrate", "gate")
    files = {name: Path(f"configs/{name}.yaml") for name in names}
    assert shipped == NightlyConfig(journal="sqlite:///.strop/journal.db", **files)


# Folders ---------------------------------------------------------------------------------------


def finish(folder: Path, **report: Any) -> None:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps({"is_finished": True, **report}))


def test_a_night_goes_on_until_it_is_finished_or_old(tmp_path: Path) -> None:
    today = date(2026, 3, 2)
    assert night_folder(tmp_path, today) == tmp_path / "2026-03-02"
    (tmp_path / "2026-03-01").mkdir()
    assert night_folder(tmp_path, today) == tmp_path / "2026-03-01", "begun before midnight"
    assert night_folder(tmp_path, date(2026, 3, 3)) == tmp_path / "2026-03-03", "too old"
    finish(tmp_path / "2026-03-02")
    assert night_folder(tmp_path, today) == tmp_path / "2026-03-02-2"
    for number in range(2, 11):
        finish(tmp_path / f"2026-03-02-{number}")
    assert night_folder(tmp_path, today) == tmp_path / "2026-03-02-11"


def test_new_objects_are_counted_from_the_last_night_that_trained(tmp_path: Path) -> None:
    for name, n_objects in (("2026-03-01", 3), ("2026-03-02", 4), ("2026-03-03", 6)):
        folder = tmp_path / name / "preferences"
        folder.mkdir(parents=True)
        with TableWriter(folder, EXAMPLES) as table:
            for number in range(n_objects):
                table.write(example(f"o{number}", "0" * 64, "train"))
    assert count_new(tmp_path / "2026-03-03", tmp_path) == 6
    for name, has_trained in (("2026-03-01", True), ("2026-03-02", False)):
        content = {"is_finished": True, "has_trained": has_trained}
        (tmp_path / name / "report.json").write_text(json.dumps(content))
    assert count_new(tmp_path / "2026-03-03", tmp_path) == 3


def test_a_step_is_done_once_for_the_same_settings(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> dict[str, Any]:
        calls.append(1)
        return {"says": "made"}

    for settings in ({"a": 1}, {"a": 1}, {"a": 2}):
        NightlyState(tmp_path / "n").step("s", settings, work)
    assert len(calls) == 2

    def failing() -> dict[str, Any]:
        raise InputError("no")

    with pytest.raises(InputError):
        NightlyState(tmp_path / "n").step("s", {"a": 3}, failing)
    NightlyState(tmp_path / "n").step("s", {"a": 3}, work)
    assert len(calls) == 3


# What is held out ------------------------------------------------------------------------------


def test_overlapping_objects_come_on_copies_of_their_image(tmp_path: Path) -> None:
    masks = [rle(14), rle(9), encode_rle(disc(55, 55, 7))]
    examples = [example(f"o{n}", "0" * 64, "val", mask) for n, mask in enumerate(masks)]
    first, second = label_maps(examples)
    assert (first == 1).sum() == decode_rle(masks[0]).sum()
    assert (first == 2).sum() == decode_rle(masks[2]).sum()
    assert (second == 1).sum() == decode_rle(masks[1]).sum()


def test_what_is_held_out_is_a_data_set(tmp_path: Path) -> None:
    from adaptation.storage.datasets import FolderSet

    album, folder = Album(tmp_path / "album"), tmp_path / "preferences"
    folder.mkdir()
    image_id = write_image(album, 1)
    with TableWriter(folder, EXAMPLES) as table:
        for name, split, image in (
            ("a", "val", image_id), ("b", "val", image_id), ("c", "train", image_id),
            ("d", "val", "f" * 64),
        ):  # fmt: skip
            table.write(example(name, image, split))  # type: ignore[arg-type]
    counts = write_held_out(folder, album, tmp_path / "held-out")
    assert counts == {"objects": 2, "images": 1, "left_out": 1}
    found = FolderSet(tmp_path / "held-out")
    refs = list(found.objects())
    assert len(refs) == 2 and {ref.group for ref in refs} == {image_id}
    assert (found.image(refs[0].stem) == album.read(image_id)).all()
    assert (found.mask(refs[0]) == decode_rle(rle(14))).all()
    write_held_out(folder, album, tmp_path / "held-out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["album", "held-out", "preferences"]


def test_the_steps_can_be_called_from_python(world: World, config: Path) -> None:
    def through(results: Iterator[Any], n: int, what: str) -> Iterable[Any]:
        return results

    asked = load_config(NightlyConfig, config, ["min_new_objects=31"])
    assert nightly.run(asked, "c", through)["promoted"] is None
