from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptation.models.prompts import (
    box_coordinates,
    click_coordinates,
    encode_prompts,
    model_scale,
    resize_image,
    resized,
)
from adaptation.types import Box, Click, Embedding, Prompt, as_clicks

sides = st.integers(1, 5000)


def embedding(original: tuple[int, int], model_size: int = 1024) -> Embedding:
    return Embedding(
        features=torch.zeros(1, 1, 1, 1),
        original_size=original,
        input_size=resized(original, model_size),
        image_id="",
        encoder_id="",
        guide=torch.zeros(1, 1, 3, dtype=torch.uint8),
    )


@given(sides, sides, st.sampled_from([64, 384, 1024]))
def test_the_longest_side_becomes_the_model_s_and_the_other_fits(
    height: int, width: int, model_size: int
) -> None:
    size = resized((height, width), model_size)
    assert max(size) == model_size
    assert 1 <= min(size) <= model_size


@given(sides, sides, st.floats(0, 1), st.floats(0, 1))
def test_clicks_map_pixel_centres_to_pixel_centres_and_back(
    height: int, width: int, u: float, v: float
) -> None:
    frame = embedding((height, width))
    click = Click(x=u * (width - 1), y=v * (height - 1), is_positive=True)
    (x, y), (scale_x, scale_y) = click_coordinates([click], frame)[0], model_scale(frame)
    assert -0.5 <= x <= frame.input_size[1] - 0.5
    assert -0.5 <= y <= frame.input_size[0] - 0.5
    assert (x + 0.5) / scale_x - 0.5 == pytest.approx(click.x, abs=0.01 / scale_x)
    assert (y + 0.5) / scale_y - 0.5 == pytest.approx(click.y, abs=0.01 / scale_y)


def test_a_box_around_everything_spans_the_whole_input() -> None:
    frame = embedding((500, 1000))
    corners = box_coordinates(Box(x0=0, y0=0, x1=1000, y1=500), frame) + 0.5
    assert corners.tolist() == [0.0, 0.0, 1024.0, 512.0]


def test_prompts_of_one_kind_stack() -> None:
    frames = [embedding((10, 20), 64), embedding((20, 10), 64)]
    mask = torch.ones(1, 16, 16)
    prompts = [
        Prompt(clicks=as_clicks([(0, 0, True), (9, 9, False)]), mask_input=mask * i) for i in (1, 2)
    ]
    got = encode_prompts(prompts, frames, torch.device("cpu"))
    assert got.points is not None and got.masks is not None and got.boxes is None
    assert got.points[0].shape == (2, 2, 2)
    assert got.points[1].tolist() == [[1, 0], [1, 0]]
    assert got.masks.shape == (2, 1, 16, 16) and got.masks[1].max() == 2


def test_resizing_keeps_flat_images_flat() -> None:
    image = np.full((30, 50, 3), 77, np.uint8)
    assert (resize_image(image, (60, 100)) == 77).all()
    assert resize_image(image, (30, 50)) is image
