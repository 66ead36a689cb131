"""The rows in a small file, kept up to date with the journal.

Which tasks have news is read from the journal's one order; a task's rows are made again as a whole.
So the file equals a full recount once its cursor has come to the journal's end, whatever was
replaced, deleted or linked late.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from adaptation.errors import StoreError
from adaptation.journal import Entry, EventRecord, InteractionRecord, Journal, SubmissionRecord
from backend.insights.facts import ObjectFact, facts_of_task
from backend.insights.row_file import (
    COLUMNS,
    FIGURES,
    TABLES,
    open_file,
    set_state,
    state,
    to_fact,
    to_row,
)

STEP = 64
"""Entries of the journal that are taken into account at once."""

TOLD_KINDS = ("session_began", "forgot", "session_ended", "session_asked", "session_answered")
"""Events that the pages tell of, beside what was learned."""

CHANGING_KINDS = ("session_began", "learned", "thought", "forgot")
"""Events that name the version of a session's weights."""

Task = tuple[str, str]


class LearnedRow(NamedTuple):
    """What a session said of an object.

    Args:
        seq: Entry in the journal.
        session: Its name.
        annotation_id, region_id: The object.
        frozen_iou, adapted_iou: Of both decoders with what was submitted.
        turned_back: 1 where the session fell back to an earlier adapter.
        skipped: Why nothing was learned, or None.
        version: Of the session's weights afterwards.
        at: When, ISO 8601.
    """

    seq: int
    session: str
    annotation_id: str
    region_id: str
    frozen_iou: float
    adapted_iou: float
    turned_back: int
    skipped: str | None
    version: str
    at: str


class SessionRow(NamedTuple):
    """Something else that happened to a session, or was asked of one.

    Args:
        seq: Entry in the journal.
        kind: Of the event.
        at: When, ISO 8601.
        payload: What it says.
    """

    seq: int
    kind: str
    at: str
    payload: Mapping[str, Any]


