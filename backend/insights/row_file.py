"""The file of the rows: its tables, and a row as a fact and back."""

from __future__ import annotations

import json
import sqlite3
from datetime import datetime
from pathlib import Path
from typing import Any

from backend.insights.facts import ObjectFact

VERSION = 3
"""Of the file; another one is made anew."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS facts (
    submission_seq INTEGER NOT NULL, position INTEGER NOT NULL,
    project_id TEXT NOT NULL, task_id TEXT NOT NULL,
    annotation_id TEXT NOT NULL, region_id TEXT NOT NULL,
    submitted_at TEXT NOT NULL, annotator TEXT, label TEXT NOT NULL, outcome TEXT NOT NULL,
    ious TEXT NOT NULL, predicted TEXT NOT NULL, decoder_id TEXT NOT NULL, gaps_s TEXT NOT NULL,
    image_id TEXT NOT NULL, request_id TEXT NOT NULL, timings_ms TEXT NOT NULL,
    PRIMARY KEY (submission_seq, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS learned (
    seq INTEGER PRIMARY KEY, project_id TEXT NOT NULL, session TEXT NOT NULL,
    annotation_id TEXT NOT NULL, region_id TEXT NOT NULL,
    frozen_iou REAL NOT NULL, adapted_iou REAL NOT NULL, turned_back INTEGER NOT NULL,
    skipped TEXT, version TEXT NOT NULL, at TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS session_events (
    seq INTEGER PRIMARY KEY, project_id TEXT NOT NULL, kind TEXT NOT NULL, at TEXT NOT NULL,
    payload TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS session_versions (
    project_id TEXT NOT NULL, session TEXT NOT NULL, version TEXT NOT NULL,
    PRIMARY KEY (project_id, session)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shown (
    project_id TEXT PRIMARY KEY, stamp TEXT NOT NULL, content TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS learned_of_project ON learned (project_id);
CREATE INDEX IF NOT EXISTS session_events_of_project ON session_events (project_id);
CREATE INDEX IF NOT EXISTS facts_of_task ON facts (project_id, task_id);
CREATE INDEX IF NOT EXISTS facts_of_annotation ON facts (project_id, annotation_id);
"""
COLUMNS = tuple(ObjectFact.__slots__)
"""Of the facts' table, in the order of `to_row`."""

FIGURES = tuple(name for name in COLUMNS if name != "timings_ms")
"""Those of them that figures are made of, in the order of `to_fact`."""

TABLES = ("facts", "learned", "session_events", "session_versions", "shown")


def open_file(path: Path) -> sqlite3.Connection:
    """The file with all of its tables; one of another version is emptied.

    Raises:
        sqlite3.Error: It cannot be opened, or is no such file.
    """
    db = sqlite3.connect(path, timeout=30, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(_SCHEMA)
        if state(db, "version", str(VERSION)) != str(VERSION):
            for table in TABLES:
                db.executescript(f"DROP TABLE IF EXISTS {table}")
            db.executescript("DELETE FROM state;" + _SCHEMA)
        set_state(db, "version", str(VERSION))
    except BaseException:
        db.close()
        raise
    return db


def state(db: sqlite3.Connection, name: str, default: str) -> str:
    """A remembered value by its name."""
    row = db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
    return default if row is None else str(row[0])


def set_state(db: sqlite3.Connection, name: str, value: str) -> None:
    """Remember a value; nothing is written where it is known already."""
    if state(db, name, "") != value:
        db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, value))


def to_row(fact: ObjectFact) -> tuple[object, ...]:
    """The values of `COLUMNS`."""
    values = {name: getattr(fact, name) for name in COLUMNS}
    values["submitted_at"] = fact.submitted_at.isoformat()
    for name in ("ious", "predicted", "gaps_s", "timings_ms"):
        values[name] = json.dumps(values[name], separators=(",", ":"))
    return tuple(values[name] for name in COLUMNS)


def to_fact(row: tuple[Any, ...]) -> ObjectFact:
    """A fact without timings, from the values of `FIGURES`."""
    (
        project_id, task_id, annotation_id, region_id, submission_seq, position, submitted_at,
        annotator, label, outcome, ious, predicted, decoder_id, gaps_s, image_id, request_id,
    ) = row  # fmt: skip
    return ObjectFact(
        project_id=project_id,
        task_id=task_id,
        annotation_id=annotation_id,
        region_id=region_id,
        submission_seq=submission_seq,
        position=position,
        submitted_at=datetime.fromisoformat(submitted_at),
        annotator=annotator,
        label=label,
        outcome=outcome,
        ious=_floats(ious),
        predicted=_floats(predicted),
        decoder_id=decoder_id,
        gaps_s=_floats(gaps_s),
        image_id=image_id,
        request_id=request_id,
    )


def _floats(text: str) -> tuple[float, ...]:
    inside = text[1:-1]
    return tuple(map(float, inside.split(","))) if inside else ()
