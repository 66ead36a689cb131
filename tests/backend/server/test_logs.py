"""Log lines stay lines, and stages add up."""

from __future__ import annotations

import logging
import sys
import time

from backend.server.logs import LineFormatter
from backend.service.stopwatch import Stopwatch


def test_what_comes_from_outside_cannot_forge_a_line() -> None:
    record = logging.makeLogRecord({"msg": "label %s", "args": ("a\n2026 INFO forged\x1b[31m",)})
    line = LineFormatter("%(message)s").format(record)
    assert line == "label a\\n2026 INFO forged\\x1b[31m"


def test_a_traceback_keeps_its_lines() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info()})
    text = LineFormatter("%(message)s").format(record)
    assert text.startswith("failed\nTraceback")


def test_an_inner_stage_pauses_the_outer_one() -> None:
    watch = Stopwatch()
    with watch.stage("outer"):
        with watch.stage("inner"):
            time.sleep(0.03)
        with watch.stage("inner"):
            time.sleep(0.03)
    stages = watch.stages_ms()
    assert list(stages) == ["outer", "inner"]
    assert stages["inner"] >= 60
    assert stages["outer"] < stages["inner"]
    assert sum(stages.values()) <= watch.total_ms()


def test_a_stage_that_fails_is_measured_too() -> None:
    watch = Stopwatch()
    try:
        with watch.stage("broken"):
            raise ValueError
    except ValueError:
        pass
    with watch.stage("next"):
        pass
    assert list(watch.stages_ms()) == ["broken", "next"]
    assert "broken 0" in str(watch)
