"""Records to rows and back, without loss."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping

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
from adaptation.masks import Rle

Row = dict[str, Any]

_BOX = ("id", "x0", "y0", "x1", "y1")
_INTERACTION_TEXTS = (
    "request_id",
    "created_at",
    "project_id",
    "task_id",
    "label",
    "object_id",
    "step",
    "image_ref",
    "image_id",
    "model_id",
    "encoder_id",
    "decoder_id",
    "adapter_version",
)
_SUBMISSION_FIELDS = (
    "idempotency_key",
    "project_id",
    "annotation_id",
    "task_id",
    "event",
    "annotator",
    "received_at",
    "created_at",
    "updated_at",
    "lead_time_s",
    "was_cancelled",
)
_LINK_FIELDS = ("position", "request_id", "candidate_region_id", "how", "iou")


def interaction_row(record: InteractionRecord) -> Row:
    """The row of ``journal_interactions``, without its ``seq``."""
    height, width = record.image_size
    return {
        **{name: getattr(record, name) for name in _INTERACTION_TEXTS},
        "prompt": as_json("prompt", prompt_json(record.prompt)),
        "image_height": int(height),
        "image_width": int(width),
        "view": None if record.view is None else [int(v) for v in record.view],
        "timings_ms": as_json("timings_ms", {k: float(v) for k, v in record.timings_ms.items()}),
        "context": as_json("context", record.context),
    }


def prompt_json(prompt: PromptRecord) -> Row:
    """A prompt as JSON values."""
    box = prompt.box
    return {
        "clicks": [
            {"id": c.id, "x": float(c.x), "y": float(c.y), "is_positive": bool(c.is_positive)}
            for c in prompt.clicks
        ],
        "box": None
        if box is None
        else {"id": box.id, **{name: float(getattr(box, name)) for name in _BOX[1:]}},
    }


def candidate_rows(seq: int, candidates: Sequence[CandidateRecord]) -> list[Row]:
    """The rows of ``journal_candidates``."""
    return [
        {
            "seq": seq,
            "position": position,
            "region_id": candidate.region_id,
            "counts": candidate.rle.counts,
            "predicted_iou": float(candidate.predicted_iou),
            "was_shown": bool(candidate.was_shown),
            "token": int(candidate.token),
        }
        for position, candidate in enumerate(candidates)
    ]


def read_interaction(row: RowMapping, candidates: Sequence[RowMapping]) -> InteractionRecord:
    """The record of a row and its candidates' rows, these in order."""
    size = (row["image_height"], row["image_width"])
    return InteractionRecord(
        **{name: row[name] for name in _INTERACTION_TEXTS},
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
        region_id=row["region_id"],
        rle=Rle(size=size, counts=bytes(row["counts"])),
        predicted_iou=row["predicted_iou"],
        was_shown=row["was_shown"],
        token=row["token"],
    )


def submission_row(record: SubmissionRecord) -> Row:
    """The row of ``journal_submissions``, without its ``seq`` and without what is derived."""
    return {name: getattr(record, name) for name in _SUBMISSION_FIELDS}


def region_rows(seq: int, regions: Sequence[SubmittedRegion]) -> list[Row]:
    """The rows of ``journal_regions``."""
    return [
        {
            "seq": seq,
            "position": position,
            "region_id": region.region_id,
            "label": region.label,
            "kind": region.kind,
            "height": None if region.rle is None else int(region.rle.size[0]),
            "width": None if region.rle is None else int(region.rle.size[1]),
            "counts": None if region.rle is None else region.rle.counts,
        }
        for position, region in enumerate(regions)
    ]


def read_submission(row: RowMapping, regions: Sequence[RowMapping]) -> SubmissionRecord:
    """The record of a row and its regions' rows, these in order."""
    return SubmissionRecord(
        **{name: row[name] for name in _SUBMISSION_FIELDS},
        regions=tuple(read_region(region) for region in regions),
    )


def read_region(row: RowMapping) -> SubmittedRegion:
    """The record of a region's row."""
    has_mask = row["counts"] is not None
    size = (row["height"], row["width"])
    return SubmittedRegion(
        region_id=row["region_id"],
        label=row["label"],
        kind=row["kind"],
        rle=Rle(size=size, counts=bytes(row["counts"])) if has_mask else None,
    )


def event_row(record: EventRecord) -> Row:
    """The row of ``journal_events``, without its ``seq``."""
    return {
        "kind": record.kind,
        "project_id": record.project_id,
        "payload": as_json("payload", record.payload),
        "created_at": record.created_at,
    }


def read_event(row: RowMapping) -> EventRecord:
    """The record of a row."""
    return EventRecord(
        kind=row["kind"],
        project_id=row["project_id"],
        payload=row["payload"],
        created_at=row["created_at"],
    )


def link_row(link: Link) -> Row:
    """The row of ``journal_links``."""
    return {"seq": link.submission_seq, **{name: getattr(link, name) for name in _LINK_FIELDS}}


def read_link(row: RowMapping) -> Link:
    """The link of a row joined with its region and its submission."""
    return Link(
        submission_seq=row["seq"],
        region_id=row["region_id"],
        annotation_id=row["annotation_id"],
        standing=row["standing"],
        **{name: row[name] for name in _LINK_FIELDS},
    )


def as_json(name: str, value: Mapping[str, Any]) -> Row:
    """A field kept as JSON, checked to hold nothing else: no NaN, no arrays, no dates."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must hold JSON values only: {error}.") from error
    return dict(value)
