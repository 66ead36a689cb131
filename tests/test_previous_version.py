"""What an earlier version left on the disk opens: tests/fixtures/previous, as 42a04b9 wrote it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import click
import pytest

from adaptation.journal import Journal
from adaptation.models.base_decoder import Registry
from adaptation.models.registry import RegistryWriter
from adaptation.storage.album import Album
from backend.cli import strop
from backend.commands.replay import replay
from backend.protocol.brush_rle import encode_brush
from backend.service.service import SegmentationService
from backend.settings import Settings, load_learner, load_settings
from tests.backend import service_kit
from tests.backend.learning_kit import events_of, rest
from tests.backend.payloads import keypoint, region, submission
from tests.backend.service_kit import (
    WatchedSam,
    click_on,
    data_uri,
    journal_of,
    pixels_of,
    regions_of,
    settings_for,
    shown_mask,
)
from tests.fixtures.previous.model import exact
from tests.training.tuning_kit import write_preferences
from training.cli import main as strop_train
from training.evaluation.config import EvaluateConfig
from training.finetune.calibration import CalibrationConfig
from training.finetune.dpo import DpoConfig
from training.finetune.sft import SftConfig
from training.nightly.config import NightlyConfig
from training.preferences.settings import PreferencesConfig
from training.pretrain.config import PretrainConfig
from training.promotion.config import GateConfig
from training.runtime.config import load_config

PREVIOUS = Path(__file__).parent / "fixtures" / "previous"
FOUND: dict[str, Any] = json.loads((PREVIOUS / "manifest.json").read_text())
SIZE = 64, 96
IMAGE = data_uri(pixels_of(5, SIZE))
CONFIGS = {
    "calibrate": CalibrationConfig,
    "dpo": DpoConfig,
    "evaluate": EvaluateConfig,
    "gate": GateConfig,
    "nightly": NightlyConfig,
    "preferences": PreferencesConfig,
    "pretrain": PretrainConfig,
    "sft": SftConfig,
}
GIVEN = {
    "calibrate": ["data=sets", "sets=[discs]"],
    "evaluate": ["data=sets"],
    "gate": ["gate_sets=[sets]"],
    "preferences": ["journal=sqlite:///journal.db", "album=images", "out=preferences"],
    "sft": ["data=sets", "sets=[discs]"],
}
"""What no documented config can say, as it stood on the command line."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A copy of the data folder that a server of then was started with."""
    return Path(shutil.copytree(PREVIOUS / "data", tmp_path / "data"))


@pytest.fixture(autouse=True)
def _the_model_of_then(monkeypatch: pytest.MonkeyPatch) -> None:
    random = service_kit.tiny_vit_sam
    monkeypatch.setattr(service_kit, "tiny_vit_sam", lambda: exact(random()))


def settings_of(data: Path) -> Settings:
    return settings_for(data, **OVERRIDES)


OVERRIDES: dict[str, object] = {
    "learning__is_on": True,
    "learning__config": PREVIOUS / "learner.yaml",
    "prefetch__is_on": False,
    "zoom__is_on": False,
}


def click_of(number: int) -> dict[str, Any]:
    spot = {"original_width": SIZE[1], "original_height": SIZE[0]}
    return click_on(IMAGE, keypoint(50, 50, id=f"kp-{number}", **spot), task=10 + number)


def draw(service: SegmentationService, number: int) -> None:
    answer = service.predict(click_of(number))
    mask = pixels_of(number, SIZE)[..., 0] > 100
    kept = region(
        "brush",
        {"format": "rle", "rle": encode_brush(mask)},
        id=regions_of(answer)[0]["id"],
        original_width=SIZE[1],
        original_height=SIZE[0],
    )
    service.webhook(submission(kept, id=100 + number, task=10 + number))


# The journal


def test_the_journal_s_rows_are_read_as_they_were_written(data: Path) -> None:
    with journal_of(data) as journal:
        interactions = [
            {
                "request_id": record.request_id,
                "adapter_version": record.adapter_version,
                "n_clicks": len(record.prompt.clicks),
                "mask": hashlib.sha256(shown_mask(record)).hexdigest(),
            }
            for record in journal.interactions()
        ]
        assert interactions == FOUND["interactions"]
        assert [s.annotation_id for s in journal.submissions()] == FOUND["annotations"]
        assert [[k.annotation_id, k.request_id] for k in journal.links()] == FOUND["links"]
        assert [event.kind for event in journal.events()] == FOUND["events"]


