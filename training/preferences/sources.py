"""A finished object -> ranked lists and pairs.  Pure; what is left out is counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from adaptation.masks import Rle, decode_rle, encode_rle, rle_iou
from training.preferences.evidence import (
    CandidateEvidence,
    LeftOutCounts,
    ObjectEvidence,
    PromptEvidence,
)
from training.preferences.regions import LEAST_REACH, corrected_region
from training.preferences.rows import PreferencePair, RankedList
from training.preferences.settings import ChoiceSettings, CorrectionPairSettings, OutcomeSettings

_SUBMITTED = "submitted"
EQUAL = "the masks are equal"


def distinct(masks: Sequence[Rle]) -> list[int]:
    """Places of the masks that no mask before them equals."""
    first: dict[bytes, int] = {}
    for place, mask in enumerate(masks):
        first.setdefault(mask.counts, place)
    return sorted(first.values())


# Outcome -----------------------------------------------------------------------------------------


def outcome_ranking(
    evidence: ObjectEvidence, step: PromptEvidence, settings: OutcomeSettings, tally: LeftOutCounts
) -> RankedList | None:
    """A step's candidates, shown and unshown, by their IoU with the submitted mask.

    Args:
        evidence: The object.
        step: One of its steps.
        settings: The least gap between best and worst.
        tally: Of what is left out.
    """
    ranked = _by_outcome(step)
    if settings.submitted:
        ranked = [_as_candidate(evidence), *(c for c in ranked if c.iou < 1.0)]
    if len(ranked) < 2:
        tally.add("outcome rankings", "fewer than two different masks")
        return None
    if ranked[0].iou - ranked[-1].iou < settings.margin:
        tally.add("outcome rankings", "the best and the worst differ by less than the margin")
        return None
    scores = [c.predicted_iou for c in ranked]
    known = tuple(score for score in scores if score is not None)
    return RankedList(
        **evidence.about(step),
        ranking_id=f"{evidence.example.object_id}/{step.request_id}",
        source="outcome",
        candidates=tuple(c.rle for c in ranked),
        ious=tuple(c.iou for c in ranked),
        predicted_ious=known if len(known) == len(scores) else None,
    )


def outcome_pairs(
    evidence: ObjectEvidence, step: PromptEvidence, settings: OutcomeSettings, tally: LeftOutCounts
) -> Iterator[PreferencePair]:
    """The best candidate of a step against worse ones, the worst first."""
    ranked = _by_outcome(step)
    best = _as_candidate(evidence) if settings.submitted else ranked[0]
    others = [c for c in ranked if c is not best and c.rle.counts != best.rle.counts]
    wide = [c for c in others if best.iou - c.iou >= settings.margin]
    tally.add("outcome pairs", "the gap is below the margin", len(others) - len(wide))
    most = settings.most_per_prompt
    tally.add("outcome pairs", "the prompt has its most pairs", max(0, len(wide) - most))
    for worse in wide[::-1][:most]:
        yield PreferencePair(
            **evidence.about(step),
            pair_id=_pair_id(evidence, step, "outcome", best, worse),
            source="outcome",
            chosen=best.rle,
            rejected=worse.rle,
            chosen_iou=best.iou,
            rejected_iou=worse.iou,
            chosen_predicted_iou=best.predicted_iou,
            rejected_predicted_iou=worse.predicted_iou,
        )


def _by_outcome(step: PromptEvidence) -> list[CandidateEvidence]:
    """Different masks, best first; equally good ones in the model's order."""
    places = distinct([c.rle for c in step.candidates])
    return sorted((step.candidates[place] for place in places), key=lambda c: -c.iou)


def _as_candidate(evidence: ObjectEvidence) -> CandidateEvidence:
    """The submitted mask beside the model's."""
    return CandidateEvidence(
        position=-1,
        region_id=_SUBMITTED,
        rle=evidence.submitted,
        iou=1.0,
        predicted_iou=None,
        was_shown=False,
    )


# Corrections -------------------------------------------------------------------------------------


