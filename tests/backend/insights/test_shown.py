"""A large project is added up behind its page: what a page costs does not grow with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from adaptation.journal import Journal
from adaptation.storage.album import Album
from backend.insights import shown as shown_module
from backend.insights.facts import ObjectFact
from backend.insights.insights import Insights, InsightsOptions
from backend.insights.shown import ShownProjects
from backend.insights.store import FactStore
from tests.backend.insights.kit import click_object, submit


class CountingStore(FactStore):
    """Counts the objects whose rows are read."""

    n_read = 0

    def facts(self, project_id: str) -> list[ObjectFact]:
        found = super().facts(project_id)
        self.n_read += len(found)
        return found


def add_object(journal: Journal, number: int) -> None:
    click_object(journal, f"o{number}", [10, 40], task=str(number))
    submit(journal, f"{number}", [(f"o{number}-r1", 40)], task=str(number))


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    """Of six objects, which is a large project here."""
    monkeypatch.setattr(shown_module, "SMALL", 5)
    with Journal(f"sqlite:///{tmp_path}/journal.db") as opened:
        for number in range(6):
            add_object(opened, number)
        yield opened


def started(tmp_path: Path, journal: Journal) -> tuple[ShownProjects, CountingStore]:
    """As a server that has just started."""
    store = CountingStore(tmp_path / "insights.db", journal)
    adapters = tmp_path / "sessions"
    return ShownProjects(store, adapters, learning_is_on=True, with_annotators=False), store


def test_a_page_of_a_large_project_reads_no_object(journal: Journal, tmp_path: Path) -> None:
    behind, store = started(tmp_path, journal)
    store.refresh()
    assert behind.keep() == 1 and store.n_read == 6
    page, store = started(tmp_path, journal)
    found = page.of("1")
    assert store.n_read == 0 and found.is_current
    assert found.sums.figures.n_objects == 6 and len(found.sums.charts) == 2
    add_object(journal, 6)
    store.refresh()
    found = page.of("1")
    assert store.n_read == 0 and not found.is_current
    assert found.sums.figures.n_objects == 6, "what was kept, with its time"
    behind, _ = started(tmp_path, journal)
    assert behind.keep() == 1
    page, store = started(tmp_path, journal)
    assert page.of("1").sums.figures.n_objects == 7 and store.n_read == 0


def test_what_is_kept_is_what_was_added_up(journal: Journal, tmp_path: Path) -> None:
    behind, store = started(tmp_path, journal)
    store.refresh()
    behind.keep()
    kept = started(tmp_path, journal)[0].of("1").sums
    fresh = behind.now("1").sums
    assert kept.figures == fresh.figures and list(kept.charts) == list(fresh.charts)


def test_a_small_project_is_added_up_at_once_and_never_kept(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_module, "SMALL", 6)
    page, store = started(tmp_path, journal)
    store.refresh()
    assert page.keep() == 0
    assert page.of("1").is_current and store.n_read == 6
    page.of("1")
    assert store.n_read == 6, "nothing came, so nothing is read again"


def test_adding_up_again_and_again_takes_its_share_of_the_time(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_module, "SHARE_OF_TIME", 1e-6)  # a millisecond's work: an hour's rest
    behind, store = started(tmp_path, journal)
    store.refresh()
    assert behind.keep() == 1
    add_object(journal, 6)
    store.refresh()
    assert behind.keep() == 0


def test_what_another_strop_kept_is_added_up_anew(journal: Journal, tmp_path: Path) -> None:
    page, store = started(tmp_path, journal)
    store.refresh()
    store.keep_shown("1", "of another one", '{"figures": {}}')
    assert page.of("1").is_current and store.n_read == 6


def test_the_page_says_of_when_it_is_and_a_report_is_of_now(
    journal: Journal, tmp_path: Path
) -> None:
    behind, store = started(tmp_path, journal)
    store.refresh()
    behind.keep()
    add_object(journal, 6)
    insights = Insights(
        journal,
        FactStore(tmp_path / "insights.db", journal),
        Album(tmp_path / "images"),
        InsightsOptions(),
        registry=tmp_path / "registry",
        adapters=tmp_path / "sessions",
    )
    page = insights.project_page("1", "")
    assert "what came since is added soon" in page and "objects<b>6</b>" in page
    report = insights.report("1")
    assert "what came since" not in report and "objects<b>7</b>" in report
