"""`strop serve --workers 2` as processes: any worker answers alike, and any may be killed."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend.wiring import load_sam
from tests.backend.payloads import keypoint, rectangle
from tests.backend.service_kit import (
    click_on,
    interactions_of,
    mask_of,
    running_service,
    settings_for,
)
from tests.backend.team_kit import (
    IMAGES,
    Team,
    check_whole,
    clicks_of,
    learned,
    n_saved,
    request_of,
    shown_in,
    stop_process,
    submission_of,
    until,
)

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks into /proc"),
    pytest.mark.timeout(900),
]


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    team = Team(tmp_path)
    try:
        team.wait_until_all_are_up()
        yield team
    finally:
        team.kill()


def test_workers_answer_alike_and_any_of_them_and_the_learner_may_be_killed(
    team: Team, tmp_path: Path
) -> None:
    """In one test, because a server takes a while to start."""
    first, second = team.workers()
    learner = team.learner()
    assert learner is not None

    # Clicks of one object, and a box with its clicks, alternate between the workers.
    clicks = clicks_of(0, 3)
    box = rectangle(20, 20, 50, 50)
    inside = [keypoint(40, 40, id="kp-b-0"), keypoint(60, 60, False, id="kp-b-1")]
    bodies = [
        *(click_on(IMAGES[0], *clicks[:n], task=10) for n in (1, 2, 3)),
        click_on(IMAGES[1], box, task=11),
        *(click_on(IMAGES[1], *inside[:n], task=11) for n in (1, 2)),
    ]
    answers = [
        team.ask_worker((first, second)[n % 2], "/predict", body) for n, body in enumerate(bodies)
    ]
    model = load_sam(settings_for(tmp_path / "one", model__checkpoint=team.checkpoint))
    with running_service(tmp_path / "one", model) as service:
        expected = [mask_of(service.predict(body)) for body in bodies]
    for mask, answer in zip(expected, answers, strict=True):
        assert (mask == mask_of(answer)).all()
    assert any(mask.any() for mask in expected)
    boxed = [r for r in interactions_of(team.data) if r.task_id == "11"]
    assert all(record.prompt.box is not None for record in boxed), "its clicks know of the box"

    # What one worker was told of teaches the learner, and both answer with it.
    shown = [name for answer in answers for name in shown_in(answer)]
    team.ask_worker(first, "/webhook", submission_of(0, answers[2]))
    until(lambda: learned(team.data) == ["100"])
    until(lambda: n_saved(team.data) == 1)
    for pid in (first, second):
        body = click_on(IMAGES[2], keypoint(40, 40, id=f"kp-{pid}"), task=50)
        answer = team.ask_worker(pid, "/predict", body)
        assert answer["results"][0]["model_version"].endswith("learned from 1 object")
        shown += shown_in(answer)

    # A worker that dies takes nothing with it: the other one goes on with its object.
    shown += shown_in(team.ask_worker(first, "/predict", request_of(2, 1)))
    os.kill(first, signal.SIGKILL)
    answer = team.ask_worker(second, "/predict", request_of(2, 2))
    shown += shown_in(answer)
    records = [r for r in interactions_of(team.data) if r.task_id == "12"]
    assert [len(r.prompt.clicks) for r in records] == [1, 2]

    # So does a learner: what it had begun is done by the next one, once.
    team.ask_worker(second, "/webhook", submission_of(2, answer))
    os.kill(learner, signal.SIGKILL)
    until(lambda: learned(team.data) == ["100", "102"])
    until(lambda: len(team.workers()) == 2)
    assert team.learner() not in (None, learner)

    assert team.stop() == 0
    check_whole(team, shown, ["100", "102"])


@pytest.mark.slow
def test_processes_killed_at_any_moment_lose_and_double_nothing(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    seed = random.randrange(2**32)
    record_property("seed", seed)
    rng = random.Random(seed)
    team = Team(tmp_path)
    is_over = threading.Event()
    n_killed = {"worker": 0, "learner": 0}

    def kill_now_and_then() -> None:
        while not is_over.wait(rng.uniform(0.2, 3.0)):
            learner, workers = team.learner(), team.workers()
            if rng.random() < 0.5 and learner is not None:
                os.kill(learner, signal.SIGKILL)
                n_killed["learner"] += 1
            elif len(workers) == 2:
                os.kill(rng.choice(workers), signal.SIGKILL)
                n_killed["worker"] += 1

    killing = threading.Thread(target=kill_now_and_then)
    try:
        team.wait_until_all_are_up()
        killing.start()
        shown: list[str] = []
        number = 0
        while sum(n_killed.values()) < 25 or min(n_killed.values()) < 5:
            for n_clicks in (1, 2, 3):
                answer = team.insist("/predict", request_of(number, n_clicks))
                shown += shown_in(answer)
            team.insist("/webhook", submission_of(number, answer))
            number += 1
        is_over.set()
        killing.join()
        submitted = [str(100 + n) for n in range(number)]
        until(lambda: len(learned(team.data)) >= number)
        until(lambda: len(team.workers()) == 2 and team.learner() is not None)
        assert team.stop() == 0
        check_whole(team, shown, submitted)
    finally:
        is_over.set()
        team.kill()
        record_property("killed", n_killed)


@pytest.mark.slow
def test_a_learner_that_hangs_is_killed_and_the_next_one_goes_on(team: Team) -> None:
    learner = team.learner()
    assert learner is not None
    stop_process(learner)
    answer = team.insist("/predict", request_of(0, 1))
    team.insist("/webhook", submission_of(0, answer))
    until(lambda: learned(team.data) == ["100"])
    assert team.learner() != learner
    assert f"learner {learner} hangs" in team.log.read_text()
    assert team.stop() == 0
    check_whole(team, shown_in(answer), ["100"])
