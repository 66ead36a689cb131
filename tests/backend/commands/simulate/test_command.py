"""`strop simulate` as it is typed, with a server of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import save_file

from adaptation.models.compact.model import build_compact
from tests.backend.making import until
from tests.backend.service_kit import journal_of
from tests.backend.test_cli import run as run_strop
from tests.training.folders import write_set

ROOT = Path(__file__).resolve().parents[4]
# A job in the background inherits that Ctrl-C is ignored; a person's terminal does not do that.
START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from backend.cli import main
main()
"""
PROGRAM = [sys.executable, "-c", START, "simulate"]


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Two images, two objects each, three clicks an object, and a small compact model."""
    data, checkpoint = write_set(tmp_path / "rectangles", 2), tmp_path / "small.safetensors"
    tensors = build_compact(input_size=64, dim=16).state_dict()
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    save_file(contiguous, checkpoint, metadata={"input_size": "64", "dim": "16"})
    options = f"--serve --clicks 3 --set model.checkpoint={checkpoint}".split()
    options += ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "results.json")]
    return ["--data", str(data), *options]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*PROGRAM, *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "STROP_SERVER__PASSWORD": "not for simulations"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def counts(store: Path) -> tuple[int, list[int]]:
    """Interactions in a store's journal, and the regions of each submission."""
    with journal_of(store) as journal:
        submissions = list(journal.submissions())
        return sum(1 for _ in journal.interactions()), [len(s.regions) for s in submissions]


def servers(store: Path) -> list[int]:
    """Processes that write to a store's log (Linux)."""
    log, found = store / "server.log", []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "fd" / "2").resolve() == log.resolve():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_one_command_makes_a_journal_and_leaves_no_server_behind(
    arguments: list[str], tmp_path: Path
) -> None:
    process = start(arguments)
    said, _ = process.communicate(timeout=250)
    assert process.returncode == 0, said
    assert "painted" in said and f"journal: {tmp_path / 'store'}" in said
    assert counts(tmp_path / "store") == (12, [2, 2])
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["command"].startswith("strop simulate --data rectangles --clicks 3")
    assert content["sets"]["rectangles"]["objects"] == 4
    assert content["last_part"]["clicks"] == content["sets"]["rectangles"]["clicks"] == 12
    assert content["model_versions"][0].startswith("compact")
    until(lambda: not servers(tmp_path / "store"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_simulation_that_is_killed_takes_its_server_along_and_goes_on(
    arguments: list[str], tmp_path: Path
) -> None:
    store, lines = tmp_path / "store", tmp_path / "results.jsonl"
    process = start([*arguments, "--think", "0.5"])
    until_slowly(lambda: lines.exists() and len(lines.read_text().splitlines()) == 2)
    assert servers(store)
    process.kill()
    process.communicate()
    until_slowly(lambda: not servers(store))
    said, _ = start([*arguments, "--think", "0.5"]).communicate(timeout=250)
    assert "6 clicks in" in said, "one of two images was left"
    n_clicks, n_regions = counts(store)
    assert n_clicks >= 12, "what was clicked on the image that was begun is kept, too"
    assert n_regions == [2, 2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_ctrl_c_says_how_to_go_on(arguments: list[str], tmp_path: Path) -> None:
    process, lines = start([*arguments, "--think", "0.5"]), tmp_path / "results.jsonl"
    until_slowly(lambda: lines.exists() and len(lines.read_text().splitlines()) == 2)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "Stopped. 1 of 2 images are submitted; the same command goes on behind them." in said
    assert "Traceback" not in said
    assert not servers(tmp_path / "store")


@pytest.mark.slow
def test_a_server_that_does_not_start_shows_the_end_of_its_log(
    arguments: list[str], tmp_path: Path
) -> None:
    (tmp_path / "small.safetensors").write_bytes(b"no weights")
    process = start(arguments)
    said, _ = process.communicate(timeout=250)
    assert process.returncode == 2
    assert "The server did not start; the end of its log:" in said
    assert "small.safetensors" in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "--data names a folder"),
        (["--data", "no/such/folder"], "There is no folder no/such/folder"),
        (["no/such/folder"], "There is no folder no/such/folder"),
        (["--data", "x", "--store", "y"], "give --serve, too"),
        (["--data", "x", "--candidates", "3"], "give --serve, too"),
        (["--data", "x", "--serve", "--url", "http://localhost:1"], "give one"),
        (["--data", "x", "--serve", "--set", "learning.on=1"], "learning.on"),
        (
            ["--data", "x", "--serve", "--set", "learning"],
            "'learning' is not of the form KEY=VALUE",
        ),
        (["--data", "x", "--header", "secret"], "--header wants"),
        (["--data", "x", "--clicks", "0"], "--clicks"),
        (["--data", "x", "--clicker", "drunk"], "--clicker"),
        (["--data", "x", "--target-iou", "90"], "--target-iou is an IoU above 0"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(
    given: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_strop(monkeypatch, "simulate", *given) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said and "secret" not in said


def test_the_command_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_strop(monkeypatch, "simulate", "--help") == 0
    assert "Annotators who know the answer" in capsys.readouterr().out


def until_slowly(condition: object) -> None:
    """Wait for what other processes bring about, which takes them seconds to begin with."""
    assert callable(condition)
    end = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)
