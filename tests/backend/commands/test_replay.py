"""Sessions made again from the journal: the same bytes as the live service saved."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptation.errors import InputError
from adaptation.models.compact.model import build_compact
from backend.cli import main
from backend.commands.replay import Replayed, replay
from backend.wiring import load_sam
from tests.backend.learning_kit import (
    FAST,
    delete,
    disk,
    draw,
    events_of,
    handed_over,
    learning_of,
    learning_service,
    rest,
    version_now,
)
from tests.backend.service_kit import WatchedSam, journal_of, settings_for

SESSION = Path("sessions") / "project-1.safetensors"


def replayed(folder: Path, *, check: bool = True, **overrides: object) -> list[Replayed]:
    return replay(settings_for(folder, **overrides), None, check=check, sam=WatchedSam())


def bits(path: Path) -> dict[str, bytes]:
    """All numbers of an adapter's file; safetensors writes its header in any order."""
    return {name: value.numpy().tobytes() for name, value in load_file(path).items()}


def newest_version(folder: Path) -> str:
    """Of the session, as the journal has it."""
    with journal_of(folder) as journal:
        versions = [e.payload["version"] for e in journal.events() if "version" in e.payload]
    return str(versions[-1])


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a session leaves behind: objects, an un-learned annotation, a restart in between."""
    folder = tmp_path_factory.mktemp("life") / "data"
    with learning_service(folder) as service:
        for number in range(3):
            draw(service, number, n_clicks=1 + number)
            rest(service)
        delete(service, 1)
        rest(service)
        shutil.copy(folder / SESSION, folder / "older")
        draw(service, 3)
        rest(service)
    with learning_service(folder) as service:
        draw(service, 4)
        draw(service, 6)
        rest(service)
        draw(service, 5, mask=np.zeros_like(disk()))
        rest(service)
    return folder


@pytest.fixture
def lived(life: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(life, tmp_path / "data")
    return tmp_path / "data"


def test_the_journal_gives_the_bits_of_the_live_session(lived: Path) -> None:
    saved = bits(lived / SESSION)
    with journal_of(lived) as journal:
        events = [(event.kind, event.payload) for event in journal.events()]
    starts = [payload["start"] for kind, payload in events if kind == "session_began"]
    assert starts == ["base", "saved"]
    kinds = [kind for kind, _ in events]
    assert kinds.count("forgot") == 1 and kinds.count("thought") >= 4
    shutil.rmtree(lived / "embeddings")  # images come from the album, and are encoded again
    shutil.rmtree(lived / "sessions")

    (found,) = replayed(lived, check=False)

    assert (found.name, found.n_objects, found.difference) == ("project-1", 6, None)
    assert bits(lived / SESSION) == saved != {}
    assert "it has no file" in str(found)


@pytest.mark.parametrize("file", ["lost", "torn", "older"])
def test_a_file_that_is_not_the_journal_s_last_is_made_again_by_the_service(
    lived: Path, file: str
) -> None:
    saved, path = bits(lived / SESSION), lived / SESSION
    if file == "older":
        shutil.copy(lived / "older", path)
        assert bits(path) != saved
    elif file == "torn":
        path.write_bytes(b"torn")
    else:
        path.unlink()
    with learning_service(lived) as service:
        rest(service)
        assert version_now(service, lived) == newest_version(lived)
    assert bits(path) == saved


def test_what_was_kept_but_not_taught_when_the_service_died_is_taught_by_the_next_one(
    tmp_path: Path,
) -> None:
    killed = tmp_path / "killed"
    with learning_service(tmp_path / "first") as service:
        draw(service, 0)
        rest(service)
        with learning_of(service).click():  # a click at work: learning stands still
            draw(service, 1)
            delete(service, 0)
            handed_over(service)
            shutil.copytree(tmp_path / "first", killed)  # the disk as a kill would leave it
    assert [e.payload["annotation_id"] for e in events_of(killed)] == ["100"]

    with learning_service(killed) as service:
        rest(service)
        version = version_now(service, killed)

    assert [e.payload["annotation_id"] for e in events_of(killed)] == ["100", "101"]
    assert [e.payload["annotation_id"] for e in events_of(killed, "forgot")] == ["100"]
    (found,) = replayed(killed)
    assert found.is_as_saved and found.n_objects == 1 and found.version == version
    with learning_service(killed) as service:
        rest(service)
    assert len(events_of(killed)) == 2, "a third start finds nothing to take up"


def test_an_annotation_of_before_the_restart_is_unlearned(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0)
        draw(service, 1)
        rest(service)
    with learning_service(tmp_path) as service:
        rest(service)
        draw(service, 2)
        rest(service)
        delete(service, 0)
        rest(service)
        draw(service, 3)
        rest(service)
    (found,) = replayed(tmp_path)
    assert found.is_as_saved and found.n_objects == 3
    (event,) = events_of(tmp_path, "forgot")
    assert event.payload["annotation_id"] == "100"


def test_what_was_clicked_before_learning_was_switched_on_is_not_learned(tmp_path: Path) -> None:
    with learning_service(tmp_path, learning__is_on=False) as service:
        draw(service, 0)
    with learning_service(tmp_path) as service:
        rest(service)
    assert events_of(tmp_path) == []
    with pytest.raises(InputError, match=r"learning\.is_on"):
        replayed(tmp_path)


def test_differences_are_told(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0)
        rest(service)
    tensors = load_file(tmp_path / SESSION)
    first = sorted(tensors)[0]
    tensors[first] = tensors[first] + 1
    metadata = {"decoder_id": WatchedSam().decoder_id, "version": "x"}
    save_file(tensors, tmp_path / SESSION, metadata)
    (found,) = replayed(tmp_path)
    assert not found.is_as_saved and "another one" in str(found)

    change_event(tmp_path, "learned", version="0123456789ab")
    (found,) = replayed(tmp_path, check=False)
    assert "learned led to" in str(found) and "0123456789ab" in str(found)
    assert load_file(tmp_path / SESSION)[first].equal(tensors[first]), "nothing is written over"


def test_a_session_whose_image_is_gone_says_so(tmp_path: Path) -> None:
    with learning_service(tmp_path) as service:
        draw(service, 0)
        rest(service)
    shutil.rmtree(tmp_path / "embeddings")
    shutil.rmtree(tmp_path / "images")
    (found,) = replayed(tmp_path)
    assert not found.is_as_saved and "album" in str(found)


def change_event(folder: Path, kind: str, **changes: object) -> None:
    """Tamper with the journal."""
    with sqlite3.connect(folder / "journal.db") as database:
        seq, payload = database.execute(
            "SELECT seq, payload FROM journal_events WHERE kind = ?", (kind,)
        ).fetchone()
        text = json.dumps({**json.loads(payload), **changes})
        database.execute("UPDATE journal_events SET payload = ? WHERE seq = ?", (text, seq))
    database.close()


def test_learned_objects_name_their_requests(tmp_path: Path) -> None:
    with learning_service(tmp_path, {**FAST, "think_patience": 0}) as service:
        draw(service, 0, n_clicks=30)
        rest(service)
    (event,) = events_of(tmp_path)
    with journal_of(tmp_path) as journal:
        made = [record.request_id for record in journal.interactions()]
    asked = event.payload["requests"]
    assert len(made) == 30 and len(asked) == 24
    assert asked[0] == made[0] and asked[-1] == made[-1]
    assert asked == [name for name in made if name in asked], "oldest first"


def test_the_command_tells_differences_by_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = build_compact(input_size=64, dim=16).state_dict()
    small = tmp_path / "small.safetensors"
    save_file(
        {n: v.contiguous() for n, v in model.items()}, small, {"input_size": "64", "dim": "16"}
    )
    settings = settings_for(tmp_path, model__checkpoint=small)
    with learning_service(tmp_path, sam=load_sam(settings), model__checkpoint=small) as service:
        draw(service, 0)
        rest(service)

    def run(*arguments: str) -> int:
        given = ["replay", "--data-dir", str(tmp_path), "--set", "inference.torch_threads=1"]
        command = ["strop", *given, "--set", f"model.checkpoint={small}", *arguments]
        monkeypatch.setattr("sys.argv", command)
        monkeypatch.setattr("backend.options.configure_logging", lambda level: None)
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0)

    assert run("--check") == 0
    assert "project-1: 1 objects" in capsys.readouterr().out
    (tmp_path / SESSION).unlink()
    assert run("--project", "1", "--check") == 1 and not (tmp_path / SESSION).exists()
    assert run("--project", "1") == 0 and (tmp_path / SESSION).exists()
    assert run("--project", "99") == 2
    assert "project 99" in capsys.readouterr().err
