"""Label Studio's Data Manager sorts a project by the places that `strop propose --order` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.commands.propose import FIELD, order_project
from tests.backend.service_kit import data_uri, pixels_of, settings_for
from tests.e2e.demo import Demo

pytestmark = pytest.mark.e2e

CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="Cell"/></BrushLabels></View>'
)
N_TASKS = 11
"""More than nine: sorted as text, 10 must not come before 2."""


def test_the_data_manager_follows_the_places(demo: Demo, tmp_path: Path) -> None:
    client = demo.client()
    project = client.create_project("In order", CONFIG)
    for seed in range(N_TASKS):
        data = {"image": data_uri(pixels_of(seed)), "name": f"picture {seed}"}
        client.add_task(project.project_id, {"data": data})
    settings = settings_for(tmp_path, label_studio__url=client.url, label_studio__token=demo.token)
    order_project(settings, int(project.project_id), "diversity")

    query = json.dumps({"ordering": [f"tasks:data.{FIELD}"]})
    asked = {"project": project.project_id, "query": query, "page_size": 100}
    shown = client.http.get_json("/api/tasks/", params=asked)["tasks"]
    assert [int(task["data"][FIELD]) for task in shown] == list(range(1, N_TASKS + 1))
    assert {task["data"]["name"] for task in shown} == {f"picture {n}" for n in range(N_TASKS)}
    assert [task["id"] for task in shown] != sorted(task["id"] for task in shown)
