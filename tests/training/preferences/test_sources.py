"""What holds for the rows of any object."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from adaptation.journal import FinishedObject, Link
from adaptation.learning.guard import GuardSettings
from adaptation.masks import decode_rle, encode_rle, iou, rle_iou
from tests.adaptation.journal.samples import NOON, interaction, region
from tests.training.preferences.world import at_click
from training.preferences.evidence import LeftOutCounts, ObjectEvidence, gather
from training.preferences.rows import PreferencePair
from training.preferences.settings import ChoiceSettings, CorrectionPairSettings, OutcomeSettings
from training.preferences.sources import (
    choice_pairs,
    correction_pairs,
    outcome_pairs,
    outcome_ranking,
)

SIZE = (6, 7)
rles = npst.arrays(np.bool_, SIZE).map(encode_rle)
prompts = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 5), st.booleans()), min_size=1, max_size=3
)
margins = st.floats(0, 1)
LENIENT = GuardSettings(largest_share=1.0, agreement=0.0, least_overlap=0.0)


@st.composite
def finished_objects(draw: st.DrawFn) -> FinishedObject:
    clicks = draw(prompts)
    steps = tuple(
        interaction(
            f"request{n}",
            masks=draw(st.lists(rles, min_size=1, max_size=4)),
            shown=draw(st.integers(1, 4)),
            prompt=at_click(*clicks[: n + 1]),
            image_size=SIZE,
            step=n,
        )
        for n in range(len(clicks))
    )
    accepted = draw(st.sampled_from(steps[-1].candidates))
    submitted = draw(st.just(accepted.rle) | rles)
    link = Link(
        submission_seq=1,
        position=0,
        region_id=accepted.region_id,
        annotation_id="40",
        request_id=steps[-1].request_id,
        candidate_region_id=accepted.region_id,
        how=draw(st.sampled_from(["region_id", "overlap"])),
        iou=rle_iou(accepted.rle, submitted),
    )
    return FinishedObject(
        interactions=steps,
        submitted=region(accepted.region_id, submitted),
        link=link,
        annotation_id="40",
        annotator="3",
        submitted_at=NOON,
    )


def evidence_of(finished: FinishedObject) -> ObjectEvidence | None:
    return gather(finished, "train", LENIENT, lambda image_id: None, LeftOutCounts())


def check_pair(pair: PreferencePair, evidence: ObjectEvidence) -> None:
    """Chosen and rejected differ, have pixels, and their IoUs are what they are called."""
    truth = decode_rle(evidence.submitted)
    for rle, stated in ((pair.chosen, pair.chosen_iou), (pair.rejected, pair.rejected_iou)):
        mask = decode_rle(rle)
        assert mask.any() and mask.shape == SIZE
        assert stated is None or abs(stated - iou(mask, truth)) < 1e-9
    assert pair.chosen != pair.rejected
    assert pair.clicks and pair.clicks == evidence.example.clicks[: len(pair.clicks)]


@given(finished_objects(), st.builds(OutcomeSettings, margin=margins, submitted=st.booleans()))
def test_ranked_lists_fall_and_span_the_margin(
    finished: FinishedObject, settings: OutcomeSettings
) -> None:
    evidence = evidence_of(finished)
    for step in evidence.steps if evidence else ():
        assert evidence is not None
        ranking = outcome_ranking(evidence, step, settings, LeftOutCounts())
        if ranking is None:
            continue
        assert ranking.ious is not None and list(ranking.ious) == sorted(ranking.ious)[::-1]
        assert ranking.ious[0] - ranking.ious[-1] >= settings.margin
        assert len(set(ranking.candidates)) == len(ranking.candidates) >= 2
        truth = decode_rle(evidence.submitted)
        for rle, stated in zip(ranking.candidates, ranking.ious, strict=True):
            assert abs(stated - iou(decode_rle(rle), truth)) < 1e-9
        made = {c.rle for c in step.candidates} | {evidence.submitted}
        assert set(ranking.candidates) <= made


@given(
    finished_objects(),
    st.builds(
        OutcomeSettings,
        margin=margins,
        submitted=st.booleans(),
        most_per_prompt=st.integers(1, 4),
    ),
)
def test_outcome_pairs_keep_margin_and_limit(
    finished: FinishedObject, settings: OutcomeSettings
) -> None:
    evidence = evidence_of(finished)
    for step in evidence.steps if evidence else ():
        assert evidence is not None
        tally = LeftOutCounts()
        pairs = list(outcome_pairs(evidence, step, settings, tally))
        assert len(pairs) <= settings.most_per_prompt
        gaps = [pair.margin for pair in pairs if pair.margin is not None]
        assert len(gaps) == len(pairs) and gaps == sorted(gaps, reverse=True)
        assert all(gap >= settings.margin for gap in gaps)
        best = max(c.iou for c in step.candidates)
        for pair in pairs:
            check_pair(pair, evidence)
            assert pair.chosen_iou == (1.0 if settings.submitted else best)
        n_left_out = sum(tally.counts.get("outcome pairs", {}).values())
        masks = {c.rle for c in step.candidates}
        n_others = len(masks - {evidence.submitted}) if settings.submitted else len(masks) - 1
        assert len(pairs) + n_left_out == n_others, "every other mask is a pair or counted"


@given(finished_objects(), st.builds(CorrectionPairSettings, margin=st.floats(0.01, 1)))
def test_correction_pairs_choose_the_submitted_mask(
    finished: FinishedObject, settings: CorrectionPairSettings
) -> None:
    evidence = evidence_of(finished)
    if evidence is None:
        return
    for pair in correction_pairs(evidence, settings, LeftOutCounts()):
        check_pair(pair, evidence)
        assert pair.chosen == evidence.submitted and pair.margin is not None
        assert pair.margin >= settings.margin
        if pair.region is not None:
            differs = decode_rle(pair.chosen) ^ decode_rle(pair.rejected)
            region = decode_rle(pair.region)
            assert region.any() and not (region & ~differs).any()


@given(finished_objects(), st.builds(ChoiceSettings, margin=st.floats(0.01, 1)))
def test_choices_are_among_what_was_shown(
    finished: FinishedObject, settings: ChoiceSettings
) -> None:
    evidence = evidence_of(finished)
    if evidence is None:
        return
    shown = {c.rle for c in finished.interactions[-1].candidates if c.was_shown}
    for pair in choice_pairs(evidence, settings, LeftOutCounts()):
        check_pair(pair, evidence)
        assert finished.link.how == "region_id"
        assert {pair.chosen, pair.rejected} <= shown and pair.chosen == finished.accepted.rle
        assert 1 - rle_iou(pair.chosen, pair.rejected) >= settings.margin
        assert pair.margin is None or (evidence.example.was_edited and pair.margin > 0)


@given(finished_objects())
def test_no_two_pairs_of_an_object_have_one_id(finished: FinishedObject) -> None:
    evidence = evidence_of(finished)
    if evidence is None:
        return
    tally = LeftOutCounts()
    pairs: list[Any] = [*correction_pairs(evidence, CorrectionPairSettings(), tally)]
    pairs += choice_pairs(evidence, ChoiceSettings(), tally)
    for step in evidence.steps:
        pairs += outcome_pairs(evidence, step, OutcomeSettings(), tally)
    assert len({pair.pair_id for pair in pairs}) == len(pairs)
