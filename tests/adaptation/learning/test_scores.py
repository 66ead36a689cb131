"""A session's scores, against sums made by hand and on the embedded decoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptation.learning.adapter import Adapter
from adaptation.learning.adapter_scale import ScaleSelector, TrustSettings, pooled
from adaptation.learning.scale_evidence import SHARES, LoneClick, ScaleEvidence
from adaptation.learning.scores import PRIOR, ScoreSums
from adaptation.models.sam import PromptableSam
from adaptation.types import Prompt, as_clicks

SCORES = np.array([0.5, 0.8, 0.2])


def seen(n: int, ious: tuple[float, float, float], scores: np.ndarray = SCORES) -> ScoreSums:
    found = ScoreSums()
    for _ in range(n):
        found = found.seen(scores, np.array(ious))
    return found


def test_nothing_seen_changes_nothing() -> None:
    assert ScoreSums().change is None and ScoreSums().count == 0.0


def test_scores_of_zero_leave_a_shrunken_mean_to_the_tokens() -> None:
    # No slope where all scores are 0: each offset is the sum of IoU over the count and the prior.
    change = seen(5, (0.9, 0.1, 0.0), np.zeros(3)).change
    assert change is not None and change.slope == 0.0
    assert change.offsets == pytest.approx((0.9 * 5 / (5 + PRIOR), 0.1 * 5 / (5 + PRIOR), 0.0))


def test_objects_overrule_the_decoder_s_scores() -> None:
    few, many = seen(1, (0.9, 0.3, 0.2)).change, seen(9, (0.9, 0.3, 0.2)).change
    assert few is not None and many is not None
    assert int(np.argmax(few.applied(SCORES))) == 1, "one object does not outweigh the prior"
    assert int(np.argmax(many.applied(SCORES))) == 0


def test_scores_that_are_right_stay_as_they_are() -> None:
    change = seen(20, (0.5, 0.8, 0.2)).change
    assert change is not None
    assert change.applied(SCORES) == pytest.approx(SCORES)


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 6), min_size=2, max_size=8))
def test_sums_add_in_any_order(clicks: list[tuple[float, ...]]) -> None:
    parts = [ScoreSums().seen(np.array(c[:3]), np.array(c[3:])) for c in clicks]
    forth, back = sum(parts, ScoreSums()), sum(reversed(parts), ScoreSums())
    assert forth.squares == pytest.approx(back.squares)
    assert forth.lacking == pytest.approx(back.lacking)
    assert forth.count == pytest.approx(len(clicks))


def test_older_clicks_fade() -> None:
    assert seen(2, (0.9, 0.3, 0.2)).faded(0.5).count == 1.0
    last = seen(3, (0.9, 0.3, 0.2)).faded(0.01).seen(SCORES, np.array([0.1, 0.3, 0.9]))
    assert last.change is not None and last.change.offsets[2] > last.change.offsets[0]


def test_what_a_start_inherits_counts_for_ten_clicks_at_most() -> None:
    clicks = [LoneClick(SCORES, np.array([0.9, 0.3, 0.2]))] * len(SHARES)
    session = ScaleEvidence()
    for _ in range(9):
        session = session.after_lone_click(clicks, 1.0)
    assert pooled([session] * 3).scores[0].count == pytest.approx(10.0)
    assert ScaleEvidence.from_json(session.to_json()) == session


def test_the_scores_answer_first_clicks_where_they_have_won(sam: PromptableSam) -> None:
    trust = ScaleSelector(TrustSettings(least=2.0, memory=1.0), Adapter())
    for _ in range(9):
        trust.observe([1, 2], np.array([[0.5, 0.5]] + [[0.7, 0.5]] * len(SHARES)))
        trust.observe_lone_click([LoneClick(SCORES, np.array([0.9, 0.3, 0.2]))] * len(SHARES))
    adapter = trust.applied(Adapter(decoder_id=sam.decoder_id))
    assert adapter.part(1) == (0.0, True) and adapter.part(2) == (0.0, False)
    assert not adapter.is_base and adapter.version != "base"
    assert adapter.weights_at(sam, 2) is None


def test_scores_are_a_change_of_the_last_layer_and_of_no_mask(sam: PromptableSam) -> None:
    change = seen(9, (0.9, 0.3, 0.2)).change
    assert change is not None
    embedding = sam.embed(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
    prompt = Prompt(clicks=as_clicks([(40, 30, True)]))
    plain = sam.decode(embedding, [prompt])
    scored = sam.decode(embedding, [prompt], weights=change.weights(sam.decoder_parameters()))
    assert torch.equal(plain.low_res_logits, scored.low_res_logits)
    expected = change.applied(plain.predicted_iou[0, 1:].detach().double().numpy())
    assert scored.predicted_iou[0, 1:].detach().numpy() == pytest.approx(expected, abs=1e-5)
    assert scored.predicted_iou[0, 0] == plain.predicted_iou[0, 0], "the single mask's score stays"
