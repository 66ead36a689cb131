"""A clock that is set back while Strop runs loses no link between clicks and submissions."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from adaptation.journal import Journal, records
from adaptation.journal.clock import SteadyClock
from tests.backend.insights.kit import click_object, submit

HOUR = 3600.0


class Machine:
    """A machine's two clocks."""

    def __init__(self) -> None:
        self.wall, self.passed = 1_790_000_000.0, 500.0
        self.clock = SteadyClock(lambda: self.wall, lambda: self.passed)

    def wait(self, seconds: float) -> None:
        self.wall += seconds
        self.passed += seconds


def test_it_tells_the_time_of_day() -> None:
    machine = Machine()
    machine.wait(90)
    assert machine.clock.now().timestamp() == machine.wall == 1_790_000_090.0


def test_set_back_it_goes_on_until_the_machine_has_caught_up() -> None:
    machine = Machine()
    before = machine.clock.now()
    machine.wall -= HOUR
    machine.wait(20)
    assert machine.clock.now() - before == timedelta(seconds=20)
    machine.wall += HOUR
    machine.wait(5)
    assert machine.clock.now().timestamp() == machine.wall


def test_set_forward_it_follows_and_so_after_a_sleep() -> None:
    machine = Machine()
    machine.clock.now()
    machine.wall += HOUR  # the monotonic clock of a sleeping machine stands still
    assert machine.clock.now().timestamp() == machine.wall


@pytest.mark.parametrize("jump_s", [-HOUR, 0.0, HOUR])
def test_clicks_before_a_jump_belong_to_the_submission_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    machine = Machine()
    monkeypatch.setattr(records, "_CLOCK", machine.clock)
    with Journal(f"sqlite:///{tmp_path}/journal.db") as journal:
        click_object(journal, "a", [10, 40], at=records.utc_now())
        machine.wait(30)
        machine.wall += jump_s
        submit(journal, "100", [("an id that was lost", 40)], at=records.utc_now())
        journal.link_pending()
        (link,) = journal.links("1", "1")
        (finished,) = journal.objects("1", "1")
    assert link.how == "overlap" and len(finished.interactions) == 2
