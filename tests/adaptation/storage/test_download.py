"""Downloads, from a real server that breaks off, forgets and lies."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptation.errors import ModelError
from adaptation.storage.download import Download, download
from tests.adaptation.file_server import ServedFile, serving

CONTENT = np.random.default_rng(0).bytes(700_000)
BREAK = 4 << 16  # a whole number of blocks: nothing that arrived is lost
OTHER = np.random.default_rng(1).bytes(650_000)


@pytest.fixture
def served() -> Iterator[ServedFile]:
    with serving(ServedFile(content=CONTENT)) as file:
        yield file


def job_for(served: ServedFile, folder: Path, **changes: Any) -> Download:
    values: dict[str, Any] = {
        "url": served.url,
        "path": folder / "models" / "weights.pth",
        "sha256": ServedFile(content=CONTENT).sha256,
        "pause_s": 0.0,
        "timeout_s": 5.0,
    }
    return Download(**(values | changes))


def leftovers(job: Download) -> set[str]:
    return {path.name for path in job.path.parent.iterdir()} - {"weights.pth.lock"}


def test_a_file_arrives_whole_and_leaves_nothing_else(served: ServedFile, tmp_path: Path) -> None:
    job = job_for(served, tmp_path)
    assert download(job) == job.path
    assert job.path.read_bytes() == CONTENT
    assert leftovers(job) == {"weights.pth"}


def test_a_file_that_is_there_is_not_fetched_again(served: ServedFile, tmp_path: Path) -> None:
    job = job_for(served, tmp_path)
    download(job)
    download(job)
    assert len(served.requests) == 1


@pytest.mark.parametrize("sends_tag", [True, False])
def test_a_broken_download_goes_on_where_it_stopped(
    served: ServedFile, tmp_path: Path, sends_tag: bool
) -> None:
    served.sends_tag = sends_tag
    served.breaks = [BREAK]
    job = job_for(served, tmp_path)
    download(job)
    assert job.path.read_bytes() == CONTENT
    first, second = served.requests
    assert "Range" not in first
    assert second["Range"] == f"bytes={BREAK}-"
    assert second["If-Range"] == served.validator


@settings(max_examples=15)
@given(breaks=st.lists(st.integers(0, 400_000), max_size=4), has_ranges=st.booleans())
def test_wherever_it_breaks_the_file_arrives(
    tmp_path_factory: pytest.TempPathFactory, breaks: list[int], has_ranges: bool
) -> None:
    content = ServedFile(content=CONTENT, breaks=breaks, has_ranges=has_ranges)
    with serving(content) as served:
        job = job_for(served, tmp_path_factory.mktemp("download"))
        assert download(job).read_bytes() == CONTENT


def test_a_later_process_resumes_too(served: ServedFile, tmp_path: Path) -> None:
    served.breaks = [BREAK, 0, 0, 0]
    job = job_for(served, tmp_path, max_failures=2)
    with pytest.raises(ModelError, match="kept breaking of"):
        download(job)
    assert job.partial.stat().st_size == BREAK
    served.breaks.clear()
    download(job)
    assert served.requests[-1]["Range"] == f"bytes={BREAK}-"
    assert job.path.read_bytes() == CONTENT


def test_a_server_without_ranges_starts_over(served: ServedFile, tmp_path: Path) -> None:
    served.has_ranges = False
    served.breaks = [BREAK]
    assert download(job_for(served, tmp_path)).read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(
    served: ServedFile, tmp_path: Path
) -> None:
    served.content = OTHER
    served.breaks = [BREAK, 0]
    job = job_for(served, tmp_path, max_failures=1)
    with pytest.raises(ModelError):
        download(job)
    served.content = CONTENT
    served.breaks.clear()
    assert download(job).read_bytes() == CONTENT
    assert "If-Range" in served.requests[-1]


def test_a_wrong_joint_is_noticed_and_mended(served: ServedFile, tmp_path: Path) -> None:
    # Another file's bytes in front, under the validator of the right one.
    job = job_for(served, tmp_path)
    served.breaks = [BREAK, 0]
    with pytest.raises(ModelError):
        download(job_for(served, tmp_path, max_failures=1))
    job.partial.write_bytes(OTHER[:BREAK])
    served.breaks.clear()
    assert download(job).read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_dropped(served: ServedFile, tmp_path: Path) -> None:
    served.breaks = [BREAK, 0]
    with pytest.raises(ModelError):
        download(job_for(served, tmp_path, max_failures=1))
    job = job_for(served, tmp_path)
    job.partial.write_bytes(CONTENT + b"more")
    served.breaks.clear()
    assert download(job).read_bytes() == CONTENT


def test_a_part_that_is_complete_is_only_verified(served: ServedFile, tmp_path: Path) -> None:
    served.breaks = [BREAK, 0]
    with pytest.raises(ModelError):
        download(job_for(served, tmp_path, max_failures=1))
    job = job_for(served, tmp_path)
    job.partial.write_bytes(CONTENT)
    served.breaks = [0]
    assert download(job).read_bytes() == CONTENT


def test_a_part_of_another_address_is_dropped(served: ServedFile, tmp_path: Path) -> None:
    served.breaks = [BREAK, 0]
    with pytest.raises(ModelError):
        download(job_for(served, tmp_path, max_failures=1))
    served.breaks.clear()
    download(job_for(served, tmp_path, url=served.url + "?mirror"))
    assert "Range" not in served.requests[-1]


def test_a_server_that_resumes_elsewhere_is_not_believed(
    served: ServedFile, tmp_path: Path
) -> None:
    served.breaks = [BREAK]
    served.shift = 10
    assert download(job_for(served, tmp_path)).read_bytes() == CONTENT


def test_a_wrong_digest_is_never_put_down(served: ServedFile, tmp_path: Path) -> None:
    served.content = OTHER
    job = job_for(served, tmp_path)
    with pytest.raises(ModelError, match=f"sha256 {served.sha256}, expected {job.sha256}"):
        download(job)
    assert leftovers(job) == set()


def test_a_busy_server_is_asked_again(served: ServedFile, tmp_path: Path) -> None:
    served.statuses = [503, 502]
    assert download(job_for(served, tmp_path)).read_bytes() == CONTENT


def test_a_refusal_is_final_and_says_what_to_do(served: ServedFile, tmp_path: Path) -> None:
    served.statuses = [403]
    job = job_for(served, tmp_path)
    with pytest.raises(ModelError, match="answered 403") as caught:
        download(job)
    assert job.by_hand in str(caught.value)
    assert len(served.requests) == 1


def test_a_silent_server_times_out(served: ServedFile, tmp_path: Path) -> None:
    served.pause_s = 30.0
    with pytest.raises(ModelError, match=r"did not answer within 0\.1 s"):
        download(job_for(served, tmp_path, timeout_s=0.1, max_failures=1))


def test_without_a_network_the_user_learns_the_way_by_hand(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/weights.pth"
        job = job_for(ServedFile(content=b"", url=url), tmp_path, max_failures=2)
        with pytest.raises(ModelError, match="Cannot reach 127.0.0.1") as caught:
            download(job)
    message = str(caught.value)
    assert f"fetch {url} by hand" in message
    assert f"put it into {job.path.parent} as weights.pth" in message
    assert f"sha256 must be {job.sha256}" in message


def test_a_full_disk_keeps_what_arrived(served: ServedFile, tmp_path: Path) -> None:
    job = job_for(served, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        with pytest.raises(ModelError, match="is full; what has arrived is kept"):
            download(job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    arrived = job.partial.stat().st_size
    assert 0 < arrived <= 400_000
    download(job)
    assert served.requests[-1]["Range"] == f"bytes={arrived}-"
    assert job.path.read_bytes() == CONTENT


def test_too_small_a_disk_is_noticed_before(tmp_path: Path, served: ServedFile) -> None:
    served.claimed_bytes = 1 << 60
    with pytest.raises(ModelError, match=r"more bytes are needed, [\d,]+ are free"):
        download(job_for(served, tmp_path))


def test_a_folder_that_cannot_be_made_is_named(served: ServedFile, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ModelError, match=r"Cannot write weights\.pth into .*models"):
        download(job_for(served, tmp_path))


def test_threads_that_want_the_same_file_fetch_it_once(served: ServedFile, tmp_path: Path) -> None:
    job = job_for(served, tmp_path)
    threads = [threading.Thread(target=download, args=(job,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert job.path.read_bytes() == CONTENT
    assert len(served.requests) == 1


def test_two_processes_fetch_it_once(served: ServedFile, tmp_path: Path) -> None:
    served.pause_s = 0.5
    job = job_for(served, tmp_path)
    script = (
        "import sys; from pathlib import Path; from adaptation.storage.download import *;"
        "download(Download(url=sys.argv[1], path=Path(sys.argv[2]), sha256=sys.argv[3]))"
    )
    command = [sys.executable, "-c", script, job.url, str(job.path), job.sha256]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert job.path.read_bytes() == CONTENT
    assert len(served.requests) == 1


def test_progress_is_drawn_from_where_it_resumes(
    served: ServedFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    served.breaks = [BREAK]
    download(job_for(served, tmp_path, show_progress=True))
    drawn = capsys.readouterr().err
    assert "weights.pth:  37%" in drawn
    assert "100%" in drawn
