"""What the page of a project shows, added up at once where it is small, and behind it where not.

To add up a project of 25,000 objects and to draw its charts takes a second of a processor.  Nobody
who opens its page waits for that: the thread that keeps the rows adds such a project up and keeps
the result in the rows' file, and the page shows what was kept, with its time where there is news.
What sessions know is read anew each time, since people wait to see what their buttons did.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from backend.insights.charts import Chart
from backend.insights.figures import Figures, figures_of
from backend.insights.page import charts_of
from backend.insights.sessions import SessionPanel, panel_of
from backend.insights.store import FactStore
from backend.learning.saved_adapters import saved_shares

SMALL = 2000
"""Objects that are added up while somebody waits: tenths of a second."""

SHARE_OF_TIME = 0.02
"""Of a core that adding up one project again and again may take."""

MOST_SHOWN = 32
"""Projects whose figures are remembered; each takes some kilobytes."""

WITHOUT_SHARES_S = 10.0
"""Figures are remembered for so long while a session's weights are not where they should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What a project's rows add up to.

    Args:
        made_at: When, UTC.
        figures: The figures.
        charts: Of them.
    """

    made_at: datetime
    figures: Figures
    charts: Sequence[Chart]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownProject:
    """What the page of a project shows.

    Args:
        sums: Its figures and charts.
        is_current: Whether they hold everything that is counted.
        panel: What its sessions know; None where learning is off.
    """

    sums: Sums
    is_current: bool
    panel: SessionPanel | None


_SUMS = TypeAdapter(Sums)


class ShownProjects:
    """Of all projects.  Safe to share between threads.

    Args:
        store: Of the rows.
        adapters: Folder of what sessions learned.
        learning_is_on: Whether sessions learn.
        with_annotators: Whether people are told apart.
    """

    def __init__(
        self, store: FactStore, adapters: Path, *, learning_is_on: bool, with_annotators: bool
    ) -> None:
        self._store, self._adapters = store, adapters
        self._learning_is_on, self._with_annotators = learning_is_on, with_annotators
        self._shown: dict[str, tuple[str, float, ShownProject]] = {}
        self._not_before: dict[str, float] = {}

    def of(self, project_id: str) -> ShownProject:
        """A project as of now, or as of when it was added up last where that takes long."""
        stamp = self._store.stamp(project_id)
        known_stamp, until, known = self._shown.get(project_id, ("", 0.0, None))
        if known is not None and known_stamp == stamp and time.monotonic() < until:
            return known
        sums, is_current = self._sums(project_id, stamp)
        panel = self.panel(project_id) if self._learning_is_on else None
        found = ShownProject(sums=sums, is_current=is_current, panel=panel)
        # An event is written before its weights are: until they are there, shares are not known.
        is_whole = panel is None or all(session.shares for session in panel.sessions)
        if len(self._shown) >= MOST_SHOWN:
            self._shown.clear()
        until = float("inf") if is_whole and is_current else time.monotonic() + WITHOUT_SHARES_S
        self._shown[project_id] = stamp, until, found
        return found

    def now(self, project_id: str) -> ShownProject:
        """A project as of now, however long that takes."""
        panel = self.panel(project_id) if self._learning_is_on else None
        return ShownProject(sums=_sums_of(self.figures(project_id)), is_current=True, panel=panel)

    def keep(self) -> int:
        """Add up the large projects with news, and keep that; returns how many.

        A project waits until it has had its share of the time.
        """
        n_kept = 0
        for project_id, n_objects in self._store.projects().items():
            began = time.monotonic()
            if n_objects <= SMALL or began < self._not_before.get(project_id, 0.0):
                continue
            stamp = self._store.stamp(project_id)
            kept = self._store.shown(project_id)
            if kept is None or kept[0] != self._named(stamp):
                self._add_up(project_id, stamp)
                n_kept += 1
                took = time.monotonic() - began
                self._not_before[project_id] = time.monotonic() + took / SHARE_OF_TIME
        return n_kept

    def figures(self, project_id: str) -> Figures:
        """A project's figures, added up now."""
        return figures_of(
            self._store.facts(project_id),
            self._store.learned(project_id),
            self._store.timings(project_id),
            with_annotators=self._with_annotators,
        )

    def panel(self, project_id: str) -> SessionPanel:
        """What a project's sessions know as of now."""
        versions = self._store.versions(project_id)
        return panel_of(
            self._store.learned(project_id),
            self._store.session_events(project_id),
            lambda name: saved_shares(self._adapters, name, versions.get(name, "base")),
        )

    def _sums(self, project_id: str, stamp: str) -> tuple[Sums, bool]:
        """Added up, and whether that is of now."""
        if self._store.n_facts(project_id) > SMALL:
            kept = self._store.shown(project_id)
            sums = None if kept is None else _parsed(kept[1])
            if kept is not None and sums is not None:
                return sums, kept[0] == self._named(stamp)
            return self._add_up(project_id, stamp), True
        return _sums_of(self.figures(project_id)), True

    def _add_up(self, project_id: str, stamp: str) -> Sums:
        sums = _sums_of(self.figures(project_id))
        content = _SUMS.dump_json(sums).decode()
        self._store.keep_shown(project_id, self._named(stamp), content)
        return sums

    def _named(self, stamp: str) -> str:
        """The stamp of what is kept: another Strop, or other settings, add up otherwise."""
        return f"{metadata.version('strop')} {self._with_annotators} {stamp}"


def _sums_of(figures: Figures) -> Sums:
    return Sums(made_at=datetime.now(timezone.utc), figures=figures, charts=charts_of(figures))


def _parsed(content: str) -> Sums | None:
    """None for what another Strop kept."""
    try:
        return _SUMS.validate_json(content)
    except ValidationError:
        return None
