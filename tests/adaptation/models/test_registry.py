"""The registry's writing side: whole versions, one switch, a history, one writer at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from adaptation.errors import InputError, ModelError, StoreError
from adaptation.models.base_decoder import EMBEDDED, Registry, read_card, save_base
from adaptation.models.registry import RegistryWriter, default_name
from tests.training.fakes import tiny_model


def base_file(path: Path, seed: int) -> Path:
    sam = tiny_model()
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        n: v + 0.01 * torch.randn(v.shape, generator=generator)
        for n, v in sam.decoder_parameters().items()
    }
    save_base(path, sam, tensors, "sft", {"seed": seed})
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bases")
    return [base_file(folder / f"{n}.safetensors", n) for n in range(3)]


@pytest.fixture
def writer(tmp_path: Path) -> RegistryWriter:
    return RegistryWriter(tmp_path / "registry")


def promoted(writer: RegistryWriter, *versions: tuple[str, Path]) -> None:
    for name, file in versions:
        with writer.locked("test"):
            writer.add(name, file, {"name": name})
            writer.promote(name, "test")


def test_a_promoted_version_is_in_use_with_its_card(
    writer: RegistryWriter, files: list[Path]
) -> None:
    promoted(writer, ("v1", files[0]))
    assert Registry(writer.folder).current() == "v1"
    assert writer.reader.path("v1").read_bytes() == files[0].read_bytes()
    (version,) = writer.versions()
    assert version.is_current and version.card == {"name": "v1"}
    (entry,) = writer.history()
    assert (entry.action, entry.before, entry.now) == ("promote", EMBEDDED, "v1")
    assert entry.decoder_id == read_card(files[0]).decoder_id


def test_rolling_back_goes_one_further_each_time_down_to_the_models_own(
    writer: RegistryWriter, files: list[Path]
) -> None:
    promoted(writer, ("v1", files[0]), ("v2", files[1]))
    with writer.locked("test"):
        assert writer.roll_back() == "v1"
        assert writer.reader.current() == "v1"
        assert writer.roll_back() == EMBEDDED
        assert writer.reader.current() is None
        with pytest.raises(InputError, match="nothing to roll back to"):
            writer.roll_back()
    assert writer.reader.versions() == ["v1", "v2"], "nothing is deleted"
    assert [e.action for e in writer.history()] == ["promote"] * 2 + ["rollback"] * 2


def test_a_promotion_after_a_roll_back_goes_back_to_where_it_came_from(
    writer: RegistryWriter, files: list[Path]
) -> None:
    promoted(writer, ("v1", files[0]), ("v2", files[1]))
    with writer.locked("test"):
        writer.roll_back()
    promoted(writer, ("v3", files[2]))
    assert writer.in_use() == [EMBEDDED, "v1", "v3"]
    with writer.locked("test"):
        assert writer.roll_back(EMBEDDED, "all of it was bad") == EMBEDDED
    assert writer.history()[-1].reason == "all of it was bad"


def test_only_what_was_in_use_can_be_rolled_back_to(
    writer: RegistryWriter, files: list[Path]
) -> None:
    promoted(writer, ("v1", files[0]))
    with writer.locked("test"):
        writer.add("v2", files[1], {})
        with pytest.raises(InputError, match="'v2' was not in use before v1; embedded were"):
            writer.roll_back("v2")


def test_a_version_that_is_gone_is_not_rolled_back_to(
    writer: RegistryWriter, files: list[Path]
) -> None:
    promoted(writer, ("v1", files[0]), ("v2", files[1]))
    writer.reader.path("v1").unlink()
    with writer.locked("test"):
        with pytest.raises(ModelError, match="no base"):
            writer.roll_back()
    assert writer.reader.current() == "v2"


def test_a_name_is_given_once(writer: RegistryWriter, files: list[Path]) -> None:
    promoted(writer, ("v1", files[0]))
    with writer.locked("test"):
        writer.add("v1", files[0], {})
        with pytest.raises(InputError, match="There is a version v1 already"):
            writer.add("v1", files[1], {})


def test_names_say_what_and_when(files: list[Path]) -> None:
    card = read_card(files[0])
    assert default_name(card).endswith(f"-sft-{card.decoder_id[:8]}")


def test_two_writers_at_once_are_told(writer: RegistryWriter, files: list[Path]) -> None:
    with writer.locked("promote a.safetensors"):
        with pytest.raises(StoreError, match=r"promote a\.safetensors in process \d+ since"):
            with RegistryWriter(writer.folder).locked("other"):
                pass
    with RegistryWriter(writer.folder).locked("after it"):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
import adaptation.storage.files as files
import adaptation.models.registry as registry
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(files if sys.argv[1] == "_sync" else registry, sys.argv[1], die)
writer = registry.RegistryWriter(Path(sys.argv[2]))
with writer.locked("to be killed"):
    writer.add("v2", Path(sys.argv[3]), {})
    writer.promote("v2", "killed")
"""


@pytest.mark.parametrize("where", [pytest.param("_sync", marks=pytest.mark.slow), "write_text"])
def test_a_killed_promotion_breaks_nothing_and_can_be_run_again(
    writer: RegistryWriter, files: list[Path], where: str
) -> None:
    promoted(writer, ("v1", files[0]))
    arguments = [sys.executable, "-c", KILLED, where, str(writer.folder), str(files[1])]
    killed = subprocess.run(arguments, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert writer.reader.current() == "v1"
    assert writer.in_use() == [EMBEDDED, "v1"]
    assert [v.is_current for v in writer.versions()][0]
    promoted(writer, ("v2", files[1]))
    assert writer.reader.current() == "v2"
    assert writer.in_use() == [EMBEDDED, "v1", "v2"]
    actions = [e.action for e in writer.history()]
    assert actions == ["promote", *(["promote", "undone"] if where == "write_text" else []),
                       "promote"]  # fmt: skip


def test_a_killed_roll_back_keeps_what_lies_below(
    writer: RegistryWriter, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    promoted(writer, ("v1", files[0]), ("v2", files[1]))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("adaptation.models.registry.write_text", full)
        with pytest.raises(OSError, match="No space"):
            with writer.locked("test"):
                writer.roll_back()
    assert writer.reader.current() == "v2"
    promoted(writer, ("v3", files[2]))
    assert writer.in_use() == [EMBEDDED, "v1", "v2", "v3"]


def test_a_torn_last_line_of_the_history_costs_that_line_only(
    writer: RegistryWriter, files: list[Path]
) -> None:
    promoted(writer, ("v1", files[0]))
    with (writer.folder / "history.jsonl").open("a") as file:
        file.write('{"at": "2026')
    promoted(writer, ("v2", files[1]))
    assert [e.now for e in writer.history()] == ["v1", "v2"]
    lines = (writer.folder / "history.jsonl").read_text().splitlines()
    assert len(lines) == 3 and json.loads(lines[2])["now"] == "v2"


def test_a_current_file_written_by_hand_is_believed(
    writer: RegistryWriter, files: list[Path]
) -> None:
    with writer.locked("test"):
        writer.add("v1", files[0], {})
    (writer.folder / "current").write_text("v1\n")
    assert writer.in_use() == [EMBEDDED, "v1"]
    with writer.locked("test"):
        assert writer.roll_back() == EMBEDDED
