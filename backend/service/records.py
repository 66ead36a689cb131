"""What happened in the service -> what the journal holds.  Pure."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

from adaptation.errors import InputError
from adaptation.journal import (
    BoxRecord,
    CandidateRecord,
    ClickRecord,
    InteractionRecord,
    PromptRecord,
    SubmissionRecord,
)
from adaptation.journal import SubmittedRegion as RegionRecord
from adaptation.masks import Mask, Rle, encode_part_rle, encode_rle
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import Answer
from adaptation.predictor.zoom import View
from backend.images.loader import ImageIdentity, TaskImage
from backend.images.sources import public_reference
from backend.protocol import MAX_MASK_PIXELS, RegionId, Submission, SubmittedRegion
from backend.service.editing import EditedMask
from backend.service.prompt_state import CombinedPrompt, ObjectKey
from backend.service.stopwatch import Stopwatch

logger = logging.getLogger(__name__)

SENSIBLE_YEARS = range(1970, 2200)
"""Times outside of these are slips; at the calendar's edge they overflow wherever they are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickJob:
    """One request on one object: everything that is known before the model is asked.

    Args:
        request_id: Unique; part of the ids of all regions that are offered.
        arrived_at: By this machine's clock, UTC.
        key: The object.
        prompt: Its clicks and its box.
        image: Where it lies.
        identity: The image's digest and size.
        edited: The region that it edits, if it does.
    """

    request_id: str
    arrived_at: datetime
    key: ObjectKey
    prompt: CombinedPrompt
    image: TaskImage
    identity: ImageIdentity
    edited: EditedMask | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DrawnMask:
    """One of the model's masks.

    Args:
        token: The decoder's mask token.
        predicted_iou: The model's own estimate of its quality.
        rle: The mask at the image's size; a little coarser where it is not shown.
        shown: The same as bool ``[H, W]``, where it is offered to the annotator; else None.
    """

    token: int
    predicted_iou: float
    rle: Rle
    shown: Mask | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClickResult:
    """The model's answer to a job.

    Args:
        answer: As the click path gave it.
        candidates: The masks that are drawn, the shown ones first.
        undrawn: Tokens of the masks that nobody will see, which are drawn behind the reply.
        adapter_version: Of the weights that answered.
    """

    answer: Answer
    candidates: tuple[DrawnMask, ...]
    undrawn: tuple[int, ...]
    adapter_version: str


Outcome = Literal["answered", "superseded", "nothing positive", "given up"]
"""Why a request got masks or none: computed; a newer one waited; there was no object to find; its
client hung up, or its time was over."""


def interaction_record(
    job: ClickJob,
    sam: PromptableSam,
    watch: Stopwatch,
    outcome: Outcome,
    result: ClickResult | None,
) -> InteractionRecord:
    """The journal's record of a request; only an answered one has a result."""
    place = job.key.place
    return InteractionRecord(
        request_id=job.request_id,
        created_at=job.arrived_at,
        project_id=place.project_id,
        task_id=place.task_id,
        label=place.label,
        object_id=job.key.object_id,
        step=len(job.prompt.clicks) + (job.prompt.box is not None) - 1,
        prompt=_prompt(job.prompt),
        image_ref=public_reference(job.image.image_ref),
        image_id=job.identity.digest,
        image_size=job.identity.size,
        model_id=sam.model_id,
        encoder_id=sam.encoder_id,
        decoder_id=sam.decoder_id,
        adapter_version="" if result is None else result.adapter_version,
        candidates=() if result is None else candidate_records(job, result.candidates),
        view=None if result is None else _crop(result.answer),
        timings_ms=watch.stages_ms(),
        context={"to_name": place.to_name, "outcome": outcome, **_edit(job)},
    )


def compressed(in_view: Mask, answer: Answer) -> Rle:
    """A mask of an answer's view, drawn at its size or smaller, at the size of the image."""
    view = answer.view
    return encode_part_rle(in_view, view.size, answer.image_size, view.x0, view.y0)


