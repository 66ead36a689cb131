from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptation.errors import SettingsError
from adaptation.models.prompts import resized
from adaptation.predictor.settings import ZoomSettings
from adaptation.predictor.zoom import (
    OUTSIDE_LOGIT,
    View,
    box_in_view,
    choose_view,
    clicks_in_view,
    extent_of,
    first_view,
    move_logits,
)
from adaptation.types import Box, as_clicks

SETTINGS = ZoomSettings()
SIZE = (800, 1000)
FULL = View.full(SIZE)
MODEL = 64


@st.composite
def boxes_in(draw: st.DrawFn, size: tuple[int, int] = SIZE) -> Box:
    x0, y0 = draw(st.integers(0, size[1] - 1)), draw(st.integers(0, size[0] - 1))
    x1, y1 = draw(st.integers(x0 + 1, size[1])), draw(st.integers(y0 + 1, size[0]))
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)


@given(boxes_in())
def test_a_view_lies_in_the_image_and_holds_the_object(extent: Box) -> None:
    view = choose_view(extent, SIZE, FULL, SETTINGS)
    assert 0 <= view.x0 < view.x1 <= SIZE[1] and 0 <= view.y0 < view.y1 <= SIZE[0]
    assert view.x0 <= extent.x0 and extent.x1 <= view.x1
    assert view.y0 <= extent.y0 and extent.y1 <= view.y1


@given(boxes_in())
def test_choosing_again_with_the_same_object_keeps_the_view(extent: Box) -> None:
    view = choose_view(extent, SIZE, FULL, SETTINGS)
    assert choose_view(extent, SIZE, view, SETTINGS) == view


def test_a_small_object_is_seen_in_a_square_with_a_margin() -> None:
    view = choose_view(Box(x0=400, y0=300, x1=500, y1=350), SIZE, FULL, SETTINGS)
    assert view == View(360, 235, 540, 415)


def test_a_tiny_object_gets_the_smallest_crop_and_a_corner_shifts_it() -> None:
    view = choose_view(Box(x0=0, y0=0, x1=4, y1=4), SIZE, FULL, SETTINGS)
    assert view == View(0, 0, 56, 56)


def test_a_large_object_no_object_or_zoom_off_see_the_whole_image() -> None:
    small = Box(x0=400, y0=300, x1=500, y1=350)
    assert choose_view(Box(x0=0, y0=0, x1=600, y1=10), SIZE, FULL, SETTINGS) == FULL
    assert choose_view(None, SIZE, View(0, 0, 60, 60), SETTINGS) == FULL
    assert choose_view(small, SIZE, FULL, ZoomSettings(is_on=False)) == FULL


def test_the_view_grows_when_the_object_leaves_it_and_shrinks_when_far_too_large() -> None:
    view = View(360, 235, 540, 415)
    grown = choose_view(Box(x0=400, y0=300, x1=560, y1=350), SIZE, view, SETTINGS)
    assert grown.x1 > 560 and grown.size > view.size
    shrunk = choose_view(Box(x0=440, y0=320, x1=460, y1=340), SIZE, view, SETTINGS)
    assert shrunk.size == (56, 56)


def test_bad_settings_say_what_was_got() -> None:
    with pytest.raises(SettingsError, match="zoom cannot be so: margin must be 1 or more, got 0"):
        ZoomSettings(margin=0.5)


def test_clicks_move_into_the_view_and_those_outside_are_left_out() -> None:
    clicks = as_clicks([(400, 300, True), (10, 10, False), (539, 414, False)])
    inside = clicks_in_view(clicks, View(360, 235, 540, 415))
    assert [(c.x, c.y, c.is_positive) for c in inside] == [(40, 65, True), (179, 179, False)]


def test_a_box_is_cut_to_the_view() -> None:
    view = View(10, 20, 30, 40)
    cut = box_in_view(Box(x0=0, y0=25, x1=20, y1=60), view)
    assert cut == Box(x0=0, y0=5, x1=10, y1=20)
    assert box_in_view(Box(x0=40, y0=25, x1=50, y1=60), view) is None