def test_the_journal_takes_new_entries(data: Path) -> None:
    with Journal(f"sqlite:///{data / 'journal.db'}") as journal:
        before = len(list(journal.entries()))
        journal.append_event("saved")
        assert len(list(journal.entries())) == before + 1


# Sessions, embeddings, the registry


def test_a_session_goes_on_upon_the_promoted_base_with_the_embeddings_of_then(data: Path) -> None:
    sam = WatchedSam()
    with service_kit.running_service(data, sam, **OVERRIDES) as service:
        service.predict(click_of(3))
        assert not sam.encoded, "the embedding of then was used"
        with journal_of(data) as journal:
            *_, last = journal.interactions()
        assert last.adapter_version == FOUND["versions"]["kept"]
        assert last.decoder_id == Registry(data / "registry").load_current(WatchedSam()).decoder_id
        draw(service, 4)
        rest(service)
    began, learned = events_of(data, "session_began")[-1], events_of(data)[-1]
    assert (began.payload["start"], began.payload["version"]) == ("saved", last.adapter_version)
    assert learned.payload["skipped"] is None and learned.payload["annotation_id"] == "104"


def test_rolling_back_brings_the_session_of_before(data: Path) -> None:
    writer = RegistryWriter(data / "registry")
    assert [version.name for version in writer.versions()] == ["kept"]
    assert [(e.action, e.before, e.now) for e in writer.history()] == [
        ("promote", "embedded", "kept")
    ]
    with writer.locked("roll back"):
        assert writer.roll_back() == "embedded"
    with service_kit.running_service(data, **OVERRIDES) as service:
        _, version = service.served.learning.weights("1", "Object", "7")
    assert version == FOUND["versions"]["embedded"]


def test_sessions_can_be_replayed(data: Path) -> None:
    (session,) = replay(settings_of(data), None, check=True, sam=WatchedSam())
    assert (session.name, session.n_objects) == ("project-1", 1)
    assert session.saved == FOUND["versions"]["kept"]


def test_the_album_holds_the_image(data: Path) -> None:
    pixels = Album(data / "images").read(FOUND["image_id"])
    assert hashlib.sha256(pixels).hexdigest() == FOUND["pixels"]
    assert (pixels == pixels_of(5, SIZE)).all()


# Settings and command lines


def test_the_documented_settings_of_then_are_valid() -> None:
    settings = load_settings(PREVIOUS / "configs" / "serve.yaml", environ={})
    assert settings.server.port == 9090
    assert load_learner(PREVIOUS / "configs" / "learner.yaml").steps == 8
    assert load_learner(PREVIOUS / "learner.yaml").subset == "norms"


@pytest.mark.parametrize("name", CONFIGS)
def test_the_documented_config_of_then_is_valid(name: str, tmp_path: Path) -> None:
    given = list(GIVEN.get(name, ()))
    if name == "dpo":  # asks for folders that are there
        folder, album = write_preferences(tmp_path)
        given = [f"preferences=[{folder}]", f"album={album}"]
    path = PREVIOUS / "configs" / f"{name}.yaml"
    config = load_config(CONFIGS[name], path, given)
    assert isinstance(config, CONFIGS[name])


def test_every_config_of_then_is_tried() -> None:
    found = {path.stem for path in (PREVIOUS / "configs").glob("*.yaml")}
    assert found == {*CONFIGS, "serve", "learner"}


def options_of(command: click.Command) -> set[str]:
    return {
        name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


def assert_accepts(command: click.Command, then: dict[str, Any], line: str) -> None:
    assert not set(then["options"]) - options_of(command), line
    arguments = [p.name for p in command.params if isinstance(p, click.Argument)]
    assert arguments == then["arguments"], line
    for name, below in then.get("commands", {}).items():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"{line} {name}"
        assert_accepts(found, below, f"{line} {name}")


@pytest.mark.parametrize("program", [strop, strop_train], ids=["strop", "strop-train"])
def test_the_command_lines_of_then_are_accepted(program: click.Group) -> None:
    lines = json.loads((PREVIOUS / "command_lines.json").read_text())
    name = "strop" if program is strop else "strop-train"
    assert_accepts(program, lines[name], name)
