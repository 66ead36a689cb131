"""The tables, and how values travel into their columns and back.

One table counts: ``journal_entries`` gives every record, of whatever kind, its place in one total
order, and the tables of the kinds share its ``seq`` as their key.  Masks are bytes of compressed
RLE; what is only ever read as a whole (prompts, timings, free fields) is JSON.  Records are never
changed; only what is derived from them is: ``standing``, ``link_wanted`` and ``link_done`` of a
submission, and the rows of ``journal_links``.
"""

from __future__ import annotations

import math
import zlib
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.types import TypeDecorator, TypeEngine


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime in UTC: ``timestamptz`` in PostgreSQL, sortable ISO text in SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The column type of one dialect."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """To the database."""
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(timezone.utc).isoformat(timespec="microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        return moment.astimezone(timezone.utc)


class NanAsNull(TypeDecorator[float]):
    """A float that may be NaN, which SQLite cannot hold: it is stored as NULL."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        """To the database."""
        return None if value is None or math.isnan(value) else float(value)

    def process_result_value(self, value: float | None, dialect: Dialect) -> float:
        """From the database."""
        return math.nan if value is None else value


class Packed(TypeDecorator[str]):
    """Text, kept as zlib-compressed UTF-8."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> bytes | None:
        """To the database."""
        return None if value is None else zlib.compress(value.encode(), level=1)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> str | None:
        """From the database."""
        return None if value is None else zlib.decompress(value).decode()


# SQLite counts by itself only in a column of the exact type INTEGER, which is 64 bits wide there.
Seq = BigInteger().with_variant(Integer, "sqlite")
Json = JSON(none_as_null=True)

METADATA = MetaData()


def _seq() -> Column[int]:
    return Column("seq", Seq, ForeignKey("journal_entries.seq"), primary_key=True)


VERSION = Table("journal_version", METADATA, Column("version", Integer, nullable=False))

ENTRIES = Table(
    "journal_entries",
    METADATA,
    Column("seq", Seq, primary_key=True, autoincrement=True),
    Column("kind", Text, nullable=False),
    Column("project_id", Text),
    Column("appended_at", UtcTime, nullable=False),
    Index("ix_journal_entries_project", "project_id", "seq"),
    sqlite_autoincrement=True,  # a number is never given twice
)

INTERACTIONS = Table(
    "journal_interactions",
    METADATA,
    _seq(),
    Column("request_id", Text, nullable=False, unique=True),
    Column("created_at", UtcTime, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("task_id", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    Column("step", Integer, nullable=False),
    Column("prompt", Json, nullable=False),
    Column("image_ref", Text, nullable=False),
    Column("image_id", Text, nullable=False),
    Column("image_height", Integer, nullable=False),
    Column("image_width", Integer, nullable=False),
    Column("model_id", Text, nullable=False),
    Column("encoder_id", Text, nullable=False),
    Column("decoder_id", Text, nullable=False),
    Column("adapter_version", Text, nullable=False),
    Column("view", Json),
    Column("timings_ms", Json, nullable=False),
    Column("context", Json, nullable=False),
    Index("ix_journal_interactions_project", "project_id", "seq"),
    Index("ix_journal_interactions_task", "project_id", "task_id", "seq"),
)

CANDIDATES = Table(
    "journal_candidates",
    METADATA,
    Column("seq", Seq, ForeignKey("journal_interactions.seq"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("region_id", Text, nullable=False, index=True),
    Column("counts", LargeBinary, nullable=False),
    Column("predicted_iou", NanAsNull),
    Column("was_shown", Boolean, nullable=False),
    Column("token", Integer, nullable=False),
)

SUBMISSIONS = Table(
    "journal_submissions",
    METADATA,
    _seq(),
    Column("idempotency_key", Text, nullable=False),
    Column("project_id", Text, nullable=False),
    Column("annotation_id", Text, nullable=False),
    Column("task_id", Text),
    Column("event", Text, nullable=False),
    Column("annotator", Text),
    Column("received_at", UtcTime, nullable=False),
    Column("created_at", UtcTime),
    Column("updated_at", UtcTime),
    Column("lead_time_s", Double),
    Column("was_cancelled", Boolean, nullable=False),
    Column("standing", Text, nullable=False),
    # Linked when both are equal; whatever may change the links counts the first one up.
    Column("link_wanted", Integer, nullable=False),
    Column("link_done", Integer, nullable=False),
    UniqueConstraint("project_id", "idempotency_key"),
    Index("ix_journal_submissions_annotation", "project_id", "annotation_id"),
    Index("ix_journal_submissions_task", "project_id", "task_id"),
    Index(
        "ix_journal_submissions_unlinked",
        "seq",
        sqlite_where=text("link_wanted > link_done"),
        postgresql_where=text("link_wanted > link_done"),
    ),
)

REGIONS = Table(
    "journal_regions",
    METADATA,
    Column("seq", Seq, ForeignKey("journal_submissions.seq"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("region_id", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("height", Integer),
    Column("width", Integer),
    Column("counts", LargeBinary),
)

LINKS = Table(
    "journal_links",
    METADATA,
    Column("seq", Seq, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("request_id", Text, index=True),
    Column("candidate_region_id", Text),
    Column("how", Text, nullable=False),
    Column("iou", Double),
    ForeignKeyConstraint(["seq", "position"], ["journal_regions.seq", "journal_regions.position"]),
)

EVENTS = Table(
    "journal_events",
    METADATA,
    _seq(),
    Column("kind", Text, nullable=False),
    Column("project_id", Text),
    Column("payload", Json, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Index("ix_journal_events_kind", "kind", "seq"),
)

DELIVERIES = Table(
    "journal_deliveries",
    METADATA,
    Column("id", Seq, primary_key=True, autoincrement=True),
    Column("received_at", UtcTime, nullable=False),
    Column("body", Packed, nullable=False),
    sqlite_autoincrement=True,
)
