"""From the insights page of a running demo to the task in Label Studio, by its link."""

from __future__ import annotations

import time

import pytest

from tests.e2e.browser import Browser
from tests.e2e.demo import Demo

pytestmark = pytest.mark.e2e

COUNTED_WITHIN_S = 60


def test_the_object_that_took_most_clicks_is_one_link_away(demo: Demo, browser: Browser) -> None:
    task = demo.task("7-road-1")
    browser.open_task(demo.project_id, task.task_id)
    for x, y in ((30, 70), (32, 72), (34, 74)):
        browser.choose("Object")
        assert browser.click(x, y) == []
    browser.accept_all()
    browser.submit()

    page = f"{demo.backend_url}/insights/project/{demo.project_id}"
    link = f'.worst a[href$="task={task.task_id}"]'
    end = time.monotonic() + COUNTED_WITHIN_S
    while (shown := browser.follow(page, demo.backend_login, link)) is None:
        assert time.monotonic() < end, "the submitted object is not on the page"
        time.sleep(1)
    url, text = shown
    assert url.startswith(f"{demo.url}/projects/{demo.project_id}/data")
    assert f"task={task.task_id}" in url
    assert task.task_id in text and "Update" in text, "submitted before, it can be updated"
