"""A project of three tasks in a Label Studio that keeps predictions and changed data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adaptation.journal import SubmissionRecord, SubmittedRegion
from adaptation.masks import encode_rle
from tests.backend.proposals.test_online import disk
from tests.backend.service_kit import data_uri, journal_of, pixels_of, settings_for
from tests.backend.sites import LEGACY_TOKEN, LabelStudioSite, Request, json_reply

CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="Cell"/></BrushLabels></View>'
)


class Project(LabelStudioSite):
    """One with three tasks, that keeps predictions and data; it may break down."""

    def __init__(self) -> None:
        super().__init__()
        self.predictions: list[dict[str, Any]] = []
        self.n_changes = 0
        self.fails_after = 99
        project = {"id": 7, "title": "Cells", "label_config": CONFIG, "task_number": 3}
        self.routes["/api/projects/7/"] = lambda _: json_reply(project)
        self.routes["/api/predictions/"] = self._keep
        self.hold(0, 0, 0)

    def hold(self, *seeds: int) -> None:
        """Have a task with a picture of each seed, numbered from 1 on."""
        self.tasks = [
            {"id": i, "data": {"image": data_uri(pixels_of(seed))}, "total_annotations": 0}
            for i, seed in enumerate(seeds, start=1)
        ]
        for task in self.tasks:
            self.routes[f"/api/tasks/{task['id']}/"] = self._change

    def _keep(self, request: Request) -> Any:
        if len(self.predictions) >= self.fails_after:
            return json_reply({"detail": "no"}, 400)
        self.predictions.append(request.json())
        return json_reply({"id": len(self.predictions)}, 201)

    def _change(self, request: Request) -> Any:
        assert request.method == "PATCH"
        number = int(request.path.rstrip("/").rsplit("/", 1)[1])
        self.tasks[number - 1].update(request.json())
        self.n_changes += 1
        return json_reply(self.tasks[number - 1])


def settings(site: Project, folder: Path, **changes: Any) -> Any:
    return settings_for(
        folder,
        label_studio__url=site.url,
        label_studio__token=LEGACY_TOKEN,
        **{"proposals__min_score": 0.0, "proposals__max_area": 1.0, **changes},
    )


def finish(folder: Path, task_id: str, annotation_id: str = "1") -> None:
    with journal_of(folder) as journal:
        journal.append_submission(
            SubmissionRecord(
                event="created",
                annotation_id=annotation_id,
                project_id="7",
                task_id=task_id,
                regions=(
                    SubmittedRegion(
                        region_id="r", label="Cell", kind="brush", rle=encode_rle(disk())
                    ),
                ),
            )
        )