def test_the_extent_is_the_mask_s_box_joined_with_positive_clicks() -> None:
    logits = torch.full((16, 16), -1.0)
    logits[2:4, 6:8] = 1.0
    view = View(100, 200, 228, 328)
    extent = extent_of(logits, view, (64, 64), 4.0, as_clicks([(90, 250, True), (1, 1, False)]))
    assert extent == Box(x0=90, y0=216, x1=164, y1=251)
    assert extent_of(torch.full((16, 16), -1.0), view, (64, 64), 4.0, ()) is None


def test_the_padding_is_no_part_of_the_extent() -> None:
    logits = torch.full((16, 16), -1.0)
    logits[:, 15] = 1.0
    logits[15, :] = 1.0
    assert extent_of(logits, View(0, 0, 100, 50), (32, 64), 4.0, ()) == Box(
        x0=93.75, y0=0, x1=100, y1=50
    )


@given(boxes_in())
def test_moving_logits_to_the_same_view_changes_nothing_inside(extent: Box) -> None:
    view = choose_view(extent, SIZE, FULL, SETTINGS)
    frame = (view, resized(view.size, MODEL))
    logits = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    moved = move_logits(logits, frame, frame, MODEL)
    known = moved != OUTSIDE_LOGIT
    assert known.any()
    torch.testing.assert_close(moved[known], logits[known], atol=1e-3, rtol=1e-3)


def test_moved_logits_show_the_object_where_it_is() -> None:
    """A square object seen on the whole image and in a crop covers the same original pixels."""
    source = (View(0, 0, 640, 640), (64, 64))
    target = (View(160, 160, 480, 480), (64, 64))
    logits = torch.full((1, 1, 16, 16), -5.0)
    logits[..., 6:10, 6:10] = 5.0  # original 240..400
    moved = move_logits(logits, source, target, MODEL)
    extent = extent_of(moved[0, 0], target[0], (64, 64), 4.0, ())
    assert extent == Box(x0=240, y0=240, x1=400, y1=400)


def test_pixels_that_the_source_never_saw_are_background() -> None:
    source = (View(100, 100, 200, 200), (64, 64))
    target = (View(0, 0, 400, 200), (32, 64))
    moved = move_logits(torch.full((1, 1, 16, 16), 7.0), source, target, MODEL)[0, 0]
    assert (moved[8:] == OUTSIDE_LOGIT).all()  # padding
    assert (moved[:4] == OUTSIDE_LOGIT).all() and (moved[4:8, 8:] == OUTSIDE_LOGIT).all()
    assert (moved[4:8, 4:8] == 7.0).all()


@pytest.mark.parametrize("size", [(100, 20_000), (100, 1600)])
def test_the_first_click_in_a_thin_frame_sees_the_piece_around_it(size: tuple[int, int]) -> None:
    clicks = as_clicks([(700, 50, True), (5, 5, False)])
    assert first_view(clicks, size, SETTINGS) == View(500, 0, 900, 100)
    tall = as_clicks([(50, 700, True)])
    assert first_view(tall, size[::-1], SETTINGS) == View(0, 500, 100, 900)
    assert first_view(as_clicks([(0, 50, True)]), size, SETTINGS) == View(0, 0, 400, 100)


def test_the_first_click_sees_the_whole_of_other_frames() -> None:
    click = as_clicks([(70, 50, True)])
    assert first_view(click, SIZE, SETTINGS) == FULL
    assert first_view(click, (100, 1599), SETTINGS) == View.full((100, 1599))
    assert first_view(click, (100, 9999), ZoomSettings(is_on=False)) == View.full((100, 9999))


def test_the_view_of_a_long_object_in_a_thin_frame_grows_with_it() -> None:
    size, view = (100, 20_000), View(500, 0, 900, 100)
    grown = choose_view(Box(x0=500, y0=30, x1=900, y1=60), size, view, SETTINGS)
    assert grown == View(340, 0, 1060, 100)
    nearly_all = Box(x0=500, y0=30, x1=10_000, y1=60)
    assert choose_view(nearly_all, size, view, SETTINGS) == View.full(size)
