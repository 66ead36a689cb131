"""Masks with one error: an object that is nearly right, and logits that say so."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray

from training.pretrain.mask_errors import as_logits, with_one_error


@pytest.fixture
def disk() -> NDArray[np.bool_]:
    stencil = np.zeros((48, 64), np.uint8)
    cv2.circle(stencil, (30, 24), 14, (1,), -1)
    return stencil > 0


def test_one_error_is_a_bite_or_a_bulge_at_the_border(disk: NDArray[np.bool_]) -> None:
    kinds = set()
    near = cv2.dilate(disk.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    border = near & ~(cv2.erode(disk.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    for seed in range(60):
        wrong = with_one_error(disk, default_rng(seed))
        missing, surplus = disk & ~wrong, wrong & ~disk
        assert missing.any() != surplus.any()
        kinds.add(bool(missing.any()))
        error = missing | surplus
        assert 4 <= error.sum() <= 0.25 * disk.sum()
        assert (error & border).any()
        assert cv2.connectedComponents(error.astype(np.uint8))[0] <= 4
    assert kinds == {True, False}


def test_an_object_too_small_for_an_error_comes_back_as_it_is() -> None:
    speck = np.zeros((16, 16), np.bool_)
    speck[4:6, 4:7] = True
    for seed in range(10):
        assert np.array_equal(with_one_error(speck, default_rng(seed)), speck)


def test_logits_have_the_sign_of_the_mask_and_grow_away_from_its_border(
    disk: NDArray[np.bool_],
) -> None:
    for seed in range(20):
        logits = as_logits(disk, default_rng(seed))
        assert logits.dtype == np.float32 and logits.shape == disk.shape
        assert np.array_equal(logits > 0, disk)
        assert abs(logits).max() <= 12
        assert logits[24, 30] >= logits[24, 40] and logits[0, 0] <= logits[24, 46]
