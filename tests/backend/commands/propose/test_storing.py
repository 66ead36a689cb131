from __future__ import annotations

from pathlib import Path

import pytest

from adaptation.errors import SettingsError
from backend.commands.propose import propose_project
from tests.backend.commands.propose.project import Project, finish, settings
from tests.backend.service_kit import settings_for


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


def test_words_need_nothing_labelled_and_go_under_every_label(
    site: Project, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    from tests.adaptation.proposals.tiny_readers import save_grounding_dino

    reader = save_grounding_dino(tmp_path / "reader")
    asked = {"proposals__look_for": "words", "proposals__words_model": str(reader)}
    summary = propose_project(settings(site, tmp_path, **asked), 7)
    assert summary.n_proposed == len(site.predictions) == 3
    (version,) = {p["model_version"] for p in site.predictions}
    assert "-words-" in version
    for prediction in site.predictions:
        assert 0 < prediction["score"] <= 1
        assert {region["value"]["brushlabels"][0] for region in prediction["result"]} == {"Cell"}

    other = settings(site, tmp_path, **asked, proposals__words={"Cell": ["hole", "scratch"]})
    assert propose_project(other, 7).n_known == 0, "other words, other proposals"
    assert {p["model_version"] for p in site.predictions} > {version}