class FactStore:
    """Rows of all projects.  Safe to share between threads and processes.

    Args:
        path: The file; made where it is not there, and made anew where it is damaged.
        journal: What it is derived from.

    Raises:
        StoreError: The file cannot be made.
    """

    def __init__(self, path: Path, journal: Journal) -> None:
        self._path, self._journal = path, journal
        self._lock = threading.Lock()

    def refresh(self, at_most_s: float = float("inf")) -> int:
        """Bring the rows up to date.

        Args:
            at_most_s: After this time the rest is left to the next call.

        Returns:
            How many tasks were counted anew, of which one may be counted twice.
        """
        end, n_tasks = time.monotonic() + at_most_s, 0
        with self._lock:
            while True:
                n_more, is_over = self._step()
                n_tasks += n_more
                if is_over or time.monotonic() >= end:
                    return n_tasks

    def n_behind(self) -> int:
        """Entries of the journal that are not counted yet."""
        with self._reading() as db:
            return max(0, self._journal.last_entry() - int(state(db, "cursor", "0")))

    def stamp(self, project_id: str) -> str:
        """Another one whenever something of a project may be counted otherwise."""
        with self._reading() as db:
            return f"{state(db, 'made', '')} {state(db, f'news {project_id}', '')}"

    def _step(self) -> tuple[int, bool]:
        """Take a few entries into account; how many tasks that were, and whether it is over.

        Others who want to write wait no longer than for this.
        """
        with self._writing() as db:
            cursor = int(state(db, "cursor", "0"))
            entries = list(islice(self._journal.entries(after=cursor), STEP))
            self._journal.link_pending()  # after they were read: so each of them is linked
            tasks: dict[Task, None] = {}
            for entry in entries:
                tasks.update(dict.fromkeys(_tasks_of(db, entry)))
                if isinstance(entry.record, EventRecord):
                    _keep_event(db, entry.seq, entry.record)
                    set_state(db, f"news {entry.record.project_id}", str(entry.seq))
            for project_id, task_id in tasks:
                self._count(db, project_id, task_id)
                set_state(db, f"news {project_id}", str(entries[-1].seq))
            if entries:
                set_state(db, "cursor", str(entries[-1].seq))
            return len(tasks), len(entries) < STEP

    def recount(self) -> int:
        """Forget all rows and make them again; returns how many tasks there are."""
        with self._lock, self._writing() as db:
            for table in TABLES:
                db.execute(f"DELETE FROM {table}")
            db.execute("DELETE FROM state WHERE name != 'version'")
            set_state(db, "made", secrets.token_hex(8))
        return self.refresh()

    def projects(self) -> dict[str, int]:
        """Finished objects by project, in the order of the projects' ids."""
        with self._reading() as db:
            rows = db.execute("SELECT project_id, count(*) FROM facts GROUP BY project_id")
            return dict(sorted(rows.fetchall(), key=lambda row: (len(row[0]), row[0])))

    def facts(self, project_id: str) -> list[ObjectFact]:
        """A project's rows, in the order in which they were submitted, without their timings."""
        query = (
            f"SELECT {', '.join(FIGURES)} FROM facts WHERE project_id = ? "
            "ORDER BY submission_seq, position"
        )
        with self._reading() as db:
            return [to_fact(row) for row in db.execute(query, (project_id,))]

    def last_facts(self, project_id: str, decoder_id: str, last: int) -> list[ObjectFact]:
        """The rows of the objects that were clicked last upon a decoder, the newest first."""
        query = (
            f"SELECT {', '.join(FIGURES)} FROM facts WHERE project_id = ? AND decoder_id = ? "
            "ORDER BY submission_seq DESC, position DESC LIMIT ?"
        )
        with self._reading() as db:
            return [to_fact(row) for row in db.execute(query, (project_id, decoder_id, last))]

    def last_decoder(self, project_id: str) -> str | None:
        """Digest of the decoder of the object that was clicked last; None where none was."""
        query = (
            "SELECT decoder_id FROM facts WHERE project_id = ? AND decoder_id != '' "
            "ORDER BY submission_seq DESC, position DESC LIMIT 1"
        )
        with self._reading() as db:
            row = db.execute(query, (project_id,)).fetchone()
        return None if row is None else str(row[0])

    def n_facts(self, project_id: str) -> int:
        """Rows of a project."""
        with self._reading() as db:
            query = "SELECT count(*) FROM facts WHERE project_id = ?"
            return int(db.execute(query, (project_id,)).fetchone()[0])

    def shown(self, project_id: str) -> tuple[str, str] | None:
        """What `keep_shown` kept last for a project: its stamp and its content."""
        query = "SELECT stamp, content FROM shown WHERE project_id = ?"
        with self._reading() as db:
            row = db.execute(query, (project_id,)).fetchone()
        return None if row is None else (str(row[0]), str(row[1]))

    def keep_shown(self, project_id: str, stamp: str, content: str) -> None:
        """Keep what was added up of a project's rows as of a stamp."""
        row = project_id, stamp, content
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO shown VALUES (?, ?, ?)", row)

    def fact(self, submission_seq: int, position: int) -> ObjectFact | None:
        """One row."""
        query = f"SELECT {', '.join(FIGURES)} FROM facts WHERE submission_seq = ? AND position = ?"
        with self._reading() as db:
            row = db.execute(query, (submission_seq, position)).fetchone()
        return None if row is None else to_fact(row)

    def learned(self, project_id: str) -> list[LearnedRow]:
        """What sessions said of a project's objects, oldest first."""
        query = f"SELECT {', '.join(LearnedRow._fields)} FROM learned WHERE project_id = ?"
        with self._reading() as db:
            return list(map(LearnedRow._make, db.execute(f"{query} ORDER BY seq", (project_id,))))

    def session_events(self, project_id: str) -> list[SessionRow]:
        """What else happened to a project's sessions, oldest first."""
        query = (
            "SELECT seq, kind, at, payload FROM session_events WHERE project_id = ? ORDER BY seq"
        )
        with self._reading() as db:
            rows = db.execute(query, (project_id,)).fetchall()
        return [SessionRow(seq, kind, at, json.loads(payload)) for seq, kind, at, payload in rows]

    def versions(self, project_id: str) -> dict[str, str]:
        """Session -> version of its weights, as its last event left them."""
        query = "SELECT session, version FROM session_versions WHERE project_id = ?"
        with self._reading() as db:
            return dict(db.execute(query, (project_id,)).fetchall())

    def timings(self, project_id: str, last: int = 500) -> list[Mapping[str, float]]:
        """Milliseconds by stage of the interactions of the objects that were submitted last."""
        query = (
            "SELECT timings_ms FROM facts WHERE project_id = ? AND outcome != 'painted' "
            "ORDER BY submission_seq DESC, position DESC LIMIT ?"
        )
        with self._reading() as db:
            rows = db.execute(query, (project_id, last)).fetchall()
        return [timings for (text,) in rows for timings in json.loads(text)]

    def _count(self, db: sqlite3.Connection, project_id: str, task_id: str) -> None:
        db.execute("DELETE FROM facts WHERE project_id = ? AND task_id = ?", (project_id, task_id))
        marks = ", ".join("?" * len(COLUMNS))
        rows = [to_row(fact) for fact in facts_of_task(self._journal, project_id, task_id)]
        db.executemany(f"INSERT INTO facts ({', '.join(COLUMNS)}) VALUES ({marks})", rows)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(self._open()) as db:
                yield db
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"The insights in {self._path.name} cannot be read or written ({error}); the file "
                "is derived from the journal and may be deleted."
            ) from error

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return open_file(self._path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise  # busy, read-only, full: the file itself is sound
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            return open_file(self._path)


def _tasks_of(db: sqlite3.Connection, entry: Entry) -> list[Task]:
    """Tasks whose rows an entry may change."""
    record = entry.record
    if isinstance(record, InteractionRecord):
        task = (record.project_id, record.task_id)
        known = "SELECT 1 FROM facts WHERE project_id = ? AND task_id = ? LIMIT 1"
        return [task] if db.execute(known, task).fetchone() else []
    if not isinstance(record, SubmissionRecord):
        return []
    # News of a deletion names no task, and a version may lie in another task than the one before.
    of_annotation = "SELECT DISTINCT task_id FROM facts WHERE project_id = ? AND annotation_id = ?"
    rows = db.execute(of_annotation, (record.project_id, record.annotation_id)).fetchall()
    named = [] if record.task_id is None else [record.task_id]
    return [(record.project_id, str(task_id)) for task_id in [*named, *(row[0] for row in rows)]]


def _keep_event(db: sqlite3.Connection, seq: int, event: EventRecord) -> None:
    said, project_id, at = event.payload, event.project_id or "", event.created_at.isoformat()
    if event.kind in CHANGING_KINDS and {"session", "version"} <= said.keys():
        row = project_id, said["session"], said["version"]
        db.execute("INSERT OR REPLACE INTO session_versions VALUES (?, ?, ?)", row)
    if event.kind in TOLD_KINDS:
        text = json.dumps(_slim(said), separators=(",", ":"))
        told = seq, project_id, event.kind, at, text
        db.execute("INSERT OR REPLACE INTO session_events VALUES (?, ?, ?, ?, ?)", told)
    if event.kind != "learned":
        return
    names = LearnedRow._fields[1:-1]
    if all(name in said for name in names):
        values = [said[name] for name in names]
        marks = ", ".join("?" * (len(values) + 3))
        columns = ", ".join(("seq", "project_id", *names, "at"))
        insert = f"INSERT OR REPLACE INTO learned ({columns}) VALUES ({marks})"
        db.execute(insert, (seq, project_id, *values, at))


def _slim(said: Mapping[str, Any]) -> dict[str, Any]:
    """An event without the settings that it may hold: of these, only how much is remembered."""
    settings = said.get("settings")
    slim = {name: value for name, value in said.items() if name != "settings"}
    return slim | ({"replay": settings.get("replay")} if isinstance(settings, dict) else {})
