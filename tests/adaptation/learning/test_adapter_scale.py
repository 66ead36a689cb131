"""How much of what was learned is used, against evidence made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from adaptation.errors import ModelError, SettingsError
from adaptation.learning.adapter import WHOLE, Adapter, load_adapter, save_adapter
from adaptation.learning.adapter_scale import MOST_INHERITED, ScaleSelector, TrustSettings, pooled
from adaptation.learning.scale_evidence import N_STAGES, NONE, SHARES, ScaleEvidence, stage_of
from adaptation.models.sam import PromptableSam

AT_ONCE = TrustSettings(least=1.0, n_errors=0.0)


def rows(*columns: tuple[float, float, float]) -> np.ndarray:
    """IoU with none, half and all, a column for each prompt; scores change nothing."""
    return np.array([(none, none, half, all_) for none, half, all_ in columns]).T


def shares_of(trust: ScaleSelector) -> tuple[float, ...]:
    return trust.applied(merged(WHOLE)).shares


def merged(shares: tuple[float, ...]) -> Adapter:
    """What other sessions learned, which this one starts from."""
    return Adapter({"a": torch.ones(1).half()}, "decoder", shares)


def test_stages_end_after_one_three_and_seven_clicks() -> None:
    assert [stage_of(n) for n in (0, 1, 2, 3, 4, 7, 8, 30)] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_nothing_is_used_until_there_is_evidence() -> None:
    trust = ScaleSelector(TrustSettings(least=2.0, memory=1.0), Adapter())
    assert shares_of(trust) == (0.0,) * N_STAGES
    trust.observe([1], rows((0.1, 0.5, 0.9)))
    assert shares_of(trust) == (0.0,) * N_STAGES, "one object is too few"
    trust.observe([1], rows((0.1, 0.5, 0.9)))
    assert shares_of(trust) == (1.0, 0.0, 0.0, 0.0)


def test_a_start_may_use_more() -> None:
    assert shares_of(ScaleSelector(TrustSettings(start=0.5), Adapter())) == (0.5,) * N_STAGES
    with pytest.raises(SettingsError, match="start"):
        TrustSettings(start=1.5)


def test_each_stage_uses_the_share_that_won_there() -> None:
    trust = ScaleSelector(AT_ONCE, Adapter())
    trust.observe([1, 2, 5, 12], rows((0.2, 0.5, 0.8), (0.6, 0.7, 0.5), (0.8, 0.8, 0.8), (1, 0, 0)))
    assert shares_of(trust) == (1.0, 0.5, 0.0, 0.0), "a tie is the frozen decoder's"


def test_what_no_object_reached_stays_as_it_started() -> None:
    trust = ScaleSelector(AT_ONCE, merged((0.5, 1.0, 0.0, 1.0)))
    trust.observe([1], rows((0.1, 0.2, 0.9)))
    assert shares_of(trust) == (1.0, 1.0, 0.0, 1.0)


def test_late_evidence_outweighs_early_evidence() -> None:
    trust = ScaleSelector(replace(AT_ONCE, memory=0.5, alarm=1.0), Adapter())
    for _ in range(3):
        trust.observe([1], rows((0.5, 0.6, 0.7)))
    trust.observe([1], rows((0.9, 0.6, 0.3)))
    trust.observe([1], rows((0.9, 0.6, 0.3)))
    assert shares_of(trust)[0] == 0.0


def test_a_margin_must_be_won() -> None:
    trust = ScaleSelector(replace(AT_ONCE, margin=0.05), Adapter())
    trust.observe([1, 2], rows((0.5, 0.52, 0.54), (0.5, 0.5, 0.56)))
    assert shares_of(trust)[:2] == (0.0, 1.0)


def test_a_recent_loss_raises_the_alarm_whatever_came_before() -> None:
    trust = ScaleSelector(replace(AT_ONCE, memory=1.0, alarm=0.02), Adapter())
    for _ in range(9):
        trust.observe([1], rows((0.5, 0.6, 0.7)))
    assert shares_of(trust)[0] == 1.0
    trust.observe([1], rows((0.8, 0.75, 0.5)))  # lately: all -0.05, half +0.025
    assert shares_of(trust)[0] == 0.5
    trust.observe([1], rows((0.8, 0.7, 0.5)))
    assert shares_of(trust)[0] == 0.0
    calm = ScaleSelector(replace(AT_ONCE, memory=1.0, alarm=1.0), Adapter())
    for row in [(0.5, 0.6, 0.7)] * 9 + [(0.8, 0.75, 0.5)] * 2:
        calm.observe([1], rows(row))
    assert shares_of(calm)[0] == 1.0


def test_a_recent_loss_at_first_clicks_bars_the_later_ones() -> None:
    trust = ScaleSelector(replace(AT_ONCE, memory=1.0), Adapter())
    for _ in range(6):
        trust.observe([1, 2, 9], rows(*[(0.5, 0.6, 0.7)] * 3))
    assert shares_of(trust) == (1.0, 1.0, 0.0, 1.0)
    trust.observe([1, 2], rows((0.9, 0.9, 0.6), (0.5, 0.6, 0.7)))  # all: -0.05, half: +0.05 lately
    assert shares_of(trust) == (0.5, 0.5, 0.0, 0.5)


def test_a_recent_loss_at_later_clicks_leaves_the_first_ones() -> None:
    trust = ScaleSelector(replace(AT_ONCE, memory=1.0), Adapter())
    trust.observe([1, 2], rows((0.5, 0.6, 0.7), (0.9, 0.9, 0.6)))
    assert shares_of(trust)[:2] == (1.0, 0.0)


def test_what_was_won_by_chance_is_not_used() -> None:
    trust = ScaleSelector(replace(AT_ONCE, memory=1.0, alarm=1.0, n_errors=1.0), Adapter())
    trust.observe([1, 2], rows((0.5, 0.55, 0.9), (0.5, 0.55, 0.9)))
    trust.observe([1, 2], rows((0.5, 0.55, 0.2), (0.5, 0.5, 0.8)))
    # All won 0.4 and lost 0.3: 0.05 on the mean, with a standard error of 0.35; half won twice.
    # At the second click all won 0.4 and 0.3: 0.35 with an error of 0.05.
    assert shares_of(trust)[:2] == (0.5, 1.0)
    found = trust.evidence.stages[0].sure_gains(1.0)
    assert found == pytest.approx([0.0, 0.0, 0.05, 0.05 - 0.35])


def test_without_trust_all_is_used_whatever_happens() -> None:
    trust = ScaleSelector(TrustSettings(is_on=False), Adapter())
    for _ in range(9):
        trust.observe([1, 2, 5, 9], rows(*[(1.0, 0.5, 0.0)] * 4))
    assert shares_of(trust) == WHOLE


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 30), *[st.floats(0, 1)] * len(SHARES)), min_size=1, max_size=6
        ),
        max_size=8,
    )
)
def test_shares_are_always_among_those_tried(
    objects: list[list[tuple[int, float, float, float]]],
) -> None:
    trust = ScaleSelector(TrustSettings(), Adapter())
    for found in objects:
        trust.observe([n for n, *_ in found], rows(*[(a, b, c) for _, a, b, c in found]))
    assert len(shares_of(trust)) == N_STAGES and set(shares_of(trust)) <= set(SHARES)


@pytest.mark.parametrize("memory", [0.0, 1.5, -1.0])
def test_a_memory_outside_of_its_range_is_refused(memory: float) -> None:
    with pytest.raises(SettingsError, match="memory"):
        TrustSettings(memory=memory)


# Evidence that is carried along ------------------------------------------------------------------

WON, LOST = rows((0.2, 0.5, 0.8)), rows((0.8, 0.5, 0.2))


def seen(*objects: np.ndarray) -> ScaleEvidence:
    """What some objects said, each with one prompt of one click."""
    found = ScaleEvidence()
    for ious in objects:
        found = found.after([1], ious, 0.9)
    return found


def test_a_session_goes_on_with_its_evidence() -> None:
    one, settings = ScaleSelector(TrustSettings(least=2.5), Adapter()), TrustSettings(least=2.5)
    for _ in range(2):
        one.observe([1], WON)
    woken = ScaleSelector(settings, replace(merged((0.0,) * N_STAGES), evidence=one.evidence))
    for trust in (one, woken):
        assert shares_of(trust)[0] == 0.0, "two objects are too few"
        trust.observe([1], WON)
        assert shares_of(trust)[0] == 1.0
    assert woken.evidence == one.evidence


def test_short_sessions_learn_together_what_none_could_alone() -> None:
    of_sessions = [seen(WON, WON), seen(WON), seen(WON, WON)]
    start = replace(merged((0.0,) * N_STAGES), inherited=pooled(of_sessions))
    settings = TrustSettings(least=4.5)
    assert shares_of(ScaleSelector(settings, start)) == (1.0, 0.0, 0.0, 0.0)
    alone = ScaleSelector(settings, replace(start, inherited=of_sessions[0]))
    assert shares_of(alone) == (0.0,) * N_STAGES


def test_own_evidence_outweighs_what_was_inherited() -> None:
    start = replace(merged(WHOLE), inherited=pooled([seen(*[WON] * 30)] * 8))
    assert start.inherited.stages[0].count == pytest.approx(MOST_INHERITED)
    trust = ScaleSelector(replace(TrustSettings(), alarm=1.0), start)
    n_lost = 0
    while shares_of(trust)[0] != 0.0:
        trust.observe([1], LOST)
        n_lost += 1
    assert n_lost <= 10
    assert trust.evidence == seen(*[LOST] * n_lost), "its own, for the next merge"


def test_the_alarm_is_inherited() -> None:
    lately = pooled([seen(*[WON] * 8, LOST, LOST)])
    barred = ScaleSelector(TrustSettings(), replace(merged(WHOLE), inherited=lately))
    assert shares_of(barred)[0] == 0.0


def test_what_was_inherited_does_not_drown_the_alarm() -> None:
    trust = ScaleSelector(
        TrustSettings(), replace(merged(WHOLE), inherited=pooled([seen(*[WON] * 30)] * 8))
    )
    assert shares_of(trust)[0] == 1.0
    trust.observe([1], rows((0.8, 0.75, 0.7)))  # half of a loss of 0.05 and 0.1 counts at once
    assert shares_of(trust)[0] == 0.0


def test_evidence_fades_only_where_an_object_came() -> None:
    before = seen(WON)
    after = before.after([2, 5], rows((0.1, 0.2, 0.3), (0.4, 0.4, 0.4)), 0.5)
    assert after.stages[0] == before.stages[0]
    assert [stage.count for stage in after.stages] == [1.0, 1.0, 1.0, 0.0]
    assert after.faded([1], 0.5).stages[0].count == 0.5


def test_evidence_of_earlier_versions_is_read_with_a_usual_spread() -> None:
    stage = [3.0, [1.5, 1.8, 2.1], [0.0, 0.1, 0.2]]
    empty = [0.0, [0.0] * 3, [0.0] * 3]
    found = ScaleEvidence.from_json(json.dumps([stage, empty, empty, empty])).stages
    # Half gained 0.1 on the mean of three objects: squares 3 * (0.1 ** 2 + 0.1 ** 2).
    assert found[0].count == 3.0 and found[0].recent == (0.0, 0.0, 0.1, 0.2)
    assert found[0].gains == pytest.approx((0.0, 0.0, 0.3, 0.6))
    assert found[0].squares == pytest.approx((0.0, 0.0, 0.06, 0.15))
    assert found[1] == NONE.stages[1]


def test_adding_nothing_changes_nothing() -> None:
    one = seen(WON, LOST)
    assert one + NONE == NONE + one == one
    both = (one + seen(WON)).stages[0]
    assert both.count == pytest.approx(2.9)
    assert both.gains[3] == pytest.approx(0.9 * 0.6 - 0.6 + 0.6)
    assert both.squares[3] == pytest.approx((0.9 + 1 + 1) * 0.36)
    assert both.sure_gains(0.0)[3] == pytest.approx(0.54 / 2.9)


@given(st.lists(st.tuples(st.integers(0, 30), *[st.floats(0, 1)] * len(SHARES)), max_size=9))
def test_evidence_survives_text(objects: list[tuple[int, float, float, float]]) -> None:
    found = ScaleEvidence()
    for n_clicks, *ious in objects:
        found = found.after([n_clicks], rows((ious[0], ious[1], ious[2])), 0.9)
    assert ScaleEvidence.from_json(found.to_json()) == found


@pytest.mark.parametrize("text", ["", "[]", "{}", "[[1, [2], [3]]]", "7", "[[1, 2, 3, 4]]"])
def test_text_that_is_no_evidence_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ScaleEvidence.from_json(text)


# An adapter with shares ----------------------------------------------------------------------


def learned(sam: PromptableSam, shares: tuple[float, ...]) -> Adapter:
    name, value = next(iter(sam.decoder_parameters().items()))
    return Adapter({name: torch.ones_like(value).half()}, sam.decoder_id, shares)


def test_a_share_of_the_differences_is_added(sam: PromptableSam) -> None:
    adapter = learned(sam, (1.0, 0.5, 0.0, 1.0))
    name, base = next(iter(sam.decoder_parameters().items()))
    for n_clicks, share in ((1, 1.0), (3, 0.5), (8, 1.0)):
        weights = adapter.weights(sam, adapter.share(n_clicks))
        assert weights is not None
        torch.testing.assert_close(weights[name], base + share)
    assert adapter.weights(sam, adapter.share(5)) is None, "nothing of it: the base decoder"


def test_shares_are_part_of_the_version_and_of_the_file(sam: PromptableSam, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    adapter = learned(sam, (1.0, 0.5, 0.0, 1.0))
    save_adapter(adapter, path, {})
    found = load_adapter(path, sam)
    assert found.shares == adapter.shares and found.version == adapter.version
    assert adapter.version != learned(sam, WHOLE).version


def test_evidence_is_part_of_the_file_and_not_of_the_version(
    sam: PromptableSam, tmp_path: Path
) -> None:
    path = tmp_path / "adapter.safetensors"
    adapter = replace(learned(sam, WHOLE), evidence=seen(WON), inherited=seen(LOST, WON))
    save_adapter(adapter, path, {})
    found = load_adapter(path, sam)
    assert (found.evidence, found.inherited) == (adapter.evidence, adapter.inherited)
    assert found.version == learned(sam, WHOLE).version


def test_a_file_with_broken_evidence_is_refused(sam: PromptableSam, tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    adapter = learned(sam, WHOLE)
    tensors = {name: value.clone() for name, value in adapter.deltas.items()}
    save_file(tensors, path, {"decoder_id": sam.decoder_id, "evidence": "[1]"})
    with pytest.raises(ModelError, match=r"adapter\.safetensors has no readable evidence"):
        load_adapter(path, sam)


@pytest.mark.parametrize("shares", [(1.0,), (0.0, 2.0, 0.0, 0.0)])
def test_a_file_with_impossible_shares_is_refused(
    sam: PromptableSam, tmp_path: Path, shares: tuple[float, ...]
) -> None:
    path = tmp_path / "adapter.safetensors"
    save_adapter(learned(sam, shares), path, {})
    with pytest.raises(ModelError, match="4 numbers from 0 to 1"):
        load_adapter(path, sam)
