"""No more of the frame is decoded than an object needs, and its mask stays the same."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adaptation.masks import iou
from adaptation.models.compact.model import load_compact
from adaptation.models.regions import LARGEST_WINDOW, UNREAD_LOGIT, leaves, region_of
from adaptation.models.sam import PromptableSam
from adaptation.types import Click, Prompt, Window, as_clicks

FRAME = 384


@pytest.fixture(scope="module")
def compact() -> PromptableSam:
    return PromptableSam(load_compact(), "compact")


def scene(radius: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A disk with a notch on a busy ground, 288 x 384, and its mask."""
    rng = np.random.default_rng(0)
    ground = cv2.resize(rng.normal(120, 30, (36, 48, 3)).astype(np.float32), (384, 288))
    stencil = np.zeros((288, 384), np.uint8)
    cv2.circle(stencil, (150, 140), radius, (1,), -1)
    cv2.rectangle(stencil, (150, 140), (150 + radius, 150), (0,), -1)
    ground[stencil > 0] = (200, 90, 60)
    noisy = ground + rng.normal(0, 6, ground.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), stencil > 0


def fed_back(compact: PromptableSam, image: NDArray[np.uint8], first: Click) -> Prompt:
    """The prompt of a second click, beside the notch."""
    with torch.no_grad():
        shown = compact.decode(compact.embed(image), [Prompt(clicks=(first,))]).shown_logits()
    second = Click(x=165.0, y=145.0, is_positive=False)
    return Prompt(clicks=(first, second), mask_input=shown[0])


@pytest.mark.parametrize("radius", [24, 60])
def test_the_mask_of_a_region_is_that_of_the_whole_frame(
    compact: PromptableSam, radius: int
) -> None:
    image, truth = scene(radius)
    embedding = compact.embed(image)
    prompt = fed_back(compact, image, Click(x=130.0, y=130.0, is_positive=True))
    window = region_of(prompt, embedding, FRAME)
    assert window is not None and window.width * window.height < 0.5 * FRAME**2
    with torch.no_grad():
        whole = compact.decode(embedding, [prompt])
        region = compact.decode_region(embedding, prompt)
    assert region.low_res_logits.shape == whole.low_res_logits.shape
    assert region.upscaled.shape == whole.upscaled.shape
    unread = torch.ones_like(whole.low_res_logits, dtype=torch.bool)
    rows, columns = window.pixels(2)
    unread[..., rows, columns] = False
    assert (region.low_res_logits[unread] == UNREAD_LOGIT).all()
    masks = [compact.binary_mask(p.shown_logits()[0, 0], embedding) for p in (whole, region)]
    assert iou(*masks) > 0.95
    assert abs(iou(masks[0], truth) - iou(masks[1], truth)) < 0.03


def test_a_region_holds_the_mask_the_clicks_and_a_margin(compact: PromptableSam) -> None:
    embedding = compact.embed(scene(24)[0])
    logits = torch.full((1, 192, 192), -4.0)
    logits[0, 100:110, 40:60] = 4  # y 200 to 220, x 80 to 120 of the frame
    prompt = Prompt(clicks=as_clicks([(100, 210, True), (200, 205, False)]), mask_input=logits)
    window = region_of(prompt, embedding, FRAME)
    assert window == Window(x=48, y=168, width=192, height=88)


def test_the_whole_frame_is_decoded_where_little_is_known_or_gained(
    compact: PromptableSam,
) -> None:
    embedding = compact.embed(scene(24)[0])
    click = as_clicks([(100, 100, True)])
    nothing = torch.full((1, 192, 192), -4.0)
    everything = -nothing
    assert LARGEST_WINDOW < 1
    for mask in (None, nothing, everything):
        prompt = Prompt(clicks=click, mask_input=mask)
        assert region_of(prompt, embedding, FRAME) is None
        with torch.no_grad():
            whole = compact.decode(embedding, [prompt])
            region = compact.decode_region(embedding, prompt)
        assert torch.equal(region.low_res_logits, whole.low_res_logits)


def test_a_mask_that_leaves_its_region_is_decoded_on_the_whole_frame(
    compact: PromptableSam,
) -> None:
    # A few pixels are fed back of an object that is far larger than what they and a margin cover.
    image, truth = scene(110)
    embedding = compact.embed(image)
    logits = torch.full((1, 192, 192), -1.0)
    logits[0, 58:64, 48:54] = 1
    prompt = Prompt(clicks=as_clicks([(100, 120, True), (110, 125, True)]), mask_input=logits)
    assert region_of(prompt, embedding, FRAME) is not None
    with torch.no_grad():
        whole = compact.decode(embedding, [prompt])
        region = compact.decode_region(embedding, prompt)
    assert iou(compact.binary_mask(whole.shown_logits()[0, 0], embedding), truth) > 0.5
    assert torch.equal(region.low_res_logits, whole.low_res_logits)


def test_an_edge_of_the_frame_is_no_edge_to_leave_by() -> None:
    window = Window(x=0, y=64, width=128, height=128)
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[10:20, 0] = True
    assert not leaves(mask, window, FRAME)
    for place in ((0, 5), (63, 5), (30, 63)):
        grown = mask.clone()
        grown[place] = True
        assert leaves(grown, window, FRAME)


def test_models_that_read_whole_frames_only_decode_them(sam: PromptableSam) -> None:
    image = np.zeros((48, 64, 3), np.uint8)
    embedding = sam.embed(image)
    mask = torch.full((1, sam.low_res_size, sam.low_res_size), -4.0)
    mask[0, 5, 5] = 4
    prompt = Prompt(clicks=as_clicks([(20, 20, True)]), mask_input=mask)
    with torch.no_grad():
        whole = sam.decode(embedding, [prompt])
        assert torch.equal(
            sam.decode_region(embedding, prompt).low_res_logits, whole.low_res_logits
        )
