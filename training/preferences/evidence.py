"""What the journal tells of one finished object, checked and measured: all that sources need."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from adaptation.errors import InputError
from adaptation.journal import CandidateRecord, FinishedObject, InteractionRecord, PromptRecord
from adaptation.learning.guard import GuardSettings, reason_against
from adaptation.masks import Rle, decode_rle, rle_iou, run_lengths
from adaptation.types import Box, Click
from training.preferences.rows import Example, Split

CheckImage = Callable[[str], "str | None"]
"""Why an image (by its id) cannot be trained on; None when it can."""


class LeftOutCounts:
    """What was left out and why: counts by kind (objects, prompts, ...) and reason."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}

    def add(self, kind: str, reason: str, count: int = 1) -> None:
        """Count something that is left out."""
        if count:
            self.counts.setdefault(kind, Counter())[reason] += count

    def as_dict(self) -> dict[str, dict[str, int]]:
        """Counts by kind and reason, in the order of the alphabet."""
        return {kind: dict(sorted(self.counts[kind].items())) for kind in sorted(self.counts)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateEvidence:
    """A mask with pixels that the model made for a prompt.

    Args:
        position: In its interaction.
        region_id: That it was or would have been offered under.
        rle: The mask; one that was not shown is brought to what would have been shown.
        iou: With the submitted mask.
        predicted_iou: The model's estimate, None where it gave none.
        was_shown: Whether the annotator saw it.
    """

    position: int
    region_id: str
    rle: Rle
    iou: float
    predicted_iou: float | None
    was_shown: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEvidence:
    """A prompt that was answered.

    Args:
        request_id: Of its interaction.
        click_ids: The client's ids of the clicks.
        clicks: Oldest first.
        box: If there was one.
        candidates: In the order of the interaction, those shown first.
    """

    request_id: str
    click_ids: tuple[str, ...]
    clicks: tuple[Click, ...]
    box: Box | None
    candidates: tuple[CandidateEvidence, ...]

    @property
    def shown(self) -> CandidateEvidence | None:
        """The mask that stood in front."""
        return next((c for c in self.candidates if c.was_shown), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectEvidence:
    """A finished object that may be learned from.

    Args:
        example: Object, prompt and submitted mask.
        steps: Its answered prompts in order, the accepted one last; at least one.
        accepted_region_id: Of the candidate that was accepted.
        is_certain: Linked by its id, not by its looks.
    """

    example: Example
    steps: tuple[PromptEvidence, ...]
    accepted_region_id: str
    is_certain: bool

    @property
    def submitted(self) -> Rle:
        """The mask as submitted."""
        return self.example.mask

    def about(self, step: PromptEvidence) -> dict[str, Any]:
        """The fields of `rows.Prompted` for a row about a step."""
        example = self.example
        return {
            "object_id": example.object_id,
            "project_id": example.project_id,
            "label": example.label,
            "image_id": example.image_id,
            "image_size": example.image_size,
            "split": example.split,
            "clicks": step.clicks,
            "box": step.box,
        }


def gather(
    finished: FinishedObject,
    split: Split,
    limits: GuardSettings,
    check_image: CheckImage,
    tally: LeftOutCounts,
) -> ObjectEvidence | None:
    """Check and measure a finished object; None, and counted, where it is left out.

    Args:
        finished: As the journal has it.
        split: Of its image.
        limits: Beyond which it is taken for a slip.
        check_image: Looks into the album.
        tally: Of what is left out.
    """
    try:
        evidence = _measured(finished, split)
        _check(evidence, limits, check_image)
    except _LeftOutError as error:
        tally.add("objects", str(error))
        return None
    except InputError:
        tally.add("objects", "a mask or prompt of it cannot be read")
        return None
    n_unanswered = len(finished.interactions) - len(evidence.steps)
    tally.add("prompts", "no mask was answered, or only empty ones", n_unanswered)
    return evidence


class _LeftOutError(Exception):
    """An object is left out; its text is the reason."""


def _measured(finished: FinishedObject, split: Split) -> ObjectEvidence:
    last, submitted = finished.interactions[-1], finished.submitted.rle
    if submitted is None or tuple(submitted.size) != tuple(last.image_size):
        raise _LeftOutError("the submitted mask has another size than the image")
    clicks, box = as_prompt(last.prompt)
    example = Example(
        object_id=f"{last.project_id}:{finished.annotation_id}:{finished.submitted.region_id}",
        project_id=last.project_id,
        label=finished.submitted.label,
        image_id=last.image_id,
        image_size=last.image_size,
        split=split,
        clicks=clicks,
        box=box,
        task_id=last.task_id,
        mask=submitted,
        was_edited=finished.link.was_edited,
        annotator=finished.annotator,
    )
    steps = (_step(interaction, submitted) for interaction in finished.interactions)
    return ObjectEvidence(
        example=example,
        steps=tuple(step for step in steps if step.candidates),
        accepted_region_id=finished.link.candidate_region_id or "",
        is_certain=finished.link.how == "region_id",
    )


def _step(interaction: InteractionRecord, submitted: Rle) -> PromptEvidence:
    clicks, box = as_prompt(interaction.prompt)
    return PromptEvidence(
        request_id=interaction.request_id,
        click_ids=tuple(click.id for click in interaction.prompt.clicks),
        clicks=clicks,
        box=box,
        candidates=tuple(
            _candidate(position, record, submitted)
            for position, record in enumerate(interaction.candidates)
            if has_pixels(record.rle)
        ),
    )


def _candidate(position: int, record: CandidateRecord, submitted: Rle) -> CandidateEvidence:
    score = record.predicted_iou
    return CandidateEvidence(
        position=position,
        region_id=record.region_id,
        rle=record.rle,
        iou=rle_iou(record.rle, submitted),
        predicted_iou=score if math.isfinite(score) else None,
        was_shown=record.was_shown,
    )


def as_prompt(prompt: PromptRecord) -> tuple[tuple[Click, ...], Box | None]:
    """A journal's prompt as clicks and box.

    Raises:
        InputError: A coordinate is not finite, or the box has no area.
    """
    clicks = tuple(Click(x=c.x, y=c.y, is_positive=c.is_positive) for c in prompt.clicks)
    box = prompt.box
    return clicks, None if box is None else Box(x0=box.x0, y0=box.y0, x1=box.x1, y1=box.y1)


def has_pixels(rle: Rle) -> bool:
    """Whether a mask is not empty; InputError where it cannot be read."""
    return bool(run_lengths(rle)[1::2].any())


def _check(evidence: ObjectEvidence, limits: GuardSettings, check_image: CheckImage) -> None:
    """Leave out garbage, by the same rule as in the running service, and lost images."""
    example = evidence.example
    if not evidence.steps:
        raise _LeftOutError("no mask with pixels was ever answered")
    if not _are_inside(example.clicks, example.image_size):
        raise _LeftOutError("a click lies outside of the image")
    overlaps = [c.iou for step in evidence.steps for c in step.candidates if c.was_shown]
    mask = decode_rle(example.mask)
    reason = reason_against(mask, example.clicks, max(overlaps, default=0.0), limits)
    reason = _without_numbers(reason or "") or check_image(example.image_id)
    if reason is not None:
        raise _LeftOutError(reason)


def _are_inside(clicks: Sequence[Click], size: tuple[int, int]) -> bool:
    return all(0 <= round(c.x) < size[1] and 0 <= round(c.y) < size[0] for c in clicks)


def _without_numbers(reason: str) -> str:
    """A reason as a kind of reasons, that can be counted."""
    return re.sub(r"\d+(\.\d+)?%?", "…", reason)
