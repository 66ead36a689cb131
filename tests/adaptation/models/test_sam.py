from __future__ import annotations

import threading
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from segment_anything import SamPredictor

from adaptation.errors import InputError, ModelError
from adaptation.models.sam import PromptableSam, digest_of
from adaptation.types import Box, Click, Prompt, as_clicks
from tests.adaptation.conftest import tiny_vit_sam, upscaled

POINTS = as_clicks([(10, 12, True), (60, 30, False), (33, 40, True)])


SCALE = np.array([64 / 80, 38 / 48])
"""What an image of 80x48 pixels becomes at 64, on each axis."""


def model_points(clicks: tuple[Click, ...]) -> torch.Tensor:
    """Pixel centres in the model's frame, ``[1, N, 2]``."""
    points = (np.array([(c.x, c.y) for c in clicks]) + 0.5) * SCALE - 0.5
    return torch.as_tensor(points, dtype=torch.float32)[None]


@pytest.mark.parametrize("n_clicks", [1, 2, 3])
def test_decode_agrees_with_segment_anything_s_predictor(
    sam: PromptableSam, image: NDArray[np.uint8], n_clicks: int
) -> None:
    clicks = POINTS[:n_clicks]
    predictor = SamPredictor(sam.sam)
    predictor.set_image(image)
    expected, expected_iou, _ = predictor.predict_torch(
        model_points(clicks),
        torch.tensor([[int(c.is_positive) for c in clicks]]),
        multimask_output=True,
        return_logits=True,
    )
    with torch.no_grad():
        got = sam.decode(sam.embed(image), [Prompt(clicks=clicks)])
        full = upscaled(sam, got.low_res_logits[:, 1:], sam.embed(image))
    torch.testing.assert_close(got.predicted_iou[:, 1:], expected_iou, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(full, expected, atol=1e-4, rtol=1e-4)


def test_decode_agrees_with_the_predictor_on_a_box_and_a_previous_mask(
    sam: PromptableSam, image: NDArray[np.uint8]
) -> None:
    mask_input = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(1))
    predictor = SamPredictor(sam.sam)
    predictor.set_image(image)
    corners = np.array([[8.0, 4.0, 50.0, 40.0]]) * np.tile(SCALE, 2) - 0.5
    _, expected_iou, expected = predictor.predict_torch(
        None,
        None,
        boxes=torch.as_tensor(corners, dtype=torch.float32),
        mask_input=mask_input[None],
        multimask_output=False,
    )
    with torch.no_grad():
        got = sam.decode(
            sam.embed(image), [Prompt(box=Box(x0=8, y0=4, x1=50, y1=40), mask_input=mask_input)]
        )
    torch.testing.assert_close(got.low_res_logits[:, :1], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got.predicted_iou[:, :1], expected_iou, atol=1e-5, rtol=1e-5)


def test_a_prompt_s_answer_does_not_depend_on_its_neighbours(
    sam: PromptableSam, image: NDArray[np.uint8]
) -> None:
    one, other = sam.embed(image), sam.embed(np.ascontiguousarray(image[:, ::-1]))
    previous = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(2))
    prompts = [
        Prompt(clicks=POINTS[:2]),
        Prompt(clicks=POINTS[:1]),
        Prompt(clicks=POINTS[:1], mask_input=previous),
        Prompt(clicks=POINTS[1:]),
        Prompt(box=Box(x0=1, y0=2, x1=30, y1=20)),
    ]
    embeddings = [one, other, one, other, one]
    with torch.no_grad():
        batch = sam.decode(embeddings, prompts)
        for i, (prompt, embedding) in enumerate(zip(prompts, embeddings, strict=True)):
            alone = sam.decode(embedding, [prompt])
            torch.testing.assert_close(batch[i].low_res_logits, alone.low_res_logits)
            torch.testing.assert_close(batch[i].predicted_iou, alone.predicted_iou)
    assert batch.is_ambiguous.tolist() == [False, True, False, False, False]


def test_an_ambiguous_prompt_shows_the_best_candidate_and_others_the_single_mask(
    sam: PromptableSam, image: NDArray[np.uint8]
) -> None:
    with torch.no_grad():
        got = sam.decode(sam.embed(image), [Prompt(clicks=POINTS[:1]), Prompt(clicks=POINTS)])
    best = 1 + int(got.predicted_iou[0, 1:].argmax())
    assert got.shown_token().tolist() == [best, 0]
    assert torch.equal(got.shown_logits()[0, 0], got.low_res_logits[0, best])
    assert torch.equal(got.shown_logits()[1, 0], got.low_res_logits[1, 0])


def test_gradients_reach_the_given_weights_and_nothing_else(
    sam: PromptableSam, image: NDArray[np.uint8]
) -> None:
    weights = {
        name: value.clone().requires_grad_() for name, value in sam.decoder_parameters().items()
    }
    got = sam.decode(sam.embed(image), [Prompt(clicks=POINTS)], weights=weights)
    (got.low_res_logits[:, 0].square().mean() + got.predicted_iou.sum()).backward()
    assert weights["output_hypernetworks_mlps.0.layers.0.weight"].grad is not None
    assert all(p.grad is None for p in sam.sam.parameters())


