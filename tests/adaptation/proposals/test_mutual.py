from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from adaptation.errors import InputError, SettingsError
from adaptation.proposals.interface import Context
from adaptation.proposals.mutual import MutualBank, MutualGenerator, MutualSettings, vote
from tests.adaptation.proposals.making import DEFECT, OTHER, OneLayer, made

PLAIN = MutualSettings(neighbourhoods=(1,), recurring_share=0.0)


def bank_of(*names: str, settings: MutualSettings = PLAIN, **groups: str) -> MutualBank:
    bank = MutualBank(OneLayer(), settings)
    for name in names:
        bank.add(made(name, {(0, 0): OTHER}, group=groups.get(name)))
    return bank


def test_what_no_other_image_has_scores_highest() -> None:
    bank = bank_of("a", "b", "c")
    scores = bank.score(made("q", {(3, 5): DEFECT, (7, 7): OTHER}))
    assert np.unravel_index(scores.argmax(), scores.shape) == (3, 5)
    assert scores[3, 5] == pytest.approx(math.sqrt(2), abs=1e-3)
    assert scores[0, 0] == pytest.approx(0, abs=1e-3)
    assert scores[7, 7] == pytest.approx(0, abs=1e-3)


def test_images_of_one_group_never_vouch_for_each_other() -> None:
    bank = bank_of("a", "b", settings=PLAIN)
    twin = made("twin", {(3, 5): DEFECT}, group="tile")
    bank.add(twin)
    query = made("q", {(3, 5): DEFECT}, group="tile")
    assert bank.vouchers(query) == ["a", "b"]
    assert bank.score(query)[3, 5] == pytest.approx(math.sqrt(2), abs=1e-3)
    stranger = replace(query, group="elsewhere")
    assert bank.score(stranger)[3, 5] == pytest.approx(0, abs=1e-3)


def test_an_image_never_vouches_for_itself() -> None:
    bank = bank_of("a", "b")
    bank.add(made("q", {(3, 5): DEFECT}))
    assert "q" not in bank.vouchers(made("q", group="another name for its group"))


def test_without_another_image_the_error_says_what_to_do() -> None:
    with pytest.raises(InputError, match="saliency within the image"):
        bank_of("a").score(made("a"))


def test_the_share_of_the_nearest_is_averaged() -> None:
    distances = torch.tensor([[0.4, 0.1, 0.2, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]])
    assert vote(distances, PLAIN)[0] == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    assert vote(distances, replace(PLAIN, share=1.0))[0] == pytest.approx(distances.mean())


def test_a_recurring_defect_is_left_out_of_the_vote_where_the_distance_jumps() -> None:
    recurring = torch.tensor([[0.1, 0.11, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])
    smooth = torch.linspace(0.5, 1.0, 10)[None]
    settings = MutualSettings(recurring_share=0.3)
    assert vote(recurring, PLAIN)[0] == pytest.approx((0.1 + 0.11 + 1.0) / 3)
    assert vote(recurring, settings)[0] == pytest.approx(1.0)
    assert torch.equal(vote(smooth, settings), vote(smooth, PLAIN))


def test_a_jump_behind_more_images_than_allowed_changes_nothing() -> None:
    half = torch.tensor([[0.1] * 5 + [1.0] * 5])
    assert vote(half, MutualSettings(recurring_share=0.3))[0] == pytest.approx(0.1)


def test_of_many_images_a_seeded_subset_vouches() -> None:
    bank = bank_of(*"abcdefgh", settings=replace(PLAIN, max_vouchers=3))
    drawn = bank.vouchers(made("q"))
    assert len(drawn) == 3
    assert drawn == bank.vouchers(made("q"))
    assert drawn != bank.vouchers(made("r")) or drawn != bank.vouchers(made("s"))


def test_memory_is_linear_in_the_images() -> None:
    assert bank_of(*"abcd").n_bytes == 2 * bank_of(*"ab").n_bytes


def test_a_removed_image_no_longer_vouches() -> None:
    bank = bank_of("a", "b")
    bank.remove("a")
    bank.remove("unknown")
    assert bank.vouchers(made("q")) == ["b"]
    assert "a" not in bank


def test_scores_of_neighbourhoods_are_averaged_over_the_image() -> None:
    bank = bank_of("a", "b", settings=MutualSettings())
    found = MutualGenerator(bank=bank).generate(made("q", {(4, 4): DEFECT}, rows=6), Context())
    assert found.score_map is not None
    assert found.score_map.shape == (6, 8)
    assert np.unravel_index(found.score_map.argmax(), (6, 8)) == (4, 4)


@pytest.mark.parametrize(
    "wrong", [{"share": 0.0}, {"jump": 1.0}, {"neighbourhoods": (2,)}, {"neighbourhoods": ()}]
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        MutualSettings(**wrong)  # type: ignore[arg-type]
