from __future__ import annotations

import math

import pytest
import torch

from adaptation.errors import InputError
from adaptation.types import Box, Click, MaskPrediction, Prompt, as_clicks


@pytest.mark.parametrize("x", [math.nan, math.inf, -math.inf])
def test_a_click_needs_finite_coordinates(x: float) -> None:
    with pytest.raises(InputError, match="finite"):
        Click(x=x, y=0, is_positive=True)


@pytest.mark.parametrize("corners", [(0, 0, 0, 5), (0, 5, 3, 5), (4, 0, 3, 5), (0, 0, math.nan, 1)])
def test_a_box_needs_ordered_finite_corners(corners: tuple[float, ...]) -> None:
    x0, y0, x1, y1 = corners
    with pytest.raises(InputError, match="x0 < x1"):
        Box(x0=x0, y0=y0, x1=x1, y1=y1)


def test_a_prompt_needs_something() -> None:
    with pytest.raises(InputError, match="click or a box"):
        Prompt()


def test_only_a_single_first_click_is_ambiguous() -> None:
    one, box = as_clicks([(1, 2, True)]), Box(x0=0, y0=0, x1=4, y1=3)
    assert Prompt(clicks=one).is_ambiguous
    assert not Prompt(clicks=one * 2).is_ambiguous
    assert not Prompt(clicks=one, box=box).is_ambiguous
    assert not Prompt(box=box).is_ambiguous
    assert not Prompt(clicks=one, mask_input=torch.zeros(1, 4, 4)).is_ambiguous


def test_shown_masks_follow_the_selection_rule_row_by_row() -> None:
    logits = torch.arange(2 * 4).float().reshape(2, 4, 1, 1)
    prediction = MaskPrediction(
        low_res_logits=logits,
        predicted_iou=torch.tensor([[0.9, 0.1, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4]]),
        is_ambiguous=torch.tensor([True, False]),
        upscaled=torch.zeros(2, 1, 1, 1),
    )
    assert prediction.shown_token().tolist() == [2, 0]
    assert prediction.shown_logits().flatten().tolist() == [2.0, 4.0]
    assert prediction[1].shown_logits().item() == 4.0
