"""The part of the frame that an example is decoded on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adaptation.errors import ModelError
from adaptation.learning.examples import TrainingExample, window_around
from adaptation.models.compact.model import build_compact
from adaptation.models.prompts import click_coordinates
from adaptation.models.regions import LARGEST_WINDOW
from adaptation.models.sam import PromptableSam
from adaptation.types import LOGIT_STRIDE, Box, Click, Embedding, Prompt, Window

FRAME = 384
GRID = FRAME // LOGIT_STRIDE


def embedding_of(height: int, width: int) -> Embedding:
    scale = FRAME / max(height, width)
    return Embedding(
        features=torch.zeros(1, 1, 1, 1),
        original_size=(height, width),
        input_size=(round(height * scale), round(width * scale)),
        image_id="an image",
        encoder_id="an encoder",
        guide=torch.zeros(1, 1, 3, dtype=torch.uint8),
    )


def labels_with(x: int, y: int, width: int, height: int) -> torch.Tensor:
    labels = torch.zeros(GRID, GRID, dtype=torch.int8)
    labels[y : y + height, x : x + width] = 1
    return labels


@given(
    x=st.integers(0, 150),
    y=st.integers(0, 150),
    size=st.integers(1, 40),
    click=st.tuples(st.floats(0, 767), st.floats(0, 511)),
)
def test_a_window_holds_the_object_and_the_clicks(
    x: int, y: int, size: int, click: tuple[float, float]
) -> None:
    embedding = embedding_of(512, 768)
    labels = labels_with(x, y, size, size)
    prompt = Prompt(clicks=(Click(x=click[0], y=click[1], is_positive=False),))
    window = window_around(labels, prompt, embedding, FRAME)
    if window is None:
        return
    inside = labels[window.pixels(LOGIT_STRIDE)]
    assert int((inside == 1).sum()) == int((labels == 1).sum())
    at = click_coordinates(prompt.clicks, embedding)[0] - (window.x, window.y)
    assert (at >= -0.5).all() and (at <= (window.width - 0.5, window.height - 0.5)).all()
    assert window.width * window.height <= LARGEST_WINDOW * FRAME**2
    assert window.x + window.width <= FRAME and window.y + window.height <= FRAME


def test_a_window_holds_the_box() -> None:
    box = Box(x0=10, y0=20, x1=200, y1=150)
    window = window_around(labels_with(40, 40, 5, 5), Prompt(box=box), embedding_of(384, 384), 384)
    assert window is not None
    assert window.x <= 9 and window.y <= 19
    assert window.x + window.width >= 200 and window.y + window.height >= 150


def test_large_and_absent_objects_are_taught_on_the_whole_frame() -> None:
    prompt, embedding = Prompt(clicks=(Click(x=9, y=9, is_positive=True),)), embedding_of(384, 384)
    assert window_around(labels_with(0, 0, 180, 180), prompt, embedding, FRAME) is None
    assert window_around(labels_with(0, 0, 0, 0), prompt, embedding, FRAME) is None


def test_a_lesson_within_a_window_keeps_that_part_of_its_labels() -> None:
    labels = torch.arange(GRID * GRID, dtype=torch.int64).reshape(GRID, GRID)
    lesson = TrainingExample(prompt=a_prompt(), embedding=lambda: embedding_of(9, 9), labels=labels)
    part = lesson.within(Window(x=16, y=32, width=64, height=40)).labels
    assert torch.equal(part, labels[16:36, 8:40])


@pytest.fixture(scope="module")
def compact() -> PromptableSam:
    torch.manual_seed(0)
    return PromptableSam(build_compact(input_size=96, dim=16), "tiny")


def a_prompt(with_mask: bool = True) -> Prompt:
    clicks = (Click(x=40, y=30, is_positive=True), Click(x=60, y=50, is_positive=False))
    logits = torch.linspace(-3, 3, 48 * 48).reshape(1, 48, 48)
    return Prompt(clicks=clicks, mask_input=logits if with_mask else None)


@pytest.mark.parametrize(
    "prompt", [a_prompt(), a_prompt(False), replace(a_prompt(), box=Box(x0=8, y0=9, x1=50, y1=60))]
)
def test_the_whole_frame_as_a_window_answers_as_the_frame(
    compact: PromptableSam, prompt: Prompt
) -> None:
    image = np.random.default_rng(0).integers(0, 255, (96, 80, 3)).astype(np.uint8)
    embedding = compact.embed(image)
    whole = compact.decode(embedding, [prompt])
    within = compact.decode_within(embedding, prompt, Window(x=0, y=0, width=96, height=96))
    torch.testing.assert_close(within.low_res_logits, whole.low_res_logits)
    torch.testing.assert_close(within.predicted_iou, whole.predicted_iou)
    assert torch.equal(within.is_ambiguous, whole.is_ambiguous)


def test_a_window_answers_with_its_own_part_and_teaches(compact: PromptableSam) -> None:
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3)).astype(np.uint8)
    weights = {n: p.clone().requires_grad_() for n, p in compact.decoder_parameters().items()}
    window = Window(x=16, y=8, width=64, height=56)
    answer = compact.decode_within(compact.embed(image), a_prompt(), window, weights=weights)
    assert answer.low_res_logits.shape == (1, 4, 28, 32)
    answer.low_res_logits[:, 0].mean().backward()
    assert any(w.grad is not None and bool(w.grad.abs().sum() > 0) for w in weights.values())


def test_a_model_that_reads_whole_frames_only_says_so(sam: PromptableSam) -> None:
    embedding = sam.embed(np.zeros((64, 64, 3), np.uint8))
    assert not sam.reads_windows
    with pytest.raises(ModelError, match="whole frames only"):
        sam.decode_within(embedding, a_prompt(), Window(x=0, y=0, width=32, height=32))
