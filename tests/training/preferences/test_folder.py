from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adaptation.errors import InputError, StoreError
from training.preferences.folder import preferences_folder
from training.preferences.rows import FORMAT

MAKING = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
from training.preferences.folder import preferences_folder
with preferences_folder(Path(sys.argv[1]), replace=True) as folder:
    (folder / "report.json").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def make(out: Path, title: str = "", *, replace: bool = False) -> None:
    with preferences_folder(out, replace=replace) as folder:
        assert not out.exists() or replace
        (folder / "report.json").write_text(json.dumps({"format": FORMAT, "title": title}))


def title(out: Path) -> str:
    return str(json.loads((out / "report.json").read_text())["title"])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_folder_appears_whole_with_its_parents(tmp_path: Path) -> None:
    make(tmp_path / "a" / "b")
    assert names(tmp_path / "a") == {"b"} and names(tmp_path / "a" / "b") == {"report.json"}


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), preferences_folder(tmp_path / "out"):
        raise KeyboardInterrupt
    assert not names(tmp_path)


def test_an_older_folder_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, "old")
    with pytest.raises(InputError, match="exists already.*--replace"):
        make(out, "new")
    assert title(out) == "old"
    make(out, "new", replace=True)
    assert title(out) == "new" and names(tmp_path) == {"out"}


def test_a_failed_replacement_keeps_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, "old")
    with pytest.raises(RuntimeError), preferences_folder(out, replace=True):
        raise RuntimeError
    assert title(out) == "old" and names(tmp_path) == {"out"}


def test_nobodys_other_files_are_replaced(tmp_path: Path) -> None:
    for report in (None, "{}", "[]", "{", '{"format": "another"}'):
        if report is not None:
            (tmp_path / "report.json").write_text(report)
        with pytest.raises(InputError, match="no folder of preferences"):
            make(tmp_path, replace=True)
    assert names(tmp_path) == {"report.json"}


def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("adaptation.storage.files.os.fsync", full)
    with pytest.raises(StoreError, match=r"No space left on device\): make room on the disk"):
        make(tmp_path / "out")
    assert not names(tmp_path)


def test_where_nothing_can_be_written_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        make(tmp_path / "file" / "out")


def start(out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKING, str(out)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_two_jobs_do_not_make_the_same_folder(tmp_path: Path) -> None:
    with start(tmp_path / "out") as process:
        with pytest.raises(InputError, match="Another job is making"):
            make(tmp_path / "out")
        process.send_signal(signal.SIGINT)
    assert not names(tmp_path)


def test_a_killed_job_harms_nobody_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, "old")
    with start(out) as process:
        process.kill()
    assert title(out) == "old"
    assert len(names(tmp_path)) == 3, "the draft and the lock were left"
    make(out, "new", replace=True)
    assert title(out) == "new" and names(tmp_path) == {"out"}


def test_a_job_killed_while_it_replaced_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, "old")
    out.rename(tmp_path / ".out.01234567.replaced")
    with pytest.raises(InputError, match="exists already"):
        make(out, "new")
    assert title(out) == "old" and names(tmp_path) == {"out"}
