from __future__ import annotations

import torch

from adaptation.predictor.components import pointed_at
from adaptation.types import Box, Embedding, Prompt, as_clicks

SIZE, STRIDE = 32, 2.0


def embedding() -> Embedding:
    return Embedding(
        features=torch.zeros(1, 1, 1, 1),
        original_size=(64, 64),
        input_size=(64, 64),
        image_id="",
        encoder_id="",
        guide=torch.zeros(1, 1, 3, dtype=torch.uint8),
    )


def two_parts() -> torch.Tensor:
    """Foreground in rows and columns 4..9 and 20..25 of the logits: 8..19 and 40..51 in pixels."""
    logits = torch.full((SIZE, SIZE), -3.0)
    logits[4:10, 4:10] = 3.0
    logits[20:26, 20:26] = 3.0
    return logits


def test_only_the_clicked_part_is_shown() -> None:
    prompt = Prompt(clicks=as_clicks([(12, 12, True), (45, 45, False)]))
    shown = pointed_at(two_parts(), prompt, embedding(), STRIDE)
    assert (shown[4:10, 4:10] == 3.0).all()
    assert (shown[20:26, 20:26] == -1.0).all()
    assert (shown[0] == -3.0).all()


def test_an_object_in_two_parts_takes_two_clicks() -> None:
    prompt = Prompt(clicks=as_clicks([(12, 12, True), (45, 45, True)]))
    assert torch.equal(pointed_at(two_parts(), prompt, embedding(), STRIDE), two_parts())


def test_a_box_keeps_what_it_touches() -> None:
    prompt = Prompt(box=Box(x0=36, y0=36, x1=60, y1=60))
    shown = pointed_at(two_parts(), prompt, embedding(), STRIDE)
    assert (shown[4:10, 4:10] == -1.0).all() and (shown[20:26, 20:26] == 3.0).all()


def test_clicks_add_to_a_box() -> None:
    prompt = Prompt(box=Box(x0=36, y0=36, x1=60, y1=60), clicks=as_clicks([(12, 12, True)]))
    assert torch.equal(pointed_at(two_parts(), prompt, embedding(), STRIDE), two_parts())


def test_a_click_just_beside_a_part_counts() -> None:
    prompt = Prompt(clicks=as_clicks([(7, 12, True)]))
    assert (pointed_at(two_parts(), prompt, embedding(), STRIDE)[4:10, 4:10] == 3.0).all()


def test_a_mask_that_no_click_lies_in_stays_as_it_is() -> None:
    far = Prompt(clicks=as_clicks([(60, 4, True)]))
    only_negative = Prompt(clicks=as_clicks([(12, 12, False)]))
    for prompt in (far, only_negative):
        assert torch.equal(pointed_at(two_parts(), prompt, embedding(), STRIDE), two_parts())


def test_one_part_or_none_is_no_question() -> None:
    prompt = Prompt(clicks=as_clicks([(60, 4, True)]))
    empty = torch.full((SIZE, SIZE), -3.0)
    assert pointed_at(empty, prompt, embedding(), STRIDE) is empty
