"""The simulated annotator against masks drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from adaptation.errors import InputError
from adaptation.simulation.clicker import interior_distance, next_click, noisy_click
from adaptation.types import Click

Mask = NDArray[np.bool_]
MASKS = arrays.arrays(np.bool_, (9, 11))


def drawn(*rows: str) -> Mask:
    return np.array([[cell == "#" for cell in row] for row in rows])


def empty(mask: Mask) -> Mask:
    return np.zeros_like(mask)


def rectangle(rows: slice, columns: slice, size: tuple[int, int] = (12, 16)) -> Mask:
    mask = np.zeros(size, np.bool_)
    mask[rows, columns] = True
    return mask


def at(click: Click | None) -> tuple[float, float, bool]:
    assert click is not None
    return click.x, click.y, click.is_positive


def test_the_first_click_is_the_middle_of_the_object() -> None:
    truth = rectangle(slice(3, 8), slice(4, 9))
    assert at(next_click(truth, empty(truth))) == (6, 5, True)


def test_the_image_border_counts_as_background() -> None:
    # The object reaches the corner; without the border's row of zeros (0, 0) would be deepest.
    truth = rectangle(slice(0, 5), slice(0, 5))
    assert at(next_click(truth, empty(truth))) == (2, 2, True)


def test_an_object_that_fills_the_image_is_clicked_in_its_middle() -> None:
    truth = np.ones((7, 7), np.bool_)
    assert at(next_click(truth, empty(truth))) == (3, 3, True)


def test_a_hole_pushes_the_click_away() -> None:
    truth = rectangle(slice(0, 12), slice(0, 12), (12, 20))
    truth[5:7, 5:7] = False
    x, y, _ = at(next_click(truth, empty(truth)))
    assert truth[int(y), int(x)]
    assert (x, y) == (2, 2)  # of the four equal corners the first in row-major order


def test_the_first_of_equally_deep_pixels_in_row_major_order() -> None:
    truth = drawn("....", ".##.", ".##.", "....")
    assert at(next_click(truth, empty(truth))) == (1, 1, True)
    two = drawn("....#", ".....", "#....")
    assert at(next_click(two, empty(two))) == (4, 0, True)


def test_the_larger_error_is_clicked() -> None:
    truth = rectangle(slice(0, 5), slice(0, 5))
    shown = rectangle(slice(6, 9), slice(8, 11))
    assert at(next_click(truth, shown)) == (2, 2, True)
    assert at(next_click(shown, truth)) == (2, 2, False)


def test_depth_decides_not_area() -> None:
    truth = rectangle(slice(0, 1), slice(0, 16))  # 16 pixels, one deep
    shown = rectangle(slice(4, 7), slice(4, 7))  # 9 pixels, two deep
    assert at(next_click(truth, shown)) == (5, 5, False)


def test_equally_deep_errors_give_a_negative_click() -> None:
    truth = rectangle(slice(0, 3), slice(0, 3))
    shown = rectangle(slice(6, 9), slice(6, 9))
    assert at(next_click(truth, shown)) == (7, 7, False)


def test_distance_is_exact_and_euclidean() -> None:
    region = np.ones((9, 9), np.bool_)
    region[0, 0] = False
    distance = interior_distance(region)
    assert distance[4, 4] == 5  # to the border above, below and beside
    assert distance[2, 1] == pytest.approx(min(2.0, 5**0.5))
    region = np.ones((21, 21), np.bool_)
    region[10, 10] = False
    assert interior_distance(region)[12, 11] == pytest.approx(5**0.5)


def test_a_single_wrong_pixel_is_found() -> None:
    truth = rectangle(slice(3, 8), slice(4, 9))
    missing, surplus = truth.copy(), truth.copy()
    missing[5, 6], surplus[0, 15] = False, True
    assert at(next_click(truth, missing)) == (6, 5, True)
    assert at(next_click(truth, surplus)) == (15, 0, False)


def test_a_perfect_mask_needs_no_click() -> None:
    truth = rectangle(slice(3, 8), slice(4, 9))
    assert next_click(truth, truth) is None
    assert noisy_click(truth, truth, np.random.default_rng(0)) is None


def test_no_pixel_is_clicked_twice() -> None:
    truth = drawn(".....", ".###.", ".....")
    found = []
    clicked: list[Click] = []
    while (click := next_click(truth, empty(truth), clicked=clicked)) is not None:
        found.append((click.x, click.y))
        clicked.append(click)
    assert found == [(1, 1), (2, 1), (3, 1)]


def test_a_clicked_pixel_does_not_split_the_region_it_lies_in() -> None:
    # RITM takes clicked pixels out after the distance transform, not before.
    truth = rectangle(slice(2, 7), slice(2, 7))
    middle = Click(x=4, y=4, is_positive=True)
    assert at(next_click(truth, empty(truth), clicked=[middle])) == (3, 3, True)


def test_clicks_outside_the_image_are_no_matter() -> None:
    truth = rectangle(slice(3, 8), slice(4, 9))
    outside = [Click(x=-1, y=5, is_positive=False), Click(x=6, y=99, is_positive=False)]
    assert at(next_click(truth, empty(truth), clicked=outside)) == (6, 5, True)


def test_ignored_pixels_are_no_error() -> None:
    truth = rectangle(slice(0, 5), slice(0, 10))
    ignore = rectangle(slice(0, 5), slice(0, 5))
    assert at(next_click(truth, empty(truth), ignore=ignore)) == (7, 2, True)
    assert next_click(truth, empty(truth), ignore=truth) is None
    assert next_click(empty(truth), truth, ignore=truth) is None


def test_masks_of_two_sizes_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(3, 3\) and \(4, 4\)"):
        next_click(np.ones((3, 3), np.bool_), np.ones((4, 4), np.bool_))


@given(MASKS, MASKS)
def test_a_click_says_what_is_wrong_at_its_pixel(truth: Mask, shown: Mask) -> None:
    click = next_click(truth, shown)
    noisy = noisy_click(truth, shown, np.random.default_rng(0))
    if click is None or noisy is None:
        assert np.array_equal(truth, shown) and click is noisy is None
        return
    for one in (click, noisy):
        assert truth[int(one.y), int(one.x)] == one.is_positive
        assert shown[int(one.y), int(one.x)] != one.is_positive
    assert noisy.is_positive == click.is_positive


@given(MASKS, st.integers(0, 2**32))
def test_noise_stays_in_the_piece_of_the_central_click(truth: Mask, seed: int) -> None:
    truth[:, 5] = False
    central = next_click(truth, empty(truth))
    noisy = noisy_click(truth, empty(truth), np.random.default_rng(seed))
    if central is not None and noisy is not None:
        assert (central.x < 5) == (noisy.x < 5)


def test_noise_is_seeded_and_prefers_the_middle() -> None:
    truth = rectangle(slice(1, 10), slice(1, 10))
    none = empty(truth)
    again = [noisy_click(truth, none, np.random.default_rng(3)) for _ in range(2)]
    assert again[0] == again[1]
    rng = np.random.default_rng(0)
    drawn_clicks = [at(noisy_click(truth, none, rng)) for _ in range(400)]
    depth = interior_distance(truth)
    mean = np.mean([depth[int(y), int(x)] for x, y, _ in drawn_clicks])
    expected = (depth**2).sum() / depth.sum()  # the mean depth under weights equal to the depth
    assert mean == pytest.approx(expected, abs=0.15)
    assert len({(x, y) for x, y, _ in drawn_clicks}) > 50
