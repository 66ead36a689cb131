"""How much of what was learned is used, against evidence made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptation.adapter import N_STAGES, WHOLE, Adapter, load_adapter, save_adapter, stage_of
from adaptation.errors import ModelError, SettingsError
from adaptation.sam import PromptableSam
from adaptation.trust import SHARES, Trust, TrustSettings

AT_ONCE = TrustSettings(least=1.0)


def rows(*columns: tuple[float, float, float]) -> np.ndarray:
    """IoU with none, half and all, a column for each prompt."""
    return np.array(columns).T


def merged(shares: tuple[float, ...]) -> Adapter:
    """What other sessions learned, which this one starts from."""
    return Adapter({"a": torch.ones(1).half()}, "decoder", shares)


def test_stages_end_after_one_three_and_seven_clicks() -> None:
    assert [stage_of(n) for n in (0, 1, 2, 3, 4, 7, 8, 30)] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_nothing_is_used_until_there_is_evidence() -> None:
    trust = Trust(TrustSettings(least=2.0, memory=1.0), Adapter())
    assert trust.shares() == (0.0,) * N_STAGES
    trust.observe([1], rows((0.1, 0.5, 0.9)))
    assert trust.shares() == (0.0,) * N_STAGES, "one object is too few"
    trust.observe([1], rows((0.1, 0.5, 0.9)))
    assert trust.shares() == (1.0, 0.0, 0.0, 0.0)


def test_a_start_may_use_more() -> None:
    assert Trust(TrustSettings(start=0.5), Adapter()).shares() == (0.5,) * N_STAGES
    with pytest.raises(SettingsError, match="start"):
        TrustSettings(start=1.5)


def test_each_stage_uses_the_share_that_won_there() -> None:
    trust = Trust(AT_ONCE, Adapter())
    trust.observe([1, 2, 5, 12], rows((0.2, 0.5, 0.8), (0.6, 0.7, 0.5), (0.8, 0.8, 0.8), (1, 0, 0)))
    assert trust.shares() == (1.0, 0.5, 0.0, 0.0), "a tie is the frozen decoder's"


def test_what_no_object_reached_stays_as_it_started() -> None:
    trust = Trust(AT_ONCE, merged((0.5, 1.0, 0.0, 1.0)))
    trust.observe([1], rows((0.1, 0.2, 0.9)))
    assert trust.shares() == (1.0, 1.0, 0.0, 1.0)


def test_late_evidence_outweighs_early_evidence() -> None:
    trust = Trust(replace(AT_ONCE, memory=0.5, alarm=1.0), Adapter())
    for _ in range(3):
        trust.observe([1], rows((0.5, 0.6, 0.7)))
    trust.observe([1], rows((0.9, 0.6, 0.3)))
    trust.observe([1], rows((0.9, 0.6, 0.3)))
    assert trust.shares()[0] == 0.0


def test_a_margin_must_be_won() -> None:
    trust = Trust(replace(AT_ONCE, margin=0.05), Adapter())
    trust.observe([1, 2], rows((0.5, 0.52, 0.54), (0.5, 0.5, 0.56)))
    assert trust.shares()[:2] == (0.0, 1.0)


def test_a_recent_loss_raises_the_alarm_whatever_came_before() -> None:
    trust = Trust(replace(AT_ONCE, memory=1.0, alarm=0.02), Adapter())
    for _ in range(9):
        trust.observe([1], rows((0.5, 0.6, 0.7)))
    assert trust.shares()[0] == 1.0
    trust.observe([1], rows((0.8, 0.75, 0.5)))  # lately: all -0.05, half +0.025
    assert trust.shares()[0] == 0.5
    trust.observe([1], rows((0.8, 0.7, 0.5)))
    assert trust.shares()[0] == 0.0
    calm = Trust(replace(AT_ONCE, memory=1.0, alarm=1.0), Adapter())
    for row in [(0.5, 0.6, 0.7)] * 9 + [(0.8, 0.75, 0.5)] * 2:
        calm.observe([1], rows(row))
    assert calm.shares()[0] == 1.0


def test_without_trust_all_is_used_whatever_happens() -> None:
    trust = Trust(TrustSettings(is_on=False), Adapter())
    for _ in range(9):
        trust.observe([1, 2, 5, 9], rows(*[(1.0, 0.5, 0.0)] * 4))
    assert trust.shares() == WHOLE


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
    trust = Trust(TrustSettings(), Adapter())
    for found in objects:
        trust.observe([n for n, *_ in found], rows(*[(a, b, c) for _, a, b, c in found]))
    assert len(trust.shares()) == N_STAGES and set(trust.shares()) <= set(SHARES)


@pytest.mark.parametrize("memory", [0.0, 1.5, -1.0])
def test_a_memory_outside_of_its_range_is_refused(memory: float) -> None:
    with pytest.raises(SettingsError, match="memory"):
        TrustSettings(memory=memory)


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


@pytest.mark.parametrize("shares", [(1.0,), (0.0, 2.0, 0.0, 0.0)])
def test_a_file_with_impossible_shares_is_refused(
    sam: PromptableSam, tmp_path: Path, shares: tuple[float, ...]
) -> None:
    path = tmp_path / "adapter.safetensors"
    save_adapter(learned(sam, shares), path, {})
    with pytest.raises(ModelError, match="4 numbers from 0 to 1"):
        load_adapter(path, sam)
