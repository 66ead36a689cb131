"""Records to write: plain ones by function, all others by hypothesis."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
from hypothesis import strategies as st

from adaptation.journal import (
    BoxRecord,
    CandidateRecord,
    ClickRecord,
    InteractionRecord,
    PromptRecord,
    SubmissionRecord,
    SubmittedRegion,
)
from adaptation.masks import Rle, encode_rle

SIZE = (24, 32)
NOON = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)

_numbers = itertools.count()


def at(seconds: float) -> datetime:
    """A moment, by the seconds after noon."""
    return NOON + timedelta(seconds=seconds)


def square(x: int, y: int, side: int, size: tuple[int, int] = SIZE) -> Rle:
    """The mask of a square with its top-left corner at (x, y)."""
    mask = np.zeros(size, dtype=np.bool_)
    mask[y : y + side, x : x + side] = True
    return encode_rle(mask)


def candidate(region_id: str, rle: Rle | None = None, **changes: Any) -> CandidateRecord:
    values: dict[str, Any] = {
        "region_id": region_id,
        "rle": rle or square(4, 4, 8),
        "predicted_iou": 0.75,
        "was_shown": True,
        "token": 0,
    }
    return CandidateRecord(**(values | changes))


def interaction(
    request_id: str | None = None,
    *,
    masks: Sequence[Rle] = (),
    shown: int = 1,
    **changes: Any,
) -> InteractionRecord:
    """One click; candidate i has the id ``<request id>-i``, and the first ``shown`` were shown."""
    name = request_id or f"request{next(_numbers)}"
    candidates = tuple(
        candidate(f"{name}-{i}", rle, was_shown=i < shown)
        for i, rle in enumerate(masks or [square(4, 4, 8)])
    )
    values: dict[str, Any] = {
        "request_id": name,
        "created_at": at(0),
        "project_id": "1",
        "task_id": "7",
        "label": "Scratch",
        "object_id": "click-a",
        "step": 0,
        "prompt": PromptRecord(clicks=(ClickRecord(id="click-a", x=8, y=8, is_positive=True),)),
        "image_ref": "/data/upload/1/tile.png",
        "image_id": "5f0e",
        "image_size": SIZE,
        "model_id": "compact-1234abcd",
        "encoder_id": "e1",
        "decoder_id": "d1",
        "candidates": candidates,
    }
    return InteractionRecord(**(values | changes))


def region(region_id: str, rle: Rle | None = None, **changes: Any) -> SubmittedRegion:
    values: dict[str, Any] = {
        "region_id": region_id,
        "label": "Scratch",
        "kind": "brush",
        "rle": rle or square(4, 4, 8),
    }
    return SubmittedRegion(**(values | changes))


def submission(*regions: SubmittedRegion, **changes: Any) -> SubmissionRecord:
    values: dict[str, Any] = {
        "event": "created",
        "annotation_id": "40",
        "project_id": "1",
        "task_id": "7",
        "annotator": "3",
        "received_at": at(60),
        "created_at": at(59),
        "updated_at": at(59),
        "lead_time_s": 12.5,
        "regions": regions,
    }
    return SubmissionRecord(**(values | changes))


def deletion(**changes: Any) -> SubmissionRecord:
    """The news of a deletion, which names neither task nor time."""
    nothing = {"task_id": None, "annotator": None, "created_at": None, "updated_at": None}
    values = {"event": "deleted", "lead_time_s": None, "received_at": at(120)}
    return submission(**(nothing | values | changes))


# Everything that a record may hold

texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)
unique_names = st.builds(lambda: f"name{next(_numbers)}")
zones = st.integers(-23, 23).map(lambda hours: timezone(timedelta(hours=hours)))
moments = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=zones)
reals = st.floats(allow_nan=False, allow_infinity=False)
small = st.integers(0, 2**31 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | reals | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
json_objects = st.dictionaries(st.text(max_size=4), json_values, max_size=3)
sizes = st.tuples(st.integers(1, 12), st.integers(1, 12))
clicks = st.builds(ClickRecord, id=texts, x=reals, y=reals, is_positive=st.booleans())
boxes = st.builds(BoxRecord, id=texts, x0=reals, y0=reals, x1=reals, y1=reals)
prompts = st.builds(
    PromptRecord, clicks=st.lists(clicks, max_size=3).map(tuple), box=st.none() | boxes
)


def rles(size: tuple[int, int]) -> st.SearchStrategy[Rle]:
    n_pixels = size[0] * size[1]
    bits = st.integers(0, 2**n_pixels - 1).map(lambda number: f"{number:0{n_pixels}b}")
    return bits.map(lambda text: encode_rle((np.array(list(text)) == "1").reshape(size)))


def candidates_of(size: tuple[int, int]) -> st.SearchStrategy[tuple[CandidateRecord, ...]]:
    one = st.builds(
        CandidateRecord,
        region_id=texts,
        rle=rles(size),
        predicted_iou=reals | st.sampled_from([float("inf"), float("-inf")]),
        was_shown=st.booleans(),
        token=small,
    )
    return st.lists(one, max_size=3).map(tuple)


def interactions() -> st.SearchStrategy[InteractionRecord]:
    """Any interaction; no two have the same request id."""
    names = (
        "project_id",
        "task_id",
        "label",
        "object_id",
        "image_ref",
        "image_id",
        "model_id",
        "encoder_id",
        "decoder_id",
        "adapter_version",
    )
    return sizes.flatmap(
        lambda size: st.builds(
            InteractionRecord,
            request_id=unique_names,
            created_at=moments,
            step=small,
            prompt=prompts,
            image_size=st.just(size),
            candidates=candidates_of(size),
            view=st.none() | st.tuples(small, small, small, small),
            timings_ms=st.dictionaries(texts, reals, max_size=3),
            context=json_objects,
            **{name: texts for name in names},
        )
    )


def submissions() -> st.SearchStrategy[SubmissionRecord]:
    """Any submission; no two have the same key."""
    one_region = st.builds(
        SubmittedRegion,
        region_id=texts,
        label=texts,
        kind=texts,
        rle=st.none() | sizes.flatmap(rles),
    )
    return st.builds(
        SubmissionRecord,
        event=st.sampled_from(["created", "updated"]),
        annotation_id=texts,
        project_id=texts,
        task_id=texts,
        annotator=st.none() | texts,
        received_at=moments,
        created_at=st.none() | moments,
        updated_at=st.none() | moments,
        lead_time_s=st.none() | reals,
        was_cancelled=st.booleans(),
        regions=st.lists(one_region, max_size=3).map(tuple),
        idempotency_key=unique_names,
    )
