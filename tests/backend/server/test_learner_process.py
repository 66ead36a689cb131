"""`strop learn`: one learner works, another one takes over, and the first writes nothing more."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from adaptation.errors import SettingsError
from backend.commands.learn import learn
from backend.commands.replay import replay
from backend.server.folder_lock import lock_learning
from backend.service.service import SegmentationService
from backend.settings import check_together
from backend.wiring import load_sam
from tests.backend.learning_kit import FAST, draw
from tests.backend.server_process import Command, save_small_checkpoint
from tests.backend.service_kit import journal_of, running_service, settings_for
from tests.backend.team_kit import learned, n_saved, request_of, stop_process, until, wake

pytestmark = pytest.mark.timeout(900)


class Learners:
    """`strop learn` as often as one likes, and a service that answers clicks for it.

    Args:
        folder: Of everything; `data` in it is the data folder.
        learner: How sessions learn.
    """

    def __init__(self, folder: Path, learner: dict[str, Any]) -> None:
        self.folder, self.data = folder, folder / "data"
        config = folder / "learner.yaml"
        config.write_text(yaml.safe_dump({**learner, "think_steps": 0}))
        self.given: dict[str, object] = {
            "model.checkpoint": save_small_checkpoint(folder / "small.safetensors"),
            "inference.torch_threads": 1,
            "learning.config": config,
            "learning.is_on": True,
            "learning.process": "apart",
            "learning.lease_s": 5,
        }
        self.overrides = {key.replace(".", "__"): value for key, value in self.given.items()}

    @contextmanager
    def learner(self, name: str) -> Iterator[Command]:
        """A learner."""
        assignments = [f"{key}={value}" for key, value in self.given.items()]
        arguments = ["learn", "--data-dir", str(self.data)]
        for assignment in assignments:
            arguments += ["--set", assignment]
        command = Command(arguments, self.folder / f"{name}.txt")
        try:
            yield command
        finally:
            command.kill()

    @contextmanager
    def service(self) -> Iterator[SegmentationService]:
        """What answers clicks, in this process."""
        model = load_sam(settings_for(self.data, **self.overrides))
        with running_service(self.data, model, **self.overrides) as service:
            yield service

    def written(self) -> tuple[dict[str, int], dict[str, str]]:
        """How much the journal holds, and the digests of all adapters."""
        with journal_of(self.data) as journal:
            counts = journal.counts()
        files = (self.data / "sessions").rglob("*")
        found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files if p.is_file()}
        return counts, found


def test_a_learner_that_was_stopped_past_its_lease_writes_nothing(tmp_path: Path) -> None:
    learners = Learners(tmp_path, {**FAST, "steps": 60})
    with ExitStack() as stack:
        service = stack.enter_context(learners.service())
        first = stack.enter_context(learners.learner("first"))
        first.wait_until_it_says("learning, lease")
        second = stack.enter_context(learners.learner("second"))
        second.wait_until_it_says("another learner is at work")
        draw(service, 0)
        until(lambda: learned(learners.data) == ["100"])

        draw(service, 1)
        first.wait_until_it_says("annotation 101 of task 11 was created")
        _stop_between_writes(first.process.pid, learners)
        assert learned(learners.data) == ["100"], "it was stopped in the middle of training"
        second.wait_until_it_says("learning, lease")
        until(lambda: learned(learners.data) == ["100", "101"])
        until(lambda: n_saved(learners.data) == 2)
        before = learners.written()
        wake(first.process.pid)
        first.wait_until_it_says("another learner has taken over")
        first.wait_until_it_says("another learner is at work")
        assert learners.written() == before

        draw(service, 2)
        until(lambda: learned(learners.data) == ["100", "101", "102"])
        until(lambda: n_saved(learners.data) == 3)
        answer = service.predict(request_of(3, 1))
        assert "learned from 3 objects" in answer["results"][0]["model_version"]

        # One that ends gives its lease back: nobody waits for it to run out.
        assert second.stop() == 0
        first.wait_until_it_says("learning, lease", 2)
        assert first.stop() == 0
    for session in replay(settings_for(learners.data, **learners.overrides), None, check=True):
        assert session.is_as_saved, str(session)


def _stop_between_writes(pid: int, learners: Learners) -> None:
    """Stop a learner where it does not hold the journal, so that others can write."""
    while True:
        stop_process(pid)
        with closing(sqlite3.connect(learners.data / "journal.db", timeout=0.2)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                wake(pid)
                time.sleep(0.01)
            else:
                return


def test_what_was_asked_of_sessions_is_done_by_the_learner(tmp_path: Path) -> None:
    from backend.learning.commands import SessionCommand

    learners = Learners(tmp_path, FAST)
    with learners.service() as service, learners.learner("learner") as learner:
        draw(service, 0)
        until(lambda: learned(learners.data) == ["100"])
        command = SessionCommand(project_id="1", action="begin anew", session="project-1")
        service.ask(command)
        learner.wait_until_it_says("begin anew: begins anew")
        answer = draw(service, 1)
        assert "learned" not in answer["results"][0]["model_version"]


def test_a_server_that_learns_itself_and_a_learner_refuse_each_other(tmp_path: Path) -> None:
    inside = lock_learning(tmp_path, inside=True)
    with pytest.raises(SettingsError, match="A server with the data folder .* learns itself"):
        lock_learning(tmp_path, inside=False)
    os.close(inside)
    apart = [lock_learning(tmp_path, inside=False) for _ in range(2)]
    with pytest.raises(SettingsError, match="A learner works with the data folder"):
        lock_learning(tmp_path, inside=True)
    for held in apart:
        os.close(held)


def test_a_learner_is_refused_where_the_server_sees_to_learning(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="set learning.process to apart"):
        learn(settings_for(tmp_path, server__workers=2))


def test_settings_that_a_learner_apart_cannot_do_are_refused(tmp_path: Path) -> None:
    check_together(settings_for(tmp_path, proposals__is_on=True, album__is_on=False))
    several = settings_for(
        tmp_path,
        server__workers=2,
        learning__is_on=True,
        album__is_on=False,
        proposals__is_on=True,
    )
    with pytest.raises(SettingsError) as caught:
        check_together(several)
    told = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in told[1:]] == ["album.is_on", "proposals.is_on"]
    with pytest.raises(SettingsError, match="learning.process is apart"):
        check_together(settings_for(tmp_path, learning__process="apart", proposals__is_on=True))
