"""Borders at the image's edges, on pictures of which the edge is known."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from adaptation.errors import SettingsError
from adaptation.models.prompts import guide_of
from adaptation.predictor.guided_filter import GuidedFilter, at_edges
from adaptation.predictor.settings import EdgeSettings
from adaptation.types import Embedding, Prompt, as_clicks

GRID, STRIDE = 48, 2.0


def embedding(guide: NDArray[np.uint8]) -> Embedding:
    height, width = guide.shape[:2]
    return Embedding(
        features=torch.zeros(1, 1, 1, 1),
        original_size=(2 * height, 2 * width),
        input_size=(2 * height, 2 * width),
        image_id="",
        encoder_id="",
        guide=torch.from_numpy(guide),
    )


def split_at(column: int, shape: tuple[int, int] = (GRID, GRID)) -> NDArray[np.uint8]:
    """Orange left of a column, blue from it on: the red channel alone would show the edge too."""
    picture = np.zeros((*shape, 3), np.uint8)
    picture[:, :column] = (200, 120, 40)
    picture[:, column:] = (60, 90, 180)
    return picture


def ramp(border: float) -> torch.Tensor:
    """Logits that fall from left to right and are 0 at a column."""
    columns = torch.arange(GRID, dtype=torch.float32)
    return (0.5 * (border - columns)).expand(GRID, GRID).contiguous()


def moved(
    logits: torch.Tensor, guide: NDArray[np.uint8], prompt: Prompt, radius: float = 0.1
) -> NDArray[np.bool_]:
    settings = EdgeSettings(radius=radius)
    return (at_edges(logits, prompt, embedding(guide), STRIDE, settings) > 0).numpy()


INSIDE = Prompt(clicks=as_clicks([(10.0, 48.0, True)]))


@pytest.mark.parametrize("off", [-2, -1, 1, 2])
def test_a_border_next_to_an_edge_moves_onto_it(off: int) -> None:
    mask = moved(ramp(24 + off - 0.5), split_at(24), INSIDE)
    expected = np.zeros((GRID, GRID), bool)
    expected[:, :24] = True
    np.testing.assert_array_equal(mask, expected)


def test_where_there_is_no_edge_nothing_moves() -> None:
    mask = moved(ramp(23.5), np.full((GRID, GRID, 3), 90, np.uint8), INSIDE)
    np.testing.assert_array_equal(mask, (ramp(23.5) > 0).numpy())


def test_an_edge_out_of_reach_pulls_nothing() -> None:
    mask = moved(ramp(11.5), split_at(36), INSIDE)
    np.testing.assert_array_equal(mask, (ramp(11.5) > 0).numpy())


def test_a_click_that_the_edge_would_contradict_stays_obeyed() -> None:
    # The decoder holds columns up to 25 for the object; column 25 was clicked, beyond the edge.
    clicked = Prompt(clicks=as_clicks([(51.0, 48.0, True)]))
    assert not moved(ramp(26.5), split_at(24), INSIDE)[24, 25]
    mask = moved(ramp(26.5), split_at(24), clicked)
    assert mask[24, 25] and not mask[4, 25]


def test_a_click_that_the_decoder_contradicts_itself_changes_nothing() -> None:
    beyond = Prompt(clicks=as_clicks([(80.0, 48.0, True)]))
    plain, clicked = (moved(ramp(26.5), split_at(24), p) for p in (INSIDE, beyond))
    np.testing.assert_array_equal(plain, clicked)


def test_two_views_in_turn_are_drawn_on_their_own_pictures() -> None:
    near, flat = embedding(split_at(24)), embedding(np.full((GRID, GRID, 3), 90, np.uint8))
    settings = EdgeSettings(radius=0.1)
    masks = [
        (at_edges(ramp(25.5), INSIDE, e, STRIDE, settings) > 0).numpy().sum() // GRID
        for e in (near, flat, near, flat)
    ]
    assert masks == [24, 26, 24, 26]


def test_many_views_drawn_by_many_threads_keep_their_own_pictures() -> None:
    edges = range(18, 31)
    views = [embedding(split_at(edge)) for edge in edges]
    settings = EdgeSettings(radius=0.1)

    def border(index: int) -> int:
        column, view = edges[index % len(edges)], views[index % len(edges)]
        drawn = at_edges(ramp(column + 1.5), INSIDE, view, STRIDE, settings)
        return int((drawn > 0).sum()) // GRID - column

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(border, range(200))) == [0] * 200


def test_logits_beyond_all_measure_are_drawn_without_a_warning() -> None:
    sure = torch.where(ramp(24.5) > 0, 1e4, -1e4)
    assert np.array_equal(
        moved(sure, split_at(25), Prompt(clicks=as_clicks([(4.0, 40.0, True)]))), (sure > 0).numpy()
    )


def test_padding_goes_on_as_the_image_ends() -> None:
    guide = split_at(24, (30, GRID))
    drawn = at_edges(ramp(25.5), INSIDE, embedding(guide), STRIDE, EdgeSettings(radius=0.1))
    assert drawn.shape == (GRID, GRID) and drawn.dtype == torch.float32
    assert torch.equal(drawn[30:], drawn[29:30].expand(18, GRID))


@given(st.integers(0, 2**31), st.integers(1, 6))
def test_the_filter_solves_the_regression_of_its_paper(seed: int, radius: int) -> None:
    """Equations 19 and 20 by least squares in one window far from the image's border."""
    rng = np.random.default_rng(seed)
    side, epsilon = 2 * radius + 1, 1e-2
    guide = rng.random((side, side, 3), dtype=np.float32)
    values = rng.random((side, side), dtype=np.float32)
    pixels, wanted = guide.reshape(-1, 3).astype(np.float64), values.reshape(-1)
    centred = pixels - pixels.mean(0)
    covariance = centred.T @ centred / len(pixels) + epsilon * np.eye(3)
    slope = np.linalg.solve(covariance, centred.T @ (wanted - wanted.mean()) / len(pixels))
    offset = wanted.mean() - slope @ pixels.mean(0)
    # The same picture tiled is the same in every window of this size.
    many = GuidedFilter(np.tile(guide, (3, 3, 1)), radius, epsilon)(np.tile(values, (3, 3)))
    middle = many[side : 2 * side, side : 2 * side]
    expected = (pixels @ slope + offset).reshape(side, side)
    np.testing.assert_allclose(middle, expected, atol=2e-4)


