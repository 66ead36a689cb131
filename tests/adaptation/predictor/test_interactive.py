from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adaptation.errors import InputError
from adaptation.models.sam import PromptableSam
from adaptation.predictor.guided_filter import at_edges
from adaptation.predictor.interactive import (
    Answer,
    Encode,
    InteractivePredictor,
    ObjectState,
    contradicted,
)
from adaptation.predictor.settings import EdgeSettings, ZoomSettings
from adaptation.predictor.zoom import View
from adaptation.types import Box, Embedding, MaskPrediction, Prompt, as_clicks

SIZE = (200, 320)
CLICKS = as_clicks([(150, 90, True), (170, 100, False), (140, 95, True), (30, 30, False)])


@pytest.fixture(scope="module")
def photo() -> NDArray[np.uint8]:
    return np.random.default_rng(3).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def interaction(sam: PromptableSam) -> InteractivePredictor:
    return InteractivePredictor(sam, ZoomSettings())


def encoder(sam: PromptableSam, photo: NDArray[np.uint8]) -> Encode:
    def encode(view: View) -> Embedding:
        return sam.embed(np.ascontiguousarray(photo[view.y0 : view.y1, view.x0 : view.x1]))

    return encode


def state_with_object(logits_box: tuple[int, int, int, int], n_clicks: int = 1) -> ObjectState:
    """As if the whole image was decoded and showed a rectangle, in low-res rows and columns."""
    y0, y1, x0, x1 = logits_box
    logits = torch.full((1, 1, 16, 16), -4.0)
    logits[..., y0:y1, x0:x1] = 4.0
    return ObjectState(
        clicks=CLICKS[:n_clicks],
        box=None,
        view=View.full(SIZE),
        input_size=(40, 64),
        low_res_logits=logits,
    )


def drawn(sam: PromptableSam, answer: Answer) -> NDArray[np.bool_]:
    """The shown mask in its view, with its border at the image's edges."""
    logits = answer.shown_logits[0, 0]
    moved = at_edges(logits, answer.prompt, answer.embedding, 4.0, EdgeSettings())
    mask, plain = (sam.binary_mask(z, answer.embedding) for z in (moved, logits))
    return mask if mask.any() else plain


def test_the_first_click_is_decoded_on_the_whole_image_as_ambiguous(
    interaction: InteractivePredictor, sam: PromptableSam, photo: NDArray[np.uint8]
) -> None:
    answer = interaction.answer(encoder(sam, photo), SIZE, CLICKS[:1])
    assert answer.view == View.full(SIZE)
    assert answer.prompt.is_ambiguous and answer.token in (1, 2, 3)
    assert answer.candidate_tokens()[0] == answer.token
    assert sorted(answer.candidate_tokens()) == [1, 2, 3]
    assert np.array_equal(interaction.mask(answer), drawn(sam, answer))
    plain = InteractivePredictor(sam, ZoomSettings(), edges=EdgeSettings(is_on=False))
    expected = sam.binary_mask(answer.shown_logits[0, 0], answer.embedding)
    assert np.array_equal(plain.mask(answer), expected)


def whole_and_parts(sam: PromptableSam) -> tuple[InteractivePredictor, InteractivePredictor]:
    """One that shows masks with all their parts, and one that leaves some out."""
    plain = EdgeSettings(is_on=False)
    whole = InteractivePredictor(sam, ZoomSettings(), only_parts=False, edges=plain)
    return whole, InteractivePredictor(sam, ZoomSettings(), edges=plain)


def test_parts_that_nothing_points_at_are_left_out_unless_they_are_wanted(
    sam: PromptableSam, photo: NDArray[np.uint8]
) -> None:
    whole, parts = whole_and_parts(sam)
    everything = whole.mask(whole.answer(encoder(sam, photo), SIZE, CLICKS[:1]))
    clicked = parts.mask(parts.answer(encoder(sam, photo), SIZE, CLICKS[:1]))
    assert not (clicked & ~everything).any()
    assert clicked.sum() < everything.sum()


def test_masks_that_are_not_shown_lose_the_same_parts(
    sam: PromptableSam, photo: NDArray[np.uint8]
) -> None:
    whole, parts = whole_and_parts(sam)
    answer = parts.answer(encoder(sam, photo), SIZE, CLICKS[:1])
    n_smaller = 0
    for token in answer.candidate_tokens()[1:]:
        everything, kept = whole.mask(answer, token), parts.mask(answer, token)
        assert kept.any() and not (kept & ~everything).any()
        n_smaller += int(kept.sum() < everything.sum())
    assert n_smaller


def test_a_small_object_is_decoded_on_a_crop_and_its_mask_lands_back(
    interaction: InteractivePredictor, sam: PromptableSam, photo: NDArray[np.uint8]
) -> None:
    state = state_with_object((4, 6, 7, 9))
    answer = interaction.answer(encoder(sam, photo), SIZE, CLICKS[:2], state=state)
    view = answer.view
    assert view != View.full(SIZE) and view.size == (72, 72)
    assert answer.prompt.mask_input is not None and (answer.prompt.mask_input > 0).any()
    assert answer.token == 0
    mask = interaction.mask(answer)
    assert mask.shape == SIZE
    inside = drawn(sam, answer)
    assert np.array_equal(mask[view.y0 : view.y1, view.x0 : view.x1], inside)
    assert mask.sum() == inside.sum()


