from __future__ import annotations

from pathlib import Path

import pytest

from adaptation.errors import SettingsError
from backend.cli import main
from backend.commands.propose import FIELD, Order, order_project
from tests.backend.commands.propose.project import Project, finish, settings
from tests.backend.sites import LEGACY_TOKEN


def places(site: Project) -> list[str | None]:
    return [task["data"].get(FIELD) for task in site.tasks]


def test_what_is_unlike_the_labelled_tasks_comes_first(site: Project, tmp_path: Path) -> None:
    site.hold(0, 0, 5)
    finish(tmp_path, "1")
    summary = order_project(settings(site, tmp_path), 7, "diversity")
    assert places(site) == [None, "2", "1"]
    assert (summary.n_ordered, summary.n_labelled, summary.n_failed) == (2, 1, 0)
    assert all("image" in task["data"] for task in site.tasks)
    assert not site.predictions


def test_the_odd_image_comes_first_with_nothing_labelled(site: Project, tmp_path: Path) -> None:
    site.hold(0, 0, 5, 0)
    asked = settings(site, tmp_path, proposals__mutual_from=2)
    order_project(asked, 7, "anomaly")
    assert places(site)[2] == "1"


def test_doubt_orders_every_open_task_once(site: Project, tmp_path: Path) -> None:
    site.hold(0, 1, 2, 3)
    finish(tmp_path, "1")
    order_project(settings(site, tmp_path), 7, "uncertainty")
    assert places(site)[0] is None
    assert sorted(str(place) for place in places(site)[1:]) == ["1", "2", "3"]


def test_places_sort_as_text(site: Project, tmp_path: Path) -> None:
    site.hold(*range(11))
    order_project(settings(site, tmp_path), 7, "diversity")
    assert sorted(str(place) for place in places(site)) == [f"{n:02d}" for n in range(1, 12)]


def test_a_second_run_changes_only_what_moved(site: Project, tmp_path: Path) -> None:
    site.hold(0, 1, 2)
    order_project(settings(site, tmp_path), 7, "diversity")
    assert site.n_changes == 3
    order_project(settings(site, tmp_path), 7, "diversity")
    assert site.n_changes == 3


@pytest.mark.parametrize("order", ["diversity", "anomaly"])
def test_an_unreadable_image_has_no_place(site: Project, tmp_path: Path, order: Order) -> None:
    site.tasks[1]["data"] = {"image": "data:image/png;base64,AAAA"}
    summary = order_project(settings(site, tmp_path, proposals__mutual_from=2), 7, order)
    assert (summary.n_ordered, places(site)[1]) == (2, None)
    assert summary.n_failed >= 1


def test_doubt_needs_something_labelled(site: Project, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="finish an object"):
        order_project(settings(site, tmp_path), 7, "uncertainty")


def test_the_command_tells_what_it_did(
    site: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--label-studio", site.url, "--set", f"label_studio.token={LEGACY_TOKEN}"]
    command = ["strop", "propose", "--project", "7", "--order", "diversity"]
    monkeypatch.setattr("sys.argv", [*command, *given, "--data-dir", str(tmp_path)])
    monkeypatch.setattr("backend.options.configure_logging", lambda level: None)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert "3 tasks ordered by diversity in their field strop_order" in capsys.readouterr().out
