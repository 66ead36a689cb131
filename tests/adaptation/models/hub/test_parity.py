"""Masks and scores are those of `transformers`' own predictor, for every family and prompt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import BatchFeature

from adaptation.models.prompts import resize_image
from adaptation.models.sam import PromptableSam
from adaptation.types import Box, Embedding, MaskPrediction, Prompt, as_clicks
from tests.adaptation.models.hub.conftest import Loaded

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
CLICKS = as_clicks([(10, 12, True), (40, 30, False), (33, 44, True)])
BOX = Box(x0=8, y0=5, x1=50, y1=41)
"""In a picture of the frame's size, where the library's coordinates and Strop's agree."""


def previous(seed: int = 1) -> Tensor:
    return 3 * torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(seed))


PROMPTS = {
    "a click": Prompt(clicks=CLICKS[:1]),
    "three clicks": Prompt(clicks=CLICKS),
    "a box": Prompt(box=BOX),
    "a box and clicks": Prompt(clicks=CLICKS[:2], box=BOX),
    "a click and the mask before": Prompt(clicks=CLICKS[:1], mask_input=previous()),
    "everything": Prompt(clicks=CLICKS, box=BOX, mask_input=previous()),
}


def square(side: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def pixel_values(image: NDArray[np.uint8]) -> Tensor:
    """As the folder's processor says; written out, so that a wrong one is seen."""
    mean, std = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.25, 0.3])
    return torch.from_numpy(((image / 255 - mean) / std).astype(np.float32)).permute(2, 0, 1)[None]


def as_inputs(prompt: Prompt) -> dict[str, Tensor]:
    inputs: dict[str, Tensor] = {}
    if prompt.clicks:
        inputs["input_points"] = torch.tensor([[[[c.x, c.y] for c in prompt.clicks]]])
        inputs["input_labels"] = torch.tensor([[[int(c.is_positive) for c in prompt.clicks]]])
    if prompt.box is not None:
        box = prompt.box  # Strop's ends outside of its last pixel, the library's in its middle
        inputs["input_boxes"] = torch.tensor([[[box.x0, box.y0, box.x1, box.y1]]]) - 0.5
    if prompt.mask_input is not None:
        inputs["input_masks"] = prompt.mask_input[None]
    return inputs


def answer_of(loaded: Loaded, image: NDArray[np.uint8], prompt: Prompt, several: bool) -> Any:
    with torch.no_grad():
        return loaded.model(
            pixel_values=pixel_values(image), multimask_output=several, **as_inputs(prompt)
        )


def decode(sam: PromptableSam, embedding: Embedding, prompt: Prompt) -> MaskPrediction:
    with torch.no_grad():
        return sam.decode(embedding, [prompt])


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_the_three_candidates_are_the_library_s(loaded: Loaded, prompt: Prompt) -> None:
    image = square(loaded.sam.input_size)
    wanted = answer_of(loaded, image, prompt, several=True)
    got = decode(loaded.sam, loaded.sam.embed(image), prompt)
    masks, scores = got.low_res_logits[0, 1:], got.predicted_iou[0, 1:]
    if loaded.family == "sam_hq":  # offers them best first
        order = scores.argsort(descending=True)[: wanted.pred_masks.shape[2]]
        masks, scores = masks[order], scores[order]
    torch.testing.assert_close(masks, wanted.pred_masks[0, 0], **CLOSE)
    torch.testing.assert_close(scores, wanted.iou_scores[0, 0], **CLOSE)
    assert masks.std() > 1e-3  # random, not empty


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_the_single_mask_is_the_library_s(loaded: Loaded, prompt: Prompt) -> None:
    image = square(loaded.sam.input_size)
    wanted = answer_of(loaded, image, prompt, several=False)
    got = decode(loaded.sam, loaded.sam.embed(image), prompt)
    torch.testing.assert_close(got.low_res_logits[:, :1], wanted.pred_masks[0], **CLOSE)
    torch.testing.assert_close(got.predicted_iou[:, :1], wanted.iou_scores[0], **CLOSE)