def test_values_that_are_linear_in_the_colour_come_back() -> None:
    guide = np.random.default_rng(0).random((40, 40, 3), dtype=np.float32)
    values = 0.5 * guide[..., 0] - 0.25 * guide[..., 2]
    np.testing.assert_allclose(GuidedFilter(guide, 4, 1e-9)(values), values, atol=1e-3)


def test_a_grey_guide_is_as_good_as_its_one_channel() -> None:
    rng = np.random.default_rng(1)
    grey = (rng.random((40, 40)) > 0.5).astype(np.float32)
    values = np.asarray(0.8 * grey - 0.4 + 0.05 * rng.standard_normal((40, 40)), np.float32)
    filtered = GuidedFilter(np.repeat(grey[..., None], 3, axis=2), 4, 1e-4)(values)
    # Averaged over windows of 81 pixels, twice: what is left of the noise is below 0.02.
    np.testing.assert_allclose(filtered, 0.8 * grey - 0.4, atol=0.04)


def test_the_guide_lies_on_the_grid_of_the_logits() -> None:
    small = np.zeros((5, 8, 3), np.uint8)
    small[:, 2:4] = 80
    guide = guide_of(small, 2)
    assert guide.shape == (3, 4, 3)
    assert (guide[:, 1] == 80).all() and guide.sum() == 3 * 3 * 80


@pytest.mark.parametrize("wrong", [{"radius": 0.0}, {"radius": 0.5}, {"epsilon": 0.0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="edges"):
        EdgeSettings(**wrong)  # type: ignore[arg-type]
