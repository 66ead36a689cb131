"""Rows out of a journal, and that they keep up with whatever happens to it."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from adaptation.errors import StoreError
from adaptation.journal import Journal
from backend.insights import store as store_module
from backend.insights.facts import ObjectFact
from backend.insights.keeper import RowKeeper
from backend.insights.store import FactStore
from tests.backend.insights.kit import START, click_object, submit
from tests.backend.making import until


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(f"sqlite:///{tmp_path}/journal.db") as opened:
        yield opened


def rows_of(journal: Journal, path: Path, project: str = "1") -> list[ObjectFact]:
    store = FactStore(path, journal)
    store.refresh()
    return store.facts(project)


def test_an_object_that_was_taken_as_shown(journal: Journal, tmp_path: Path) -> None:
    click_object(journal, "a", [10, 30, 40])
    submit(journal, "100", [("a-r2", 40)])
    (fact,) = rows_of(journal, tmp_path / "insights.db")
    assert fact.outcome == "as shown"
    assert fact.ious == pytest.approx((0.25, 0.75, 1.0))
    assert fact.predicted == (0.5, 0.5, 0.5) and fact.decoder_id == "d"
    assert fact.gaps_s == (2.0, 2.0)
    assert (fact.task_id, fact.annotation_id) == ("1", "100")
    assert (fact.label, fact.annotator) == ("cell", "7")


def test_edited_and_painted_objects_are_told_apart(journal: Journal, tmp_path: Path) -> None:
    click_object(journal, "a", [20])
    submit(journal, "100", [("a-r0", 40), ("own", 5)])
    edited, painted = rows_of(journal, tmp_path / "insights.db")
    assert edited.outcome == "edited" and edited.ious == pytest.approx((0.5,))
    assert painted.outcome == "painted" and painted.ious == () and painted.n_prompts == 0


def test_clicks_taken_back_count_once_and_breaks_are_no_work(
    journal: Journal, tmp_path: Path
) -> None:
    click_object(journal, "a", [10, 20], every_s=500)  # longer than any pause at work
    submit(journal, "100", [("a-r1", 20)])
    (fact,) = rows_of(journal, tmp_path / "insights.db")
    assert fact.n_prompts == 2 and fact.gaps_s == ()


def test_deleted_replaced_and_late_news_change_the_rows(journal: Journal, tmp_path: Path) -> None:
    store = FactStore(tmp_path / "insights.db", journal)
    click_object(journal, "a", [10, 40])
    submit(journal, "100", [("a-r1", 40)])
    submit(journal, "101", [("late-r0", 30)], task="2")
    assert store.refresh() == 2
    assert [f.outcome for f in store.facts("1")] == ["as shown", "painted"]
    click_object(journal, "late", [30], task="2")  # the clicks come after their submission
    submit(journal, "100", [("a-r1", 20)], event="updated", at=START + timedelta(hours=1))
    assert store.refresh() == 2
    assert {f.annotation_id: f.outcome for f in store.facts("1")} == {
        "100": "edited",
        "101": "as shown",
    }
    submit(journal, "100", [], event="deleted", at=START + timedelta(hours=2))
    store.refresh()
    assert [f.annotation_id for f in store.facts("1")] == ["101"]
    assert store.refresh() == 0
    assert store.projects() == {"1": 1}


def test_rows_kept_up_to_date_equal_a_full_recount(journal: Journal, tmp_path: Path) -> None:
    rng = random.Random(3)
    store = FactStore(tmp_path / "insights.db", journal)
    for number in range(60):
        name, task = f"o{number}", str(rng.randrange(8))
        annotation = str(100 + rng.randrange(20))
        at = START + timedelta(minutes=number)
        match rng.randrange(5):
            case 0:
                submit(journal, annotation, [], event="deleted", at=at)
            case 1:
                submit(journal, annotation, [(f"own{number}", 9)], task=task, at=at)
            case _:
                click_object(journal, name, [5, 10, 40][: rng.randrange(1, 4)], task=task, at=at)
                submit(journal, annotation, [(f"{name}-r0", 40)], task=task, at=at)
        if rng.random() < 0.4:
            store.refresh()
    store.refresh()
    fresh = FactStore(tmp_path / "fresh.db", journal)
    fresh.refresh()
    assert len(fresh.facts("1")) > 5
    assert store.facts("1") == fresh.facts("1")
    assert store.timings("1") == fresh.timings("1")
    store.recount()
    assert store.facts("1") == fresh.facts("1")


def test_what_sessions_said_is_kept_and_equals_a_recount(journal: Journal, tmp_path: Path) -> None:
    store = FactStore(tmp_path / "insights.db", journal)
    said = {"session": "project-1", "annotation_id": "100", "region_id": "a", "skipped": None}
    numbers = {"frozen_iou": 0.5, "adapted_iou": 0.75, "turned_back": True, "n_steps": 3}
    settings = {"replay": 40, "learning_rate": 0.1}
    began = {"session": "project-1", "version": "base", "settings": settings, "start": "base"}
    journal.append_event("session_began", "1", began)
    journal.append_event("learned", "1", {**said, **numbers, "version": "v1"})
    store.refresh()
    journal.append_event("learned", "1", {"annotation_id": "of a Strop that kept less"})
    journal.append_event("thought", "1", {"session": "project-1", "n_begun": 3, "version": "v2"})
    journal.append_event("learned", "2", {**said, **numbers, "version": "v9"})
    store.refresh()
    (row,) = store.learned("1")
    assert (row.adapted_iou, row.turned_back, row.version) == (0.75, 1, "v1")
    (event,) = store.session_events("1")
    assert event.payload["replay"] == 40 and "settings" not in event.payload
    assert store.versions("1") == {"project-1": "v2"}
    before = store.learned("1"), store.session_events("1"), store.versions("1")
    store.recount()
    assert (store.learned("1"), store.session_events("1"), store.versions("1")) == before


def test_a_damaged_file_is_made_again(journal: Journal, tmp_path: Path) -> None:
    click_object(journal, "a", [10])
    submit(journal, "100", [("a-r0", 10)])
    path = tmp_path / "insights.db"
    path.write_bytes(b"this is no database" * 100)
    assert len(rows_of(journal, path)) == 1
    with sqlite3.connect(path) as db:
        db.execute("UPDATE state SET value = '0' WHERE name = 'version'")
    db.close()
    assert len(rows_of(journal, path)) == 1


def test_a_folder_that_cannot_be_written_is_told(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"insights\.db cannot be read or written"):
        FactStore(tmp_path / "file" / "insights.db", journal).refresh()


def test_what_cannot_be_counted_in_time_is_left_to_the_next(
    journal: Journal, tmp_path: Path
) -> None:
    for number in range(store_module.STEP):
        click_object(journal, f"o{number}", [40], task=str(number))
        submit(journal, f"{number}", [(f"o{number}-r0", 40)], task=str(number))
    n_entries = journal.last_entry()
    assert n_entries == 2 * store_module.STEP
    store = FactStore(tmp_path / "insights.db", journal)
    assert store.n_behind() == n_entries
    store.refresh(at_most_s=0)
    assert store.n_behind() == n_entries - store_module.STEP, "one step, however little time"
    store.refresh()
    assert store.n_behind() == 0 and len(store.facts("1")) == store_module.STEP


def test_a_projects_stamp_changes_with_its_own_news_alone(journal: Journal, tmp_path: Path) -> None:
    store = FactStore(tmp_path / "insights.db", journal)
    stamps = []

    def stamp() -> bool:
        """Whether it is another one than the time before."""
        store.refresh()
        stamps.append(store.stamp("1"))
        return len(stamps) < 2 or stamps[-1] != stamps[-2]

    stamp()
    click_object(journal, "a", [10, 40])
    assert not stamp(), "a click on an object that is not submitted shows nowhere"
    submit(journal, "100", [("a-r1", 40)])
    assert stamp() and not stamp()
    journal.append_event("thought", "1", {"session": "project-1", "version": "v"})
    assert stamp()
    submit(journal, "200", [("b", 40)], project="2")
    journal.append_event("learned", "2", {})
    assert not stamp()
    submit(journal, "100", [], event="deleted", at=START + timedelta(hours=2))
    assert stamp()
    store.recount()
    assert stamp()


def test_a_submission_that_comes_while_it_is_counted_is_not_lost(tmp_path: Path) -> None:
    class Busy(Journal):
        """A submission comes whenever somebody looks for what is to be linked."""

        def link_pending(self, limit: int | None = None) -> int:
            n_linked = super().link_pending(limit)
            if not list(self.submissions()):
                submit(self, "100", [("a-r1", 40)])
            return n_linked

    with Busy(f"sqlite:///{tmp_path}/journal.db") as journal:
        click_object(journal, "a", [10, 40])
        store = FactStore(tmp_path / "insights.db", journal)
        for _ in range(2):
            store.refresh()
        assert [fact.annotation_id for fact in store.facts("1")] == ["100"]


def test_rows_are_kept_up_to_date_behind_everything_else(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "insights.db"
    followed: list[str] = []
    store, reader = FactStore(path, journal), FactStore(path, journal)
    keeper = RowKeeper(store, [lambda: followed.append("once more")], every_s=0.01)
    keeper.start()
    until(lambda: len(followed) == 1)
    click_object(journal, "a", [10, 40])
    submit(journal, "100", [("a-r1", 40)])
    until(lambda: [fact.annotation_id for fact in reader.facts("1")] == ["100"])
    until(lambda: len(followed) > 1)
    keeper.stop(10)
    submit(journal, "100", [], event="deleted", at=START + timedelta(hours=2))
    assert reader.n_behind() == 1
