"""The columns of an export: names, types, meanings, and the rows that fill them.

Masks are COCO's compressed run lengths: ``size`` is [height, width] and ``counts`` the text that
``pycocotools.mask.decode`` reads.  Coordinates are pixels of the original, upright image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptation.journal.records import (
    CandidateRecord,
    Entry,
    EventRecord,
    InteractionRecord,
    Link,
    PromptRecord,
    SubmissionRecord,
    SubmittedRegion,
)
from adaptation.journal.rows import prompt_json
from adaptation.masks import Rle

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        name: Of the column.
        type: In the small language of `parquet.arrow_type`: ``int``, ``float``, ``bool``,
            ``text``, ``time``, ``json`` (an object in JSON lines, its text in Parquet),
            ``[type]`` for a list, ``{type}`` for a map from text, or the fields of a struct.
        about: What it means.
    """

    name: str
    type: str | tuple[Column, ...] | list[Column]
    about: str


_CLICK = [
    Column("id", "text", "the client's id of the click"),
    Column("x", "float", "column in pixels"),
    Column("y", "float", "row in pixels"),
    Column("is_positive", "bool", "true for foreground"),
]
_BOX = (
    Column("id", "text", "the client's id of the box"),
    Column("x0", "float", "left"),
    Column("y0", "float", "top"),
    Column("x1", "float", "right, outside at the end"),
    Column("y1", "float", "bottom, outside at the end"),
)
_RLE = (Column("size", "[int]", "height, width"), Column("counts", "text", "run lengths"))
_CANDIDATE = [
    Column("region_id", "text", "the id it was, or would have been, offered under"),
    Column("mask", _RLE, "the mask"),
    Column("predicted_iou", "float", "the model's own estimate; null where there is none"),
    Column("was_shown", "bool", "whether the annotator saw it"),
    Column("token", "int", "the decoder's mask token"),
]
_REGION = [
    Column("region_id", "text", "its id in the annotation"),
    Column("label", "text", "its label"),
    Column("kind", "text", "brush, polygon, bitmask, rectangle, vector, ..."),
    Column("mask", _RLE, "its mask; null where none could be made"),
]

TABLES: Mapping[str, Sequence[Column]] = {
    "interactions": (
        Column("seq", "int", "place in the journal's one order"),
        Column("request_id", "text", "unique id of the request"),
        Column("created_at", "time", "when the request arrived"),
        Column("project_id", "text", "the project"),
        Column("task_id", "text", "the task"),
        Column("label", "text", "the label being drawn"),
        Column("object_id", "text", "id of the object's first click or box"),
        Column("step", "int", "0 for the object's first prompt"),
        Column("clicks", _CLICK, "all clicks on the object so far, oldest first"),
        Column("box", _BOX, "the box, if there is one"),
        Column("image_ref", "text", "where the image came from"),
        Column("image_id", "text", "digest of its pixels"),
        Column("image_size", "[int]", "height, width"),
        Column("model_id", "text", "name and digest of the model"),
        Column("encoder_id", "text", "digest of the encoder"),
        Column("decoder_id", "text", "digest of the base decoder"),
        Column("adapter_version", "text", "session weights that answered; empty for none"),
        Column("candidates", _CANDIDATE, "all masks, the shown ones first"),
        Column("view", "[int]", "x0, y0, x1, y1 of the crop decoded on; null for the whole image"),
        Column("timings_ms", "{float}", "milliseconds by stage"),
        Column("context", "json", "whatever else was noted"),
    ),
    "submissions": (
        Column("seq", "int", "place in the journal's one order"),
        Column("event", "text", "created, updated or deleted"),
        Column("annotation_id", "text", "the annotation"),
        Column("project_id", "text", "the project"),
        Column("task_id", "text", "the task; null for deletions"),
        Column("annotator", "text", "id of the user who completed it"),
        Column("received_at", "time", "when the news arrived"),
        Column("created_at", "time", "when the annotation was made"),
        Column("updated_at", "time", "when this version was made; the latest is in force"),
        Column("lead_time_s", "float", "seconds spent by the annotator"),
        Column("was_cancelled", "bool", "true for a skipped task"),
        Column("regions", _REGION, "what was submitted"),
        Column("idempotency_key", "text", "the same news has the same key"),
    ),
    "events": (
        Column("seq", "int", "place in the journal's one order"),
        Column("kind", "text", "what happened"),
        Column("project_id", "text", "the project, if it belongs to one"),
        Column("created_at", "time", "when it happened"),
        Column("payload", "json", "what there is to say about it"),
    ),
    "links": (
        Column("submission_seq", "int", "`seq` of the submission"),
        Column("position", "int", "index in its regions"),
        Column("region_id", "text", "of the submitted region"),
        Column("annotation_id", "text", "of its annotation"),
        Column("request_id", "text", "of the interaction that made it; null if none fits"),
        Column("candidate_region_id", "text", "of the candidate in that interaction"),
        Column("how", "text", "region_id, overlap or none"),
        Column("iou", "float", "of submitted and offered mask; below 1 when edited by hand"),
        Column("standing", "text", "current, replaced or deleted"),
    ),
}


def entry_row(entry: Entry) -> tuple[str, Row]:
    """An entry's table and row."""
    record = entry.record
    if isinstance(record, InteractionRecord):
        return "interactions", _interaction(entry.seq, record)
    if isinstance(record, SubmissionRecord):
        return "submissions", _submission(entry.seq, record)
    return "events", _event(entry.seq, record)


def link_values(link: Link) -> Row:
    """The row of a link."""
    return _pick(link, "links")


def _pick(record: object, table: str, **given: Any) -> Row:
    """A row: what is given, and the rest from the record's attributes of the same names."""
    names = (column.name for column in TABLES[table])
    return {name: given[name] if name in given else getattr(record, name) for name in names}


def _interaction(seq: int, record: InteractionRecord) -> Row:
    return _pick(
        record,
        "interactions",
        seq=seq,
        **_prompt(record.prompt),
        image_size=list(record.image_size),
        candidates=[_candidate(candidate) for candidate in record.candidates],
        view=None if record.view is None else list(record.view),
    )


def _prompt(prompt: PromptRecord) -> Row:
    values = prompt_json(prompt)
    return {"clicks": values["clicks"], "box": values["box"]}


def _candidate(record: CandidateRecord) -> Row:
    score = record.predicted_iou
    return {
        "region_id": record.region_id,
        "mask": _mask(record.rle),
        "predicted_iou": score if math.isfinite(score) else None,
        "was_shown": record.was_shown,
        "token": record.token,
    }


def _submission(seq: int, record: SubmissionRecord) -> Row:
    regions = [_region(region) for region in record.regions]
    return _pick(record, "submissions", seq=seq, regions=regions)


def _region(region: SubmittedRegion) -> Row:
    return {
        "region_id": region.region_id,
        "label": region.label,
        "kind": region.kind,
        "mask": None if region.rle is None else _mask(region.rle),
    }


def _mask(rle: Rle) -> Row:
    return {"size": list(rle.size), "counts": rle.counts.decode("ascii")}


def _event(seq: int, record: EventRecord) -> Row:
    return _pick(record, "events", seq=seq)
