"""Records to rows and back, without loss."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import RowMapping, Table

from adaptation.errors import InputError
from adaptation.journal.records import (
    BoxRecord,
    CandidateRecord,
    ClickRecord,
    EventRecord,
    InteractionRecord,
    Link,
    PromptRecord,
    SubmissionRecord,
    SubmittedRegion,
)
from adaptation.journal.schema import (
    CANDIDATES,
    EVENTS,
    INTERACTIONS,
    LINKS,
    REGIONS,
    SUBMISSIONS,
)
from adaptation.masks import Rle

Row = dict[str, Any]

_PLAIN: Mapping[str, Callable[[Any], Any]] = {"float": float, "int": int, "bool": bool}
"""Numbers of numpy become Python's own: by the annotation of the field."""


def _shared(record: type[Any], table: Table, *, but: Collection[str] = ()) -> tuple[str, ...]:
    """Names of the fields whose values travel as they are: a column has the same name.

    Args:
        record: A dataclass.
        table: Where it is kept.
        but: Fields that are kept in another form under their own name.
    """
    columns = set(table.columns.keys()) - set(but)
    return tuple(field.name for field in fields(record) if field.name in columns)


_INTERACTION = _shared(
    InteractionRecord, INTERACTIONS, but=("prompt", "view", "timings_ms", "context")
)
_CANDIDATE = _shared(CandidateRecord, CANDIDATES)
_SUBMISSION = _shared(SubmissionRecord, SUBMISSIONS)
_REGION = _shared(SubmittedRegion, REGIONS)
_EVENT = _shared(EventRecord, EVENTS, but=("payload",))
_LINK = _shared(Link, LINKS)


def _values(record: Any, names: Collection[str]) -> Row:
    """Some fields of a record, by name."""
    return {
        field.name: _PLAIN.get(str(field.type), _as_it_is)(getattr(record, field.name))
        for field in fields(record)
        if field.name in names
    }


def _as_it_is(value: Any) -> Any:
    return value


def _all_values(record: Any) -> Row:
    return _values(record, {field.name for field in fields(record)})


def interaction_row(record: InteractionRecord) -> Row:
    """The row of ``journal_interactions``, without its ``seq``."""
    height, width = record.image_size
    return {
        **_values(record, _INTERACTION),
        "prompt": as_json("prompt", prompt_json(record.prompt)),
        "image_height": int(height),
        "image_width": int(width),
        "view": None if record.view is None else [int(v) for v in record.view],
        "timings_ms": as_json("timings_ms", {k: float(v) for k, v in record.timings_ms.items()}),
        "context": as_json("context", record.context),
    }


def prompt_json(prompt: PromptRecord) -> Row:
    """A prompt as JSON values."""
    return {
        "clicks": [_all_values(click) for click in prompt.clicks],
        "box": None if prompt.box is None else _all_values(prompt.box),
    }


def candidate_rows(seq: int, candidates: Sequence[CandidateRecord], first: int = 0) -> list[Row]:
    """The rows of ``journal_candidates``, at the positions from the first one on."""
    return [
        {
            "seq": seq,
            "position": position,
            "counts": candidate.rle.counts,
            **_values(candidate, _CANDIDATE),
        }
        for position, candidate in enumerate(candidates, first)
    ]


def read_interaction(row: RowMapping, candidates: Sequence[RowMapping]) -> InteractionRecord:
    """The record of a row and its candidates' rows, these in order."""
    size = (row["image_height"], row["image_width"])
    return InteractionRecord(
        **_named(row, _INTERACTION),
        prompt=_read_prompt(row["prompt"]),
        image_size=size,
        view=None if row["view"] is None else tuple(row["view"]),
        timings_ms=row["timings_ms"],
        context=row["context"],
        candidates=tuple(read_candidate(candidate, size) for candidate in candidates),
    )


def _read_prompt(value: Mapping[str, Any]) -> PromptRecord:
    box = value["box"]
    return PromptRecord(
        clicks=tuple(ClickRecord(**click) for click in value["clicks"]),
        box=None if box is None else BoxRecord(**box),
    )


def read_candidate(row: RowMapping, size: tuple[int, int]) -> CandidateRecord:
    """The record of a candidate's row; its mask has the size of its interaction's image."""
    return CandidateRecord(
        rle=Rle(size=size, counts=bytes(row["counts"])),
        **_named(row, _CANDIDATE),
    )


def submission_row(record: SubmissionRecord) -> Row:
    """The row of ``journal_submissions``, without its ``seq`` and without what is derived."""
    return _values(record, _SUBMISSION)


def region_rows(seq: int, regions: Sequence[SubmittedRegion]) -> list[Row]:
    """The rows of ``journal_regions``."""
    return [
        {
            "seq": seq,
            "position": position,
            **_values(region, _REGION),
            "height": None if region.rle is None else int(region.rle.size[0]),
            "width": None if region.rle is None else int(region.rle.size[1]),
            "counts": None if region.rle is None else region.rle.counts,
        }
        for position, region in enumerate(regions)
    ]


def read_submission(row: RowMapping, regions: Sequence[RowMapping]) -> SubmissionRecord:
    """The record of a row and its regions' rows, these in order."""
    return SubmissionRecord(
        **_named(row, _SUBMISSION),
        regions=tuple(read_region(region) for region in regions),
    )


def read_region(row: RowMapping) -> SubmittedRegion:
    """The record of a region's row."""
    has_mask = row["counts"] is not None
    size = (row["height"], row["width"])
    return SubmittedRegion(
        rle=Rle(size=size, counts=bytes(row["counts"])) if has_mask else None,
        **_named(row, _REGION),
    )


def event_row(record: EventRecord) -> Row:
    """The row of ``journal_events``, without its ``seq``."""
    return {**_values(record, _EVENT), "payload": as_json("payload", record.payload)}


def read_event(row: RowMapping) -> EventRecord:
    """The record of a row."""
    return EventRecord(payload=row["payload"], **_named(row, _EVENT))


def link_row(link: Link) -> Row:
    """The row of ``journal_links``."""
    return {"seq": link.submission_seq, **_values(link, _LINK)}


def read_link(row: RowMapping) -> Link:
    """The link of a row joined with its region and its submission."""
    return Link(
        submission_seq=row["seq"],
        region_id=row["region_id"],
        annotation_id=row["annotation_id"],
        standing=row["standing"],
        **_named(row, _LINK),
    )


def _named(row: RowMapping, names: Collection[str]) -> Row:
    return {name: row[name] for name in names}


def as_json(name: str, value: Mapping[str, Any]) -> Row:
    """A field kept as JSON, checked to hold nothing else: no NaN, no arrays, no dates."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must hold JSON values only: {error}.") from error
    return dict(value)
