from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adaptation.errors import SettingsError
from adaptation.learning.adapter import Adapter
from adaptation.learning.guard import Guard, GuardSettings, reason_against
from adaptation.types import as_clicks

SETTINGS = GuardSettings(window=4, least=3, margin=0.01)


def adapter(value: float) -> Adapter:
    return Adapter({"w": torch.tensor([value], dtype=torch.float16)}, "base")


def square(size: int = 100, lo: int = 30, hi: int = 60) -> NDArray[np.bool_]:
    mask = np.zeros((size, size), np.bool_)
    mask[lo:hi, lo:hi] = True
    return mask


def test_a_mask_that_agrees_with_its_clicks_is_learned_from() -> None:
    clicks = as_clicks([(40, 40, True), (10, 10, False)])
    assert reason_against(square(), clicks, 0.7, SETTINGS) is None


@pytest.mark.parametrize(
    ("mask", "clicks", "overlap", "word"),
    [
        (np.zeros((100, 100), np.bool_), [(40, 40, True)], 0.0, "empty"),
        (np.ones((100, 100), np.bool_), [(40, 40, True)], 0.9, "100% of the image"),
        (square(), [(10, 10, True), (40, 40, False)], 0.6, "contradicts 2 of 2"),
        (square(lo=32, hi=36), [(33, 33, True)], 0.05, "IoU 0.05"),
    ],
)
def test_slips_and_garbage_are_not_learned_from(
    mask: NDArray[np.bool_], clicks: list[tuple[float, float, bool]], overlap: float, word: str
) -> None:
    reason = reason_against(mask, as_clicks(clicks), overlap, SETTINGS)
    assert reason is not None and word in reason


def test_a_losing_session_turns_back_to_the_adapter_that_won() -> None:
    guard, good = Guard(SETTINGS), adapter(1.0)
    assert not guard.observe(good, 0.9, 0.8)
    assert guard.won is good
    worse = adapter(2.0)
    turned = [guard.observe(worse, 0.6, 0.8) for _ in range(3)]
    assert turned == [False, True, False]
    assert guard.won is good


def test_a_tie_within_the_margin_goes_on() -> None:
    guard = Guard(SETTINGS)
    assert not any(guard.observe(adapter(1.0), 0.795, 0.8) for _ in range(20))


def test_one_bad_object_does_not_turn_a_session_back() -> None:
    guard = Guard(SETTINGS)
    assert not guard.observe(adapter(1.0), 0.1, 0.9)


def test_the_base_decoder_is_never_held_against_itself() -> None:
    guard = Guard(SETTINGS)
    assert not any(guard.observe(Adapter(), 0.5, 0.9) for _ in range(10))
    assert guard.mean_gain == 0.0


def test_only_the_last_objects_count() -> None:
    guard = Guard(SETTINGS)
    for _ in range(50):
        guard.observe(adapter(1.0), 0.9, 0.5)
    assert any([guard.observe(adapter(1.0), 0.3, 0.9) for _ in range(4)])


def test_settings_that_cannot_be_met_are_refused() -> None:
    with pytest.raises(SettingsError, match="least <= window"):
        GuardSettings(window=2, least=3)
