"""Training clicks are roughly right: inside what they claim to be inside of."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray

from adaptation.simulation.clicker import interior_distance, jittered_box
from training.pretrain.clicks import (
    corrective_click,
    first_click,
    scattered_click,
)

Mask = NDArray[np.bool_]


def rectangle(rows: slice, columns: slice) -> Mask:
    mask = np.zeros((24, 32), np.bool_)
    mask[rows, columns] = True
    return mask


OBJECT = rectangle(slice(4, 15), slice(6, 17))


def test_first_clicks_scatter_inside_as_those_of_people_do() -> None:
    clicks = [first_click(OBJECT, default_rng(seed)) for seed in range(600)]
    assert all(click.is_positive and OBJECT[click.y, click.x] for click in clicks)
    depth = interior_distance(OBJECT)
    deepest = np.mean([depth[c.y, c.x] == depth.max() for c in clicks])
    at_border = np.mean([depth[c.y, c.x] <= 1 for c in clicks])
    assert deepest == pytest.approx(0.36, abs=0.05)  # the middle of a square is one pixel
    assert 0.1 < at_border < 0.3  # 40 of the 121
    drawn = np.mean([depth[c.y, c.x] for c in clicks if depth[c.y, c.x] < depth.max()])
    assert drawn > depth[OBJECT].mean()  # deeper than if they were drawn at random


def test_corrections_lie_in_an_error_and_name_its_kind() -> None:
    shown = rectangle(slice(4, 15), slice(12, 24))
    clicks = [corrective_click(shown, OBJECT, default_rng(seed)) for seed in range(200)]
    for click in clicks:
        assert click is not None
        assert OBJECT[click.y, click.x] == click.is_positive != shown[click.y, click.x]
    share_negative = np.mean([not c.is_positive for c in clicks if c is not None])
    assert 0.75 < share_negative < 0.95  # the surplus is deeper; sometimes the other is clicked


def test_the_second_deepest_error_is_clicked_now_and_then_and_no_third_one() -> None:
    target = rectangle(slice(2, 14), slice(2, 14))
    target |= rectangle(slice(16, 22), slice(2, 10)) | rectangle(slice(2, 5), slice(20, 23))
    clicks = [
        corrective_click(np.zeros_like(target), target, default_rng(seed)) for seed in range(400)
    ]
    assert all(click is not None and click.is_positive for click in clicks)
    in_second = np.mean([c.y >= 16 for c in clicks if c is not None])
    assert 0.1 < in_second < 0.2
    assert not any(c.x >= 20 for c in clicks if c is not None)


def test_a_mask_without_errors_gets_no_correction() -> None:
    assert corrective_click(OBJECT, OBJECT, default_rng(0)) is None


def test_scattered_clicks_tell_the_truth() -> None:
    for seed in range(100):
        click = scattered_click(OBJECT, default_rng(seed))
        assert click is not None and OBJECT[click.y, click.x] == click.is_positive


def test_nothing_can_be_clicked_beside_an_object_that_fills_the_window() -> None:
    full = np.ones((8, 8), np.bool_)
    clicks = [scattered_click(full, default_rng(seed)) for seed in range(50)]
    assert None in clicks
    assert all(click.is_positive for click in clicks if click is not None)


def test_boxes_are_near_the_tight_one_and_inside_the_window() -> None:
    boxes = np.stack([jittered_box(OBJECT, default_rng(seed)) for seed in range(200)])
    assert np.abs(boxes - [6, 4, 17, 15]).max() <= 0.08 * 11 + 1e-5
    assert np.abs(boxes.mean(0) - [6, 4, 17, 15]).max() < 0.2
    tight = jittered_box(OBJECT, default_rng(0), spread=0)
    assert tight.tolist() == pytest.approx([6, 4, 17, 15])
    corner = rectangle(slice(0, 9), slice(20, 32))
    assert all((jittered_box(corner, default_rng(s))[[0, 3]] <= [32, 24]).all() for s in range(20))