def test_a_box_is_zoomed_on_at_once(
    interaction: InteractivePredictor, sam: PromptableSam, photo: NDArray[np.uint8]
) -> None:
    answer = interaction.answer(
        encoder(sam, photo), SIZE, (), box=Box(x0=100, y0=50, x1=140, y1=90)
    )
    assert answer.view == View(84, 34, 156, 106)
    assert answer.prompt.box == Box(x0=16, y0=16, x1=56, y1=56)


def test_resuming_without_a_state_gives_what_was_shown_click_by_click(
    interaction: InteractivePredictor, sam: PromptableSam, photo: NDArray[np.uint8]
) -> None:
    encode, state = encoder(sam, photo), None
    for n in range(1, len(CLICKS) + 1):
        answer = interaction.answer(encode, SIZE, CLICKS[:n], state=state)
        state = answer.state
    again = interaction.resume(encode, SIZE, CLICKS)
    assert torch.equal(again.shown_logits, answer.shown_logits)
    assert again.view == answer.view


def test_resuming_with_a_state_decodes_only_the_new_clicks(
    interaction: InteractivePredictor, sam: PromptableSam, photo: NDArray[np.uint8]
) -> None:
    encode, views = encoder(sam, photo), []

    def counted(view: View) -> Embedding:
        views.append(view)
        return encode(view)

    state = interaction.answer(encode, SIZE, CLICKS[:2]).state
    interaction.resume(counted, SIZE, CLICKS[:3], state=state)
    assert len(views) == 1


def test_a_moved_point_starts_the_object_again(
    interaction: InteractivePredictor, sam: PromptableSam, photo: NDArray[np.uint8]
) -> None:
    encode = encoder(sam, photo)
    state = interaction.resume(encode, SIZE, CLICKS[:2]).state
    moved = (as_clicks([(151, 90, True)])[0], *CLICKS[1:3])
    assert not state.precedes(moved, None)
    fresh = interaction.resume(encode, SIZE, moved)
    assert torch.equal(
        interaction.resume(encode, SIZE, moved, state=state).shown_logits, fresh.shown_logits
    )


def test_a_corrector_s_logits_are_shown_and_fed_back(
    sam: PromptableSam, photo: NDArray[np.uint8]
) -> None:
    def paint(prediction: MaskPrediction, prompt: Prompt, embedding: Embedding) -> torch.Tensor:
        return torch.full_like(prediction.shown_logits(), 99.0)

    interaction = InteractivePredictor(sam, ZoomSettings(), corrector=paint)
    answer = interaction.answer(encoder(sam, photo), SIZE, CLICKS[:1])
    assert interaction.mask(answer).all()
    assert answer.state.low_res_logits.unique().tolist() == [32.0]


def test_only_negative_clicks_outside_of_the_crop_fall_back_to_the_whole_image(
    interaction: InteractivePredictor, sam: PromptableSam, photo: NDArray[np.uint8]
) -> None:
    state = state_with_object((4, 6, 7, 9), n_clicks=0)
    far = as_clicks([(10, 190, False)])
    answer = interaction.answer(encoder(sam, photo), SIZE, far, state=state)
    assert answer.view == View.full(SIZE)


def test_the_next_view_is_the_one_the_next_click_uses(
    interaction: InteractivePredictor, sam: PromptableSam, photo: NDArray[np.uint8]
) -> None:
    encode = encoder(sam, photo)
    answer: Answer = interaction.answer(encode, SIZE, CLICKS[:1])
    wanted = interaction.next_view(answer)
    following = interaction.answer(encode, SIZE, CLICKS[:1] * 2, state=answer.state)
    assert following.view == wanted


@pytest.mark.parametrize("point", [(-1, 5), (320, 5), (5, 200), (5, -3)])
def test_clicks_outside_of_the_image_are_refused(
    interaction: InteractivePredictor,
    sam: PromptableSam,
    photo: NDArray[np.uint8],
    point: tuple[float, float],
) -> None:
    with pytest.raises(InputError, match="outside of the image of 320x200"):
        interaction.answer(encoder(sam, photo), SIZE, as_clicks([(*point, True)]))


@pytest.mark.parametrize(("scale", "n_wrong"), [(1, 2), (2, 2), (0.5, 2)])
def test_contradicted_clicks_are_counted_at_any_size(scale: float, n_wrong: int) -> None:
    clicks = as_clicks([(5, 5, True), (15, 5, True), (5, 15, False), (16, 16, False), (0, 0, True)])
    mask = np.zeros((20, 20), bool)
    mask[:10, :10] = mask[14:, 14:] = True  # misses (15, 5), holds (16, 16)
    drawn = cv2.resize(mask.astype(np.uint8), None, fx=scale, fy=scale, interpolation=0) > 0
    assert contradicted(drawn, clicks, (20, 20)) == n_wrong


def test_the_edges_never_wipe_a_mask_out(sam: PromptableSam) -> None:
    # One grid cell of object in a picture of two colours: the filter alone would leave nothing.
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = 255
    interaction = InteractivePredictor(sam, ZoomSettings(is_on=False), corrector=_one_cell)
    answer = interaction.answer(encoder(sam, picture), (64, 64), as_clicks([(50, 10, True)]))
    moved = at_edges(
        answer.shown_logits[0, 0], answer.prompt, answer.embedding, 4.0, EdgeSettings()
    )
    assert not (moved > 0).any()
    assert interaction.mask(answer).any()


def _one_cell(prediction: MaskPrediction, prompt: Prompt, embedding: Embedding) -> torch.Tensor:
    logits = torch.full_like(prediction.shown_logits(), -20.0)
    logits[..., 10, 4] = 20.0
    return logits