def test_a_stable_single_mask_is_kept(loaded: Loaded) -> None:
    """SAM 2 replaces one whose border the threshold decides; this one's logits lie far apart."""
    if loaded.family in ("sam", "sam_hq"):
        pytest.skip("this family keeps every single mask")
    image, prompt = square(loaded.sam.input_size), PROMPTS["three clicks"]
    embedding = loaded.sam.embed(image)
    weights = {
        name: 1000 * value if name.startswith("output_hypernetworks_mlps.0.proj_out") else value
        for name, value in loaded.sam.decoder_parameters().items()
    }
    with torch.no_grad():
        weak = loaded.sam.decode(embedding, [prompt])
        strong = loaded.sam.decode(embedding, [prompt], weights=weights)
        decoder = loaded.model.mask_decoder
        decoder.output_hypernetworks_mlps[0].proj_out.weight.mul_(1000)
        decoder.output_hypernetworks_mlps[0].proj_out.bias.mul_(1000)
        wanted = answer_of(loaded, image, prompt, several=False).pred_masks[0, 0, 0]
        decoder.output_hypernetworks_mlps[0].proj_out.weight.div_(1000)
        decoder.output_hypernetworks_mlps[0].proj_out.bias.div_(1000)
    best = 1 + int(weak.predicted_iou[0, 1:].argmax())
    assert torch.equal(weak.low_res_logits[0, 0], weak.low_res_logits[0, best])
    assert not torch.equal(strong.low_res_logits[0, 0], strong.low_res_logits[0, best])
    torch.testing.assert_close(strong.low_res_logits[0, 0], wanted, atol=1e-1, rtol=1e-4)


def test_a_batch_of_images_and_prompts_is_each_on_its_own(loaded: Loaded) -> None:
    images = [square(loaded.sam.input_size, seed) for seed in range(3)]
    prompts = [PROMPTS["a click"], PROMPTS["everything"], PROMPTS["a click"]]
    embeddings = [loaded.sam.embed(image) for image in images]
    with torch.no_grad():
        got = loaded.sam.decode(embeddings, prompts)
    for i, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        wanted = answer_of(loaded, image, prompt, several=False)
        torch.testing.assert_close(got.low_res_logits[i, 0], wanted.pred_masks[0, 0, 0], **CLOSE)


def test_masks_of_a_picture_lie_where_the_library_s_processor_puts_them(
    loaded: Loaded, picture: NDArray[np.uint8]
) -> None:
    """From the picture's own pixels to the mask at its size, both ways by the library's code."""
    processor = processor_of(loaded)
    seen: BatchFeature = processor(picture, return_tensors="pt")
    got = loaded.sam.embed(picture)
    frame = loaded.sam._frame(resize_image(picture, got.input_size))
    # Both resize bytes; one rounds to the nearest, the other cuts: a level in 255, of std 0.2.
    assert (frame - seen["pixel_values"]).abs().max() < 1.5 / 255 / 0.2
    coarse = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(3))
    logits = torch.nn.functional.interpolate(coarse, (16, 16), mode="bicubic")
    sizes = (seen["original_sizes"],)
    if "reshaped_input_sizes" in seen:
        sizes += (seen["reshaped_input_sizes"],)
    wanted = processor.post_process_masks([logits], *sizes, binarize=False)[0][0, 0].numpy()
    mask = loaded.sam.binary_mask(logits[0, 0], got)
    # Strop interpolates by way of the frame, some of the processors do not.
    sure = np.abs(wanted) > 0.15
    assert sure.mean() > 0.7 and 0.2 < mask.mean() < 0.8
    assert ((wanted > 0) == mask)[sure].all()


def processor_of(loaded: Loaded) -> Any:
    """The family's image processor, set to the small frame."""
    side = loaded.sam.input_size
    normal = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    if loaded.family in ("sam", "sam_hq"):
        return transformers.SamImageProcessor(
            size={"longest_edge": side}, pad_size={"height": side, "width": side}, **normal
        )
    kind = "Sam3ImageProcessor" if loaded.family == "sam3_tracker" else "Sam2ImageProcessor"
    return getattr(transformers, kind)(size={"height": side, "width": side}, **normal)
