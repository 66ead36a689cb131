"""What the journal holds: small frozen records, written once and never changed.

Coordinates are (x, y) in pixels of the original, upright image; sizes are (height, width); times
are aware datetimes and become UTC; ids are strings, as Label Studio's numbers arrive as either.
Every record reads back equal to what was written.  Text holds no NUL and is valid UTF-8; free
fields (``context``, ``payload``) hold JSON values only: a tuple in them reads back as a list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import Any, Literal

from adaptation.errors import InputError
from adaptation.journal.clock import SteadyClock
from adaptation.masks import Rle

SubmissionEvent = Literal["created", "updated", "deleted"]
LinkKind = Literal["region_id", "overlap", "none"]
Standing = Literal["current", "replaced", "deleted"]
EntryKind = Literal["interaction", "submission", "event"]


_CLOCK = SteadyClock()


def utc_now() -> datetime:
    """The time now, in UTC; never less than before, also where the machine's clock is set back."""
    return _CLOCK.now()


class _Record:
    """Checks what every record promises; dataclasses call it after their own constructor."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for item in fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if isinstance(value, str):
                _check_text(type(self).__name__, item.name, value)
            elif isinstance(value, datetime):
                object.__setattr__(self, item.name, _as_utc(item.name, value))


def _check_text(owner: str, name: str, value: str) -> None:
    if "\x00" in value or not _is_utf8(value):
        raise InputError(f"{owner}.{name} must be valid text without NUL, got {value[:40]!r}.")


def _is_utf8(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_utc(name: str, value: datetime) -> datetime:
    if value.tzinfo is None:
        raise InputError(f"{name} needs a time zone, got {value.isoformat()} without one.")
    return value.astimezone(timezone.utc)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickRecord(_Record):
    """One click as it arrived.

    Args:
        id: The client's id of the click, stable while the click lives.
        x: Column in original pixels.
        y: Row in original pixels.
        is_positive: True for foreground.
    """

    id: str
    x: float
    y: float
    is_positive: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxRecord(_Record):
    """A box as it arrived: (x0, y0) top-left, (x1, y1) outside at the end, original pixels."""

    id: str
    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRecord:
    """All that was known of an object at one step: its clicks, oldest first, and its box."""

    clicks: tuple[ClickRecord, ...] = ()
    box: BoxRecord | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRecord(_Record):
    """One mask that the decoder made for a prompt, shown or not.

    Args:
        region_id: The id it was, or would have been, offered under.
        rle: The mask at the size of the image.
        predicted_iou: The model's own estimate; NaN where the model gave none.
        was_shown: Whether the annotator saw it.
        token: Index of the decoder's mask token.
    """

    region_id: str
    rle: Rle
    predicted_iou: float
    was_shown: bool
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractionRecord(_Record):
    """One prompt and all masks that it was answered with.

    Args:
        request_id: Unique; appending the same id again changes nothing.
        created_at: When the request arrived, by Strop's clock.
        project_id: Of the labeling project.
        task_id: Of the task in it.
        label: The label that is being drawn.
        object_id: Id of the object's first click or box; groups the steps of one object.
        step: 0 for the object's first prompt, then 1, 2, ...
        prompt: Everything that was known of the object.
        image_ref: Where the image came from, without credentials and never the image itself.
        image_id: Digest of the image's pixels.
        image_size: (H, W) of the upright original.
        model_id: Name and digest of the model.
        encoder_id: Digest of the encoder's weights.
        decoder_id: Digest of the base decoder's weights.
        adapter_version: Of the session's weights that answered; empty for the base's own.
        candidates: The masks, the shown ones first; the others may come to the journal a moment
            later, or, where the server died in that moment, never.
        view: (x0, y0, x1, y1) of the crop that was decoded on; None for the whole image.
        timings_ms: Milliseconds by the name of the stage.
        context: Whatever else helps to understand or to replay the answer; JSON values.
    """

    request_id: str
    created_at: datetime = field(default_factory=utc_now)
    project_id: str
    task_id: str
    label: str
    object_id: str
    step: int
    prompt: PromptRecord
    image_ref: str
    image_id: str
    image_size: tuple[int, int]
    model_id: str
    encoder_id: str
    decoder_id: str
    adapter_version: str = ""
    candidates: tuple[CandidateRecord, ...]
    view: tuple[int, int, int, int] | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _Record.__post_init__(self)
        check_masks(self.candidates, self.image_size)

    def candidate(self, region_id: str) -> CandidateRecord | None:
        """The candidate that was offered under this id."""
        return next((c for c in self.candidates if c.region_id == region_id), None)


def check_masks(candidates: Sequence[CandidateRecord], image_size: tuple[int, int]) -> None:
    """InputError where a candidate's mask has not the size of its image, (H, W)."""
    for candidate in candidates:
        if tuple(candidate.rle.size) != tuple(image_size):
            raise InputError(
                f"A mask must have its image's size {image_size}, "
                f"got {candidate.rle.size} for {candidate.region_id!r}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmittedRegion(_Record):
    """One region of a submitted annotation.

    Args:
        region_id: Its id in the annotation.
        label: Its label.
        kind: brush, polygon, bitmask, rectangle, vector or whatever else carried it.
        rle: Its mask at the image's size, or None where no mask could be made of it.
    """

    region_id: str
    label: str
    kind: str
    rle: Rle | None

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(H, W) of the annotated image, as the mask has it."""
        return None if self.rle is None else self.rle.size


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmissionRecord(_Record):
    """One version of an annotation as it was submitted, or the news of its deletion.

    Args:
        event: created, updated or deleted.
        annotation_id: Of the annotation.
        project_id: Of the project.
        task_id: Of the task; None where the news does not say (deletions).
        annotator: Id of the user who completed it.
        received_at: When it arrived, by Strop's clock.
        created_at: When the annotation was made, by the client's clock.
        updated_at: When this version was made, by the client's clock; orders the versions.
        lead_time_s: Seconds that the annotator spent.
        was_cancelled: True for a skipped task; its regions count for nothing.
        regions: In the order of the annotation.
        idempotency_key: Appending the same key again changes nothing; made of the event, the
            annotation and ``updated_at`` where it is left empty.
    """

    event: SubmissionEvent
    annotation_id: str
    project_id: str
    task_id: str | None = None
    annotator: str | None = None
    received_at: datetime = field(default_factory=utc_now)
    created_at: datetime | None = None
    updated_at: datetime | None = None
    lead_time_s: float | None = None
    was_cancelled: bool = False
    regions: tuple[SubmittedRegion, ...] = ()
    idempotency_key: str = ""

    def __post_init__(self) -> None:
        _Record.__post_init__(self)
        if self.event != "deleted" and self.task_id is None:
            raise InputError(f"A submission ({self.event}) needs its task's id, got none.")
        if not self.idempotency_key:
            stamp = self.updated_at.isoformat() if self.updated_at else ""
            key = f"{self.annotation_id}:{self.event}:{stamp}"
            object.__setattr__(self, "idempotency_key", key)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord(_Record):
    """Anything else worth keeping, in its place between interactions and submissions.

    Args:
        kind: What happened, e.g. ``adapter_saved``; the name is the writer's.
        project_id: Of the project, if it belongs to one.
        payload: JSON values.
        created_at: When it happened.
    """

    kind: str
    project_id: str | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=utc_now)


Record = InteractionRecord | SubmissionRecord | EventRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What an append answers.

    Args:
        seq: The entry's place in the journal's one total order; of the first, for a repetition.
        is_new: False when the same record was there already and nothing was written.
        needs_link: Whether submissions now wait to be linked (again): a new submission, or an
            interaction that came to the journal after the submission that it belongs to.
    """

    seq: int
    is_new: bool
    needs_link: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message kept as it came, until what it says is in the journal.

    Args:
        id: To finish it by.
        received_at: When it came.
        body: Its text.
    """

    id: int
    received_at: datetime
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A record in its place.

    Args:
        seq: Grows by the order of commits, over all kinds of records.
        appended_at: When it was written.
        record: The record.
    """

    seq: int
    appended_at: datetime
    record: Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Where a submitted region came from.

    Args:
        submission_seq: Entry of the submission.
        position: The region's index in ``SubmissionRecord.regions``.
        region_id: Of the submitted region.
        annotation_id: Of its annotation.
        request_id: Of the interaction that made it; None where nothing fits.
        candidate_region_id: Of the candidate in that interaction.
        how: By its id, by overlap where the id was lost, or not at all.
        iou: Of the submitted mask with the candidate's: below 1 when it was edited by hand; None
            without a link or without a mask.
        standing: Whether the submission is the annotation's current version, was replaced by a
            later one, or belongs to a deleted annotation.
    """

    submission_seq: int
    position: int
    region_id: str
    annotation_id: str
    request_id: str | None
    candidate_region_id: str | None
    how: LinkKind
    iou: float | None
    standing: Standing = "current"

    @property
    def was_edited(self) -> bool:
        """Whether the annotator changed the mask after accepting it."""
        return self.iou is not None and self.iou < 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedObject:
    """An object from its first click to its submitted mask.

    Args:
        interactions: Its steps in order, up to the one whose mask was accepted.
        submitted: The region as submitted.
        link: How the two were joined.
        annotation_id: Of the annotation that holds it.
        annotator: Who submitted it.
        submitted_at: When the submission arrived.
    """

    interactions: tuple[InteractionRecord, ...]
    submitted: SubmittedRegion
    link: Link
    annotation_id: str
    annotator: str | None
    submitted_at: datetime

    @property
    def accepted(self) -> CandidateRecord:
        """The candidate that became the submitted mask, before any edit."""
        found = self.interactions[-1].candidate(self.link.candidate_region_id or "")
        assert found is not None, "a linked object holds its candidate"
        return found

    @property
    def rejected(self) -> tuple[CandidateRecord, ...]:
        """The masks that were shown for this object and not taken, in order."""
        taken = self.link.candidate_region_id
        return tuple(
            candidate
            for interaction in self.interactions
            for candidate in interaction.candidates
            if candidate.was_shown and candidate.region_id != taken
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedOffer:
    """A mask that was shown, and that no annotation of its task holds after a submission.

    Args:
        interaction: The step that offered it.
        candidate: The mask.
        was_superseded: True when a later step of the same object was accepted instead; False
            when the annotator took nothing of the object.
    """

    interaction: InteractionRecord
    candidate: CandidateRecord
    was_superseded: bool