def test_given_weights_change_the_answer_and_leave_the_model_alone(
    sam: PromptableSam, image: NDArray[np.uint8]
) -> None:
    before = digest_of(sam.sam)
    embedding, prompt = sam.embed(image), Prompt(clicks=POINTS)
    name = "mask_tokens.weight"
    changed = {name: sam.decoder_parameters()[name] + 1.0}
    with torch.no_grad():
        base = sam.decode(embedding, [prompt])
        other = sam.decode(embedding, [prompt], weights=changed)
        again = sam.decode(embedding, [prompt])
    assert not torch.equal(base.low_res_logits, other.low_res_logits)
    assert torch.equal(base.low_res_logits, again.low_res_logits)
    assert digest_of(sam.sam) == before


def test_half_precision_embeddings_decode_inside_autocast(
    sam: PromptableSam, image: NDArray[np.uint8]
) -> None:
    embedding = sam.embed(image)
    half = replace(embedding, features=embedding.features.half())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got = sam.decode([half, half], [Prompt(clicks=POINTS)] * 2)
    with torch.no_grad():
        exact = sam.decode(embedding, [Prompt(clicks=POINTS)])
    torch.testing.assert_close(
        got.low_res_logits[1].float(), exact.low_res_logits[0], atol=0.1, rtol=0.1
    )


def test_threads_with_weights_of_their_own_do_not_disturb_each_other(
    sam: PromptableSam, image: NDArray[np.uint8]
) -> None:
    embedding, prompt = sam.embed(image), Prompt(clicks=POINTS)
    base = sam.decoder_parameters()
    sessions = [{n: v + 0.01 * i for n, v in base.items()} for i in range(4)]
    with torch.no_grad():
        expected = [sam.decode(embedding, [prompt], weights=s).low_res_logits for s in sessions]
    wrong: list[int] = []

    def work(i: int) -> None:
        with torch.no_grad():
            for _ in range(30):
                got = sam.decode(embedding, [prompt], weights=sessions[i]).low_res_logits
                if not torch.equal(got, expected[i]):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_binary_mask_is_the_sign_of_the_upscaled_logits(
    sam: PromptableSam, image: NDArray[np.uint8]
) -> None:
    embedding = sam.embed(image)
    with torch.no_grad():
        got = sam.decode(embedding, [Prompt(clicks=POINTS)])
        full = upscaled(sam, got.low_res_logits, embedding)[0, 0]
    mask = sam.binary_mask(got.low_res_logits[0, 0], embedding)
    assert mask.shape == image.shape[:2] and mask.dtype == np.bool_
    sure = full.abs().numpy() > 1e-4
    assert sure.mean() > 0.99
    assert (mask == (full.numpy() > 0))[sure].all()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    size=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    drawn=st.tuples(st.integers(1, 90), st.integers(1, 90))
    | st.tuples(st.sampled_from([48, 96, 250, 500]), st.sampled_from([32, 125, 192, 1000])),
    object_at=st.none() | st.tuples(*4 * [st.integers(0, 16)]),
    seed=st.integers(0, 2**31),
)
def test_a_mask_is_that_of_the_whole_frame_with_the_padding_cut_off(
    sam: PromptableSam,
    size: tuple[int, int],
    drawn: tuple[int, int],
    object_at: tuple[int, int, int, int] | None,
    seed: int,
) -> None:
    """Bit for bit: cells that only the padding looks at may be left out, and no others.

    Also where the mask is small, and the rest of the frame is not drawn at all.
    """
    logits = 40 * torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))
    if object_at is not None:
        top, bottom, left, right = object_at
        inside = torch.zeros(16, 16, dtype=torch.bool)
        inside[top:bottom, left:right] = True
        logits = torch.where(inside, logits, -logits.abs())
    embedding = replace(sam.embed(np.zeros((8, 8, 3), np.uint8)), input_size=size)
    frame = F.interpolate(logits[None, None], (64, 64), mode="bilinear", align_corners=False)
    values = frame[0, 0, : size[0], : size[1]].clamp(-32, 32).numpy()
    steps = (values * (32767 / float(np.abs(values).max()))).round().astype(np.int16)
    expected = cv2.resize(steps, drawn[::-1], interpolation=cv2.INTER_LINEAR) > 0
    np.testing.assert_array_equal(sam.binary_mask(logits, embedding, drawn), expected)


def test_an_embedding_of_another_encoder_is_refused(
    sam: PromptableSam, image: NDArray[np.uint8]
) -> None:
    stranger = PromptableSam(tiny_vit_sam(seed=1), "other")
    assert stranger.encoder_id != sam.encoder_id
    with pytest.raises(ModelError, match="encode the image again"):
        sam.decode(stranger.embed(image), [Prompt(clicks=POINTS)])


def test_weights_of_another_model_and_wrong_counts_are_refused(
    sam: PromptableSam, image: NDArray[np.uint8]
) -> None:
    embedding = sam.embed(image)
    with pytest.raises(ModelError, match="'nonsense'"):
        sam.decode(embedding, [Prompt(clicks=POINTS)], weights={"nonsense": torch.zeros(1)})
    with pytest.raises(InputError, match="at least one prompt"):
        sam.decode(embedding, [])
    with pytest.raises(InputError, match="2 prompts and 1 embeddings"):
        sam.decode([embedding], [Prompt(clicks=POINTS)] * 2)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
)
def test_only_rgb_bytes_are_embedded(sam: PromptableSam, bad: NDArray[np.uint8]) -> None:
    with pytest.raises(InputError, match=r"\[H, W, 3\]"):
        sam.embed(bad)


def test_digests_tell_weights_apart_and_are_stable() -> None:
    assert digest_of(tiny_vit_sam(0)) == digest_of(tiny_vit_sam(0))
    assert digest_of(tiny_vit_sam(0)) != digest_of(tiny_vit_sam(1))
