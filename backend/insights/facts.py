"""One row an object: what its annotator did, and what it was worth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from adaptation.journal import (
    CandidateRecord,
    FinishedObject,
    InteractionRecord,
    Journal,
    Link,
    SubmissionRecord,
    SubmittedRegion,
)
from adaptation.masks import Rle, rle_iou

Outcome = Literal["as shown", "edited", "painted"]
"""An offered mask taken as it was, taken and then changed by hand, or none taken at all."""

LONGEST_PAUSE_S = 120.0
"""A longer gap between two clicks is a break, not work, and is left out of all times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFact:
    """A submitted region that is in force.

    Args:
        project_id: Its project.
        task_id: Its task.
        annotation_id: Its annotation.
        region_id: Its region in it.
        submission_seq: Entry of its submission in the journal.
        position: Index among the submission's regions.
        submitted_at: When the submission arrived, UTC.
        annotator: Id of who submitted it, or None.
        label: Its label.
        outcome: How its mask came about.
        ious: IoU with the submitted mask of the mask that was shown after each prompt, by the
            number of prompts (clicks and box); empty for a painted one.
        predicted: What the decoder itself said of these masks, as it said it: its predicted IoU.
        decoder_id: Digest of the decoder that showed the last mask; empty for a painted one.
        gaps_s: Seconds between consecutive prompts, breaks left out.
        image_id: Digest of its image; empty for a painted one.
        request_id: Of the last interaction; empty for a painted one.
        timings_ms: Milliseconds by stage of each of its interactions.
    """

    project_id: str
    task_id: str
    annotation_id: str
    region_id: str
    submission_seq: int
    position: int
    submitted_at: datetime
    annotator: str | None
    label: str
    outcome: Outcome
    ious: tuple[float, ...] = ()
    predicted: tuple[float, ...] = ()
    decoder_id: str = ""
    gaps_s: tuple[float, ...] = ()
    image_id: str = ""
    request_id: str = ""
    timings_ms: tuple[Mapping[str, float], ...] = field(default=())

    @property
    def n_prompts(self) -> int:
        """Clicks and boxes that it took; 0 for a painted one."""
        return len(self.ious)


def facts_of_task(journal: Journal, project_id: str, task_id: str) -> list[ObjectFact]:
    """The rows of a task's submissions in force, in the journal's order.

    Regions without a mask count as painted: what they are worth cannot be measured.
    """
    clicked = {
        (each.link.submission_seq, each.link.position): each
        for each in journal.objects(project_id, task_id)
    }
    links: dict[str, list[Link]] = {}
    for link in journal.links(project_id, task_id):
        links.setdefault(link.annotation_id, []).append(link)
    facts = []
    for submission in journal.submissions(project_id, task_id, current_only=True):
        if submission.was_cancelled or submission.event == "deleted":
            continue
        for link in links.get(submission.annotation_id, []):
            finished = clicked.get((link.submission_seq, link.position))
            facts.append(_fact(submission, link, finished))
    return facts


def _fact(submission: SubmissionRecord, link: Link, finished: FinishedObject | None) -> ObjectFact:
    region = submission.regions[link.position]
    painted = ObjectFact(
        project_id=submission.project_id,
        task_id=submission.task_id or "",
        annotation_id=submission.annotation_id,
        region_id=region.region_id,
        submission_seq=link.submission_seq,
        position=link.position,
        submitted_at=submission.received_at,
        annotator=submission.annotator,
        label=region.label,
        outcome="painted",
    )
    return painted if finished is None else _clicked(painted, region, finished)


def _clicked(painted: ObjectFact, region: SubmittedRegion, finished: FinishedObject) -> ObjectFact:
    assert region.rle is not None, "the journal joins clicks with masks only"
    steps = [step for step in finished.interactions if _shown(step) is not None]
    measured = list(by_prompts(steps, region.rle))
    return ObjectFact(
        project_id=painted.project_id,
        task_id=painted.task_id,
        annotation_id=painted.annotation_id,
        region_id=painted.region_id,
        submission_seq=painted.submission_seq,
        position=painted.position,
        submitted_at=painted.submitted_at,
        annotator=painted.annotator,
        label=painted.label,
        outcome="edited" if finished.link.was_edited else "as shown",
        ious=tuple(iou for iou, _ in measured),
        predicted=tuple(predicted for _, predicted in measured),
        decoder_id=steps[-1].decoder_id if steps else "",
        gaps_s=tuple(_gaps(steps)),
        image_id=steps[-1].image_id if steps else "",
        request_id=steps[-1].request_id if steps else "",
        timings_ms=tuple(step.timings_ms for step in steps),
    )


def by_prompts(steps: Sequence[InteractionRecord], submitted: Rle) -> Iterator[tuple[float, float]]:
    """IoU and predicted IoU of what was shown after 1, 2, ... prompts.

    A number that was skipped keeps the last.  An object whose clicks were taken back and given
    again is answered more than once with one number of prompts: the last answer counts.  Before the
    first answer there is no mask: 0, and 0.
    """
    answered: dict[int, tuple[float, float]] = {}
    for step in steps:
        shown = _shown(step)
        if shown is None or shown.rle is None or tuple(shown.rle.size) != tuple(submitted.size):
            continue
        answered[n_prompts(step)] = rle_iou(shown.rle, submitted), shown.predicted_iou
    last = 0.0, 0.0
    for number in range(1, max(answered, default=0) + 1):
        last = answered.get(number, last)
        yield last


def n_prompts(step: InteractionRecord) -> int:
    """Clicks and boxes of a request."""
    return len(step.prompt.clicks) + (step.prompt.box is not None)


def _shown(step: InteractionRecord) -> CandidateRecord | None:
    shown = (each for each in step.candidates if each.was_shown and each.rle is not None)
    return next(shown, None)


def _gaps(steps: Sequence[InteractionRecord]) -> Iterator[float]:
    longest = timedelta(seconds=LONGEST_PAUSE_S)
    for before, after in zip(steps, steps[1:], strict=False):
        gap = after.created_at - before.created_at
        if timedelta(0) <= gap <= longest:
            yield gap.total_seconds()
