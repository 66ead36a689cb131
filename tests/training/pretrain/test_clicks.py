"""Training clicks are roughly right: inside what they claim to be inside of."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import default_rng
from numpy.typing import NDArray

from adaptation.simulation.clicker import jittered_box
from training.pretrain.clicks import (
    corrective_click,
    first_click,
    interior_distance,
    scattered_click,
)

Mask = NDArray[np.bool_]


def rectangle(rows: slice, columns: slice) -> Mask:
    mask = np.zeros((24, 32), np.bool_)
    mask[rows, columns] = True
    return mask


OBJECT = rectangle(slice(4, 15), slice(6, 17))


def test_first_clicks_are_positive_inside_and_mostly_deep() -> None:
    clicks = [first_click(OBJECT, default_rng(seed)) for seed in range(200)]
    assert all(click.is_positive and OBJECT[click.y, click.x] for click in clicks)
    depth = interior_distance(OBJECT)
    deep = [depth[c.y, c.x] >= 0.4 * depth.max() for c in clicks]
    assert 0.8 < np.mean(deep) < 1
    assert len(set(clicks)) > 20


def test_corrections_lie_in_an_error_and_name_its_kind() -> None:
    shown = rectangle(slice(4, 15), slice(12, 24))
    clicks = [corrective_click(shown, OBJECT, default_rng(seed)) for seed in range(200)]
    for click in clicks:
        assert click is not None
        assert OBJECT[click.y, click.x] == click.is_positive != shown[click.y, click.x]
    share_negative = np.mean([not c.is_positive for c in clicks if c is not None])
    assert 0.75 < share_negative < 0.95  # the surplus is deeper; sometimes the other is clicked


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
