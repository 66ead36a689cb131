from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from adaptation.errors import SettingsError
from adaptation.journal import SubmissionRecord, SubmittedRegion
from adaptation.masks import encode_rle
from adaptation.models.compact.model import build_compact
from adaptation.models.sam import PromptableSam
from backend.commands.propose import propose_project
from tests.backend.proposals.test_online import disk
from tests.backend.service_kit import data_uri, journal_of, pixels_of, settings_for
from tests.backend.sites import LEGACY_TOKEN, LabelStudioSite, Request, json_reply

CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="Cell"/></BrushLabels></View>'
)


class Project(LabelStudioSite):
    """One with three tasks, that keeps predictions; it may break down."""

    def __init__(self) -> None:
        super().__init__()
        self.predictions: list[dict[str, Any]] = []
        self.fails_after = 99
        self.tasks = [
            {"id": i, "data": {"image": data_uri(pixels_of(0))}, "total_annotations": 0}
            for i in (1, 2, 3)
        ]
        project = {"id": 7, "title": "Cells", "label_config": CONFIG, "task_number": 3}
        self.routes["/api/projects/7/"] = lambda _: json_reply(project)
        self.routes["/api/predictions/"] = self._keep

    def _keep(self, request: Request) -> Any:
        if len(self.predictions) >= self.fails_after:
            return json_reply({"detail": "no"}, 400)
        self.predictions.append(request.json())
        return json_reply({"id": len(self.predictions)}, 201)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    torch.manual_seed(0)
    sam = PromptableSam(build_compact(input_size=64, dim=16, n_heads=2), "compact-random")
    monkeypatch.setattr("backend.commands.propose.load_sam", lambda *_, **__: sam)
    with Project().running() as running:
        assert isinstance(running, Project)
        yield running


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


def test_tasks_that_nobody_labelled_get_predictions_with_scores(
    site: Project, tmp_path: Path
) -> None:
    finish(tmp_path, "1")
    summary = propose_project(settings(site, tmp_path), 7)
    assert (summary.n_labelled, summary.n_failed) == (1, 0)
    assert summary.n_proposed == len(site.predictions) == 2
    assert {p["task"] for p in site.predictions} == {2, 3}
    for prediction in site.predictions:
        assert 0 < prediction["score"] <= 1
        assert prediction["model_version"].endswith("-similar-1")
        assert prediction["result"][0]["from_name"] == "brush"


def test_a_second_run_goes_on_where_the_first_one_broke_down(site: Project, tmp_path: Path) -> None:
    finish(tmp_path, "1")
    site.fails_after = 1
    with pytest.raises(Exception, match="400|no"):
        propose_project(settings(site, tmp_path), 7)
    site.fails_after = 99
    again = propose_project(settings(site, tmp_path), 7)
    assert (again.n_known, again.n_proposed) == (1, 1)
    assert sorted(p["task"] for p in site.predictions) == [2, 3]
    assert propose_project(settings(site, tmp_path), 7).n_known == 2


def test_more_labels_make_new_proposals(site: Project, tmp_path: Path) -> None:
    finish(tmp_path, "1")
    propose_project(settings(site, tmp_path), 7)
    finish(tmp_path, "2", "2")
    later = propose_project(settings(site, tmp_path), 7)
    assert (later.n_labelled, later.n_known, later.n_proposed) == (2, 0, 1)
    assert site.predictions[-1]["model_version"].endswith("-similar-2")


def test_anomalies_need_nothing_labelled_and_compare_the_images(
    site: Project, tmp_path: Path
) -> None:
    asked = settings(site, tmp_path, proposals__look_for="anomalies", proposals__mutual_from=2)
    summary = propose_project(asked, 7)
    assert summary.n_proposed + summary.n_empty == 3
    assert summary.n_proposed > 0


def test_an_image_that_cannot_be_read_is_counted_and_the_rest_goes_on(
    site: Project, tmp_path: Path
) -> None:
    finish(tmp_path, "1")
    site.tasks[1]["data"] = {"image": "data:image/png;base64,AAAA"}
    summary = propose_project(settings(site, tmp_path), 7)
    assert (summary.n_failed, summary.n_proposed) == (1, 1)


def test_without_anything_labelled_the_error_says_what_to_do(site: Project, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="finish an object"):
        propose_project(settings(site, tmp_path), 7)


def test_without_a_label_studio_there_is_no_project(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"label_studio\.url"):
        propose_project(settings_for(tmp_path), 7)