def _edit(job: ClickJob) -> dict[str, str]:
    """The region that was edited: its mask was fed back at the first click."""
    return {} if job.edited is None else {"edited": job.edited.region_id}


def _region_id(job: ClickJob, index: int) -> str:
    """The id that a candidate is offered under: an edited region's own, or a new one."""
    if index == 0 and job.edited is not None:
        return job.edited.region_id
    return str(RegionId(request_id=job.request_id, candidate=index))


def candidate_records(
    job: ClickJob, masks: Sequence[DrawnMask], first: int = 0
) -> tuple[CandidateRecord, ...]:
    """The journal's records of masks, which are offered under the numbers from the first one on."""
    return tuple(
        CandidateRecord(
            region_id=_region_id(job, index),
            rle=drawn.rle,
            predicted_iou=drawn.predicted_iou,
            was_shown=drawn.shown is not None and bool(drawn.shown.any()),
            token=drawn.token,
        )
        for index, drawn in enumerate(masks, first)
    )


def _prompt(prompt: CombinedPrompt) -> PromptRecord:
    clicks = tuple(
        ClickRecord(id=name, x=click.x, y=click.y, is_positive=click.is_positive)
        for name, click in prompt.clicks
    )
    if prompt.box is None:
        return PromptRecord(clicks=clicks)
    name, box = prompt.box
    return PromptRecord(
        clicks=clicks, box=BoxRecord(id=name, x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1)
    )


def _crop(answer: Answer) -> tuple[int, int, int, int] | None:
    view = answer.view
    if view == View.full(answer.image_size):
        return None
    return view.x0, view.y0, view.x1, view.y1


# Submissions -------------------------------------------------------------------------------------


def submission_record(
    submission: Submission, project_id: str, at: datetime, max_pixels: int = MAX_MASK_PIXELS
) -> SubmissionRecord:
    """The journal's record of a submission, with its masks decoded.

    A region whose mask cannot be decoded is kept without one: the rest of the annotation counts.

    Args:
        submission: As Label Studio sent it.
        project_id: Where the submission itself does not say.
        at: When it arrived, UTC.
        max_pixels: Of an image whose masks are decoded.
    """
    return SubmissionRecord(
        event=submission.event,
        annotation_id=submission.annotation_id,
        project_id=submission.project_id or project_id,
        task_id=submission.task_id,
        annotator=submission.annotator,
        received_at=at,
        created_at=parse_time(submission.created_at),
        updated_at=parse_time(submission.updated_at),
        lead_time_s=submission.lead_time_s,
        was_cancelled=submission.was_cancelled,
        regions=tuple(_region(region, max_pixels) for region in submission.regions),
        idempotency_key=submission.idempotency_key,
    )


def _region(region: SubmittedRegion, max_pixels: int) -> RegionRecord:
    try:
        rle = encode_rle(region.mask(max_pixels))
    except InputError as error:
        logger.warning("the mask of region %s cannot be decoded: %s", region.region_id, error)
        rle = None
    except Exception:
        # A fault in here must not lose the annotation's other regions.
        logger.exception("the mask of region %s cannot be decoded", region.region_id)
        rle = None
    return RegionRecord(region_id=region.region_id, label=region.label, kind=region.kind, rle=rle)


def parse_time(text: str | None) -> datetime | None:
    """An ISO 8601 time; None where it is missing, none, or in no year that Label Studio knew."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
        time = time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)
        time = time.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None
    return time if time.year in SENSIBLE_YEARS else None


def trace_attributes(job: ClickJob, result: ClickResult | None) -> dict[str, str | int | float]:
    """What a trace tells of a click: numbers and ids, no label and no file."""
    place = job.key.place
    told: dict[str, str | int | float] = {
        "strop.request_id": job.request_id,
        "strop.project_id": place.project_id,
        "strop.task_id": place.task_id,
        "strop.clicks": len(job.prompt.clicks),
    }
    if result is not None:
        told["strop.predicted_iou"] = result.answer.predicted_iou
        told["strop.adapter_version"] = result.adapter_version
    return told
