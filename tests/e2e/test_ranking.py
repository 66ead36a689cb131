"""People rank masks in a real Label Studio: created, ranked in a browser, collected."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adaptation.journal import InteractionRecord
from adaptation.masks import Rle, decode_rle
from backend.commands.ranking.collect import EVENT
from backend.commands.ranking.projects import ranking_projects
from backend.label_studio.client import AnnotatedTask
from tests.e2e.browser import Browser
from tests.e2e.demo import ROOT, Demo, eventually

pytestmark = pytest.mark.e2e

FOCUS = "document.querySelector('[data-ranker-id=\"{}\"]').focus()"
SHOWN_ORDER = "[...document.querySelectorAll('[data-ranker-id]')].map(e => e.dataset.rankerId)"
PICTURES = """
[...window.Htx.annotationStore.selected.names.values()].filter(tag => tag.type === 'image')
    .map(tag => ({ name: tag.name, natural: tag.naturalWidth, shown: tag.stageWidth }))
"""


def strop(
    demo: Demo, *arguments: str, token: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with the settings that the demo's Strop runs with."""
    credentials = json.loads((demo.folder / "credentials.json").read_text())
    variables = {
        "STROP_LABEL_STUDIO__URL": demo.url,
        "STROP_LABEL_STUDIO__TOKEN": token or credentials["token"],
        "STROP_DATA_DIR": str(demo.folder / "strop"),
    }
    command = [sys.executable, "-c", "from backend.cli import main; main()", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    return done


def rank(demo: Demo, command: str, *options: str) -> str:
    done = strop(demo, "ranking", command, "--project", demo.project_id, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def click(demo: Demo, browser: Browser, sample: str, x_percent: float, y_percent: float) -> None:
    """Click once on a sample, as a new object, and wait for the journal."""
    task_id = demo.task(sample).task_id
    browser.open_task(demo.project_id, task_id)
    browser.choose("Object")
    assert browser.click(x_percent, y_percent) == []
    eventually(lambda: interactions(demo, task_id))


def interactions(demo: Demo, task_id: str) -> list[InteractionRecord]:
    with demo.journal() as journal:
        return list(journal.interactions(task_id=task_id))


def ranking_tasks(demo: Demo) -> list[AnnotatedTask]:
    with demo.journal() as journal:
        number = ranking_projects(journal, demo.project_id)[demo.project_id]
    return list(demo.client().annotated_tasks(number))


def rankings(demo: Demo) -> list[Mapping[str, Any]]:
    with demo.journal() as journal:
        return [event.payload for event in journal.events(demo.project_id, kind=EVENT)]


def move(browser: Browser, letter: str, *keys: str) -> None:
    """Move an entry of the list by the keyboard: space lifts it, arrows move it, space drops it."""
    before = browser.evaluate(SHOWN_ORDER)
    browser.evaluate(FOCUS.format(letter))
    for key in (" ", *keys, " "):
        browser.press(key)
    eventually(lambda: browser.evaluate(SHOWN_ORDER) != before)


def mask(value: Mapping[str, Any]) -> np.ndarray:
    return decode_rle(Rle(size=tuple(value["size"]), counts=value["counts"].encode()))


def test_masks_are_ranked_in_a_browser_and_collected(
    demo: Demo, browser: Browser, pictures: Path
) -> None:
    click(demo, browser, "5-cat", 55, 55)
    click(demo, browser, "7-road", 50, 60)
    out = rank(demo, "create", "--margin", "0.02")
    tasks = ranking_tasks(demo)
    assert len(tasks) >= 1 and out.startswith(f"{len(tasks)} tasks added to project")
    assert rank(demo, "create", "--margin", "0.02").startswith("0 tasks added"), "no prompt twice"
    assert rank(demo, "collect").startswith("0 new rankings")

    with demo.journal() as journal:
        ranking_project = ranking_projects(journal)[demo.project_id]
    task = tasks[0]
    browser.open_task(ranking_project, task.task_id)
    shown = {entry["name"]: entry for entry in browser.evaluate(PICTURES)}
    assert shown.keys() == {"a", "b", "c"}
    assert all(entry["natural"] > 100 and entry["shown"] > 100 for entry in shown.values())
    assert browser.evaluate(SHOWN_ORDER) == ["A", "B", "C"]
    words = browser.text()
    assert all(point in words for point in ("Coverage", "Border", "Extent", "Noise"))

    move(browser, "C", "ArrowUp", "ArrowUp")
    browser.press("c")
    browser.screenshot(pictures / "ranking.jpg")
    browser.submit()
    assert rank(demo, "collect").startswith("1 new rankings")
    assert_collected(demo, task, "CAB")

    browser.open_task(ranking_project, task.task_id)
    move(browser, "A", "ArrowDown")
    browser.submit()
    assert rank(demo, "collect").startswith("0 new rankings, 1 changed")
    assert_collected(demo, task, "CBA")
    assert rank(demo, "collect").startswith("0 new rankings, 0 changed, 1 known")
    first, second = rankings(demo)
    assert first["ranking_id"] == second["ranking_id"], "the later one counts"


def assert_collected(demo: Demo, task: AnnotatedTask, letters: str) -> None:
    """The newest ranking is of this task, in this order, with the masks that the journal has."""
    payload = rankings(demo)[-1]
    key = task.meta["strop_ranking"]
    assert payload["request_id"] == key["request_id"]
    with demo.journal() as journal:
        (record,) = journal.interactions(request_id=key["request_id"])
    assert payload["image_id"] == record.image_id and payload["label"] == record.label
    assert payload["best_is_usable"] is True and payload["annotator"] == "1"
    clicks = record.prompt.clicks
    assert [(click["x"], click["y"]) for click in payload["clicks"]] == [(c.x, c.y) for c in clicks]
    for letter, found in zip(letters, payload["candidates"], strict=True):
        candidate = record.candidate(key["region_ids"]["ABC".index(letter)])
        assert candidate is not None
        np.testing.assert_array_equal(mask(found), decode_rle(candidate.rle))


def test_what_cannot_work_is_one_sentence(demo: Demo) -> None:
    done = strop(demo, "ranking", "create", "--project", demo.project_id, token="0" * 40)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Label Studio refused the legacy token" in done.stderr
    done = strop(demo, "ranking", "create", "--project", "4711")
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no project 4711" in done.stderr
