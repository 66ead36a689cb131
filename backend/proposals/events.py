"""Proposals in the journal: what was proposed, and what became of it.

Two kinds of events.  ``proposed`` says which regions a task was offered before its first click,
``proposals_judged`` what an annotation's submission made of them.  Label Studio copies a prediction
into an annotation under new region ids, so a region is also recognised by its mask.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adaptation.journal import EventRecord, Journal, SubmissionRecord, SubmittedRegion
from adaptation.masks import Mask, Rle, decode_rle, encode_rle, rle_iou
from backend.proposals.knowledge import Proposed
from backend.protocol import RegionId

PROPOSED = "proposed"
JUDGED = "proposals_judged"

UNCHANGED = 0.98
"""IoU from which a submitted region is the proposal as it was: polygons round their corners."""

SAME_OBJECT = 0.5
"""IoU from which it is the proposal, corrected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedRegion:
    """One region as it was proposed.

    Args:
        region_id: It was offered under; pieces of a mask add a part to it.
        label: It was offered as.
        score: The probability that it is accepted, as it was estimated.
        rle: Its mask.
        evidence: What the score was made of.
    """

    region_id: str
    label: str
    score: float
    rle: Rle
    evidence: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposedTask:
    """What one task was offered.

    Args:
        task_id: The task.
        image_id: Digest of its image.
        version: Of the model that proposed.
        look_for: What was looked for.
        regions: Best first.
        is_stored: Whether it lies in Label Studio as a prediction.
    """

    task_id: str
    image_id: str
    version: str
    look_for: str
    regions: tuple[ProposedRegion, ...]
    is_stored: bool

    @classmethod
    def of(
        cls,
        found: Sequence[Proposed],
        *,
        request_id: str,
        task_id: str,
        image_id: str,
        version: str,
        look_for: str,
        is_stored: bool,
    ) -> ProposedTask:
        """Number the regions that were found."""
        regions = tuple(
            ProposedRegion(
                region_id=str(RegionId(request_id=request_id, candidate=number)),
                label=item.label,
                score=round(item.region.score, 6),
                rle=encode_rle(item.region.mask),
                evidence={k: round(v, 6) for k, v in item.region.evidence.items()},
            )
            for number, item in enumerate(found)
        )
        return cls(
            task_id=task_id,
            image_id=image_id,
            version=version,
            look_for=look_for,
            regions=regions,
            is_stored=is_stored,
        )

    @property
    def score(self) -> float:
        """Of the task: its best region's, 0 without any."""
        return max((r.score for r in self.regions), default=0.0)

    def payload(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "task_id": self.task_id,
            "image_id": self.image_id,
            "version": self.version,
            "look_for": self.look_for,
            "is_stored": self.is_stored,
            "regions": [
                {
                    "region_id": r.region_id,
                    "label": r.label,
                    "score": r.score,
                    "size": list(r.rle.size),
                    "counts": base64.b64encode(r.rle.counts).decode("ascii"),
                    "evidence": dict(r.evidence),
                }
                for r in self.regions
            ],
        }

    @classmethod
    def from_event(cls, event: EventRecord) -> ProposedTask:
        """The inverse of `payload`."""
        content = event.payload
        return cls(
            task_id=content["task_id"],
            image_id=content["image_id"],
            version=content["version"],
            look_for=content["look_for"],
            is_stored=content["is_stored"],
            regions=tuple(map(_region, content["regions"])),
        )


def _region(content: Mapping[str, Any]) -> ProposedRegion:
    height, width = content["size"]
    rle = Rle(size=(height, width), counts=base64.b64decode(content["counts"]))
    return ProposedRegion(
        region_id=content["region_id"],
        label=content["label"],
        score=content["score"],
        rle=rle,
        evidence=content["evidence"],
    )


def proposed_tasks(journal: Journal, project_id: str) -> Iterator[ProposedTask]:
    """All that was proposed in a project, oldest first."""
    for event in journal.events(project_id=project_id, kind=PROPOSED):
        yield ProposedTask.from_event(event)


def of_task(journal: Journal, project_id: str, task_id: str) -> ProposedTask | None:
    """What a task was offered last."""
    newest = None
    for event in journal.events(project_id=project_id, kind=PROPOSED):
        if event.payload["task_id"] == task_id:
            newest = event
    return None if newest is None else ProposedTask.from_event(newest)


def judge(journal: Journal, submission: SubmissionRecord) -> dict[str, str]:
    """Keep what a submission made of the proposals of its task.

    A proposal that the annotation holds was accepted as it was, or corrected; one that it does not
    hold was rejected.  A skipped task says nothing.

    Returns:
        Region id -> accepted, corrected or rejected; empty where nothing was proposed.
    """
    if submission.task_id is None or submission.event == "deleted" or submission.was_cancelled:
        return {}
    offered = of_task(journal, submission.project_id, submission.task_id)
    if offered is None or not offered.regions:
        return {}
    ious = _ious(offered.regions, submission.regions)
    became = {
        r.region_id: _outcome(ious.get(r.region_id), r, submission.regions) for r in offered.regions
    }
    journal.append_event(
        JUDGED,
        submission.project_id,
        {
            "task_id": submission.task_id,
            "annotation_id": submission.annotation_id,
            "annotator": submission.annotator,
            "became": became,
            "ious": {name: iou for name, (_, iou) in ious.items()},
            "scores": {r.region_id: r.score for r in offered.regions},
        },
    )
    return became


def _outcome(
    found: tuple[int, float] | None,
    region: ProposedRegion,
    submitted: Sequence[SubmittedRegion],
) -> str:
    if found is None:
        return "rejected"
    index, overlap = found
    is_same = overlap >= UNCHANGED and submitted[index].label == region.label
    return "accepted" if is_same else "corrected"


def _ious(
    offered: Sequence[ProposedRegion], submitted: Sequence[SubmittedRegion]
) -> dict[str, tuple[int, float]]:
    """Proposal -> the submitted region that it became, by index, and their IoU.

    By its id where that survived, else the best pairs of masks first, each region once.
    """
    pairs = []
    for region in offered:
        for index, other in enumerate(submitted):
            overlap = _overlap(region.rle, other.rle)
            is_named = _candidate_id(other.region_id) == region.region_id
            if is_named or overlap >= SAME_OBJECT:
                pairs.append((is_named, overlap, region.region_id, index))
    found: dict[str, tuple[int, float]] = {}
    used: set[int] = set()
    for _, overlap, name, index in sorted(pairs, key=lambda p: (not p[0], -p[1])):
        if name not in found and index not in used:
            found[name] = index, round(overlap, 6)
            used.add(index)
    return found


def _overlap(one: Rle, other: Rle | None) -> float:
    return rle_iou(one, other) if other is not None and other.size == one.size else 0.0


def _candidate_id(region_id: str) -> str:
    parsed = RegionId.parse(region_id)
    return region_id if parsed is None else parsed.candidate_id


def rejected_masks(journal: Journal, project_id: str) -> dict[str, list[Mask]]:
    """Task -> masks that its last submission rejected."""
    rejected: dict[str, list[str]] = {}
    for event in journal.events(project_id=project_id, kind=JUDGED):
        became = event.payload["became"]
        rejected[event.payload["task_id"]] = [n for n, o in became.items() if o == "rejected"]
    if not rejected:
        return {}
    masks: dict[str, list[Mask]] = {}
    for task in proposed_tasks(journal, project_id):
        wanted = rejected.get(task.task_id, ())
        found = [decode_rle(r.rle) for r in task.regions if r.region_id in wanted]
        if found:
            masks[task.task_id] = found
    return masks