def correction_pairs(
    evidence: ObjectEvidence, settings: CorrectionPairSettings, tally: LeftOutCounts
) -> Iterator[PreferencePair]:
    """The submitted mask against each mask that was shown and then corrected."""
    for step, after in zip(evidence.steps, [*evidence.steps[1:], None], strict=True):
        shown = step.shown
        if shown is None or not _was_corrected(evidence, step, after, settings):
            continue
        if 1.0 - shown.iou < settings.margin:
            reason = EQUAL if shown.iou == 1.0 else "the gap is below the margin"
            tally.add("correction pairs", reason)
            continue
        yield PreferencePair(
            **evidence.about(step),
            pair_id=_pair_id(evidence, step, "correction", _as_candidate(evidence), shown),
            source="correction",
            chosen=evidence.submitted,
            rejected=shown.rle,
            chosen_iou=1.0,
            rejected_iou=shown.iou,
            rejected_predicted_iou=shown.predicted_iou,
            region=_region(evidence, step, after, shown.rle, settings.reach),
        )


def _was_corrected(
    evidence: ObjectEvidence,
    step: PromptEvidence,
    after: PromptEvidence | None,
    settings: CorrectionPairSettings,
) -> bool:
    """Whether something new was said of a step's mask, by prompt or by hand."""
    if after is None:
        return settings.edits and evidence.example.was_edited
    return bool(set(after.click_ids) - set(step.click_ids)) or after.box != step.box


def _region(
    evidence: ObjectEvidence,
    step: PromptEvidence,
    after: PromptEvidence | None,
    rejected: Rle,
    reach: float,
) -> Rle | None:
    """What the correction touched: parts that were clicked on, or all that was painted."""
    chosen_mask, rejected_mask = decode_rle(evidence.submitted), decode_rle(rejected)
    if after is None:
        return encode_rle(np.not_equal(chosen_mask, rejected_mask))
    named = zip(after.click_ids, after.clicks, strict=True)
    clicks = [click for name, click in named if name not in step.click_ids]
    pixels = max(LEAST_REACH, reach * max(evidence.example.image_size))
    region = corrected_region(chosen_mask, rejected_mask, clicks, pixels)
    return None if region is None else encode_rle(region)


# Choices -----------------------------------------------------------------------------------------


def choice_pairs(
    evidence: ObjectEvidence, settings: ChoiceSettings, tally: LeftOutCounts
) -> Iterator[PreferencePair]:
    """The accepted one of several suggestions against the others; needs no painted truth."""
    step = evidence.steps[-1]
    offered = [c for c in step.candidates if c.was_shown]
    chosen = next((c for c in offered if c.region_id == evidence.accepted_region_id), None)
    if chosen is None or len(offered) < 2:
        return
    if not evidence.is_certain:
        tally.add("choice pairs", "which one was accepted is only told by its looks")
        return
    was_painted = evidence.example.was_edited
    for other in offered:
        if other is chosen:
            continue
        if 1.0 - rle_iou(chosen.rle, other.rle) < settings.margin:
            tally.add("choice pairs", "the masks are equal or nearly so")
        elif was_painted and chosen.iou <= other.iou:
            tally.add("choice pairs", "the painted mask speaks against it")
        else:
            yield PreferencePair(
                **evidence.about(step),
                pair_id=_pair_id(evidence, step, "choice", chosen, other),
                source="choice",
                chosen=chosen.rle,
                rejected=other.rle,
                chosen_iou=chosen.iou if was_painted else None,
                rejected_iou=other.iou if was_painted else None,
                chosen_predicted_iou=chosen.predicted_iou,
                rejected_predicted_iou=other.predicted_iou,
            )


def _pair_id(
    evidence: ObjectEvidence,
    step: PromptEvidence,
    source: str,
    chosen: CandidateEvidence,
    rejected: CandidateEvidence,
) -> str:
    object_id = evidence.example.object_id
    better = _SUBMITTED if chosen.position < 0 else chosen.position
    return f"{object_id}/{step.request_id}/{source}/{better}-{rejected.position}"
