from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptation.errors import SettingsError
from adaptation.predictor.click_correction import (
    ClickCorrection,
    CorrectionSettings,
    LowResClicks,
    fit_readout,
    meet_clicks,
)
from adaptation.types import Embedding, MaskPrediction, Prompt, as_clicks

SIZE = 32
FRAME = 64
SETTINGS = CorrectionSettings()


def embedding() -> Embedding:
    return Embedding(
        features=torch.zeros(1, 1, 1, 1),
        original_size=(FRAME, FRAME),
        input_size=(FRAME, FRAME),
        image_id="",
        encoder_id="",
        guide=torch.zeros(1, 1, 3, dtype=torch.uint8),
    )


def prediction(logits: torch.Tensor, features: torch.Tensor | None = None) -> MaskPrediction:
    return MaskPrediction(
        low_res_logits=logits.expand(1, 4, SIZE, SIZE),
        predicted_iou=torch.zeros(1, 4),
        is_ambiguous=torch.tensor([False]),
        upscaled=torch.zeros(1, 2, SIZE, SIZE) if features is None else features[None],
    )


points = st.tuples(st.integers(0, FRAME - 1), st.integers(0, FRAME - 1), st.booleans())


@settings(deadline=None)
@given(
    st.lists(points, min_size=1, max_size=8, unique_by=lambda p: (p[0] // 8, p[1] // 8)),
    st.integers(0, 1000),
)
def test_every_click_is_obeyed_when_no_two_contradict(
    clicks: list[tuple[int, int, bool]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 6 * torch.randn(1, 1, SIZE, SIZE, generator=generator)
    features = torch.randn(4, SIZE, SIZE, generator=generator)
    prompt = Prompt(clicks=as_clicks(clicks), mask_input=torch.zeros(1, SIZE, SIZE))
    far = [
        (a, b)
        for a in prompt.clicks
        for b in prompt.clicks
        if a.is_positive != b.is_positive and max(abs(a.x - b.x), abs(a.y - b.y)) < 8
    ]
    if far:
        return
    correct = ClickCorrection(SETTINGS, FRAME)
    shown = correct(prediction(logits, features), prompt, embedding())
    low = LowResClicks.of(prompt, embedding(), FRAME / SIZE, torch.device("cpu"))
    assert not low.contradicted(shown[0, 0]).any()


def test_an_obeyed_prompt_is_shown_as_it_was_decoded() -> None:
    logits = torch.full((1, 1, SIZE, SIZE), 3.0)
    prompt = Prompt(clicks=as_clicks([(10, 10, True)]))
    shown = ClickCorrection(SETTINGS, FRAME)(prediction(logits), prompt, embedding())
    assert torch.equal(shown, logits)


def test_switched_off_nothing_changes() -> None:
    logits = torch.full((1, 1, SIZE, SIZE), -3.0)
    prompt = Prompt(clicks=as_clicks([(10, 10, True)]))
    correct = ClickCorrection(CorrectionSettings(is_on=False), FRAME)
    assert torch.equal(correct(prediction(logits), prompt, embedding()), logits)


def test_the_readout_spreads_one_click_over_pixels_that_look_alike() -> None:
    """Two blobs share a feature; the decoder missed both, a click on one brings back both."""
    feature = torch.zeros(2, SIZE, SIZE)
    feature[0, 4:10, 4:10] = 1.0
    feature[0, 20:26, 20:26] = 1.0
    feature[1] = torch.linspace(-1, 1, SIZE)[:, None]
    logits = torch.full((SIZE, SIZE), -3.0)
    logits[4:10, 4:10] = logits[20:26, 20:26] = -1.0  # unsure there
    clicks = LowResClicks(torch.tensor([[7.0, 7.0], [15.0, 15.0]]), torch.tensor([1.0, -1.0]))
    fitted = fit_readout(logits, feature, clicks, SETTINGS)
    assert (fitted[5:9, 5:9] > 0).all()
    assert (fitted[21:25, 21:25] > 0).all()
    assert (fitted[12:18, 12:18] < 0).all() and (fitted[28:, :4] < 0).all()


def test_meeting_a_click_stays_local() -> None:
    logits = torch.full((SIZE, SIZE), -2.0)
    clicks = LowResClicks(torch.tensor([[16.0, 16.0]]), torch.tensor([1.0]))
    met = meet_clicks(logits, clicks, SETTINGS)
    assert met[16, 16] > 0
    assert torch.allclose(met[:8], logits[:8], atol=0.05)
    assert int((met > 0).sum()) <= 25


def test_of_two_clicks_on_one_pixel_the_later_wins() -> None:
    spot = torch.tensor([[9.0, 9.0], [9.0, 9.0]])
    logits = torch.full((SIZE, SIZE), -2.0)
    met = meet_clicks(logits, LowResClicks(spot, torch.tensor([-1.0, 1.0])), SETTINGS)
    assert met[9, 9] > 0
    met = meet_clicks(-logits, LowResClicks(spot, torch.tensor([1.0, -1.0])), SETTINGS)
    assert met[9, 9] < 0


def test_features_that_are_not_finite_leave_the_logits_alone() -> None:
    logits = torch.full((SIZE, SIZE), -3.0)
    features = torch.full((2, SIZE, SIZE), 1e30)
    clicks = LowResClicks(torch.tensor([[9.0, 9.0], [3.0, 3.0]]), torch.tensor([1.0, -1.0]))
    assert fit_readout(logits, features, clicks, SETTINGS).isfinite().all()


def test_a_prompt_of_a_box_alone_needs_no_correction() -> None:
    from adaptation.types import Box

    logits = torch.full((1, 1, SIZE, SIZE), -3.0)
    prompt = Prompt(box=Box(x0=1, y0=1, x1=5, y1=5))
    shown = ClickCorrection(SETTINGS, FRAME)(prediction(logits), prompt, embedding())
    assert torch.equal(shown, logits)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="above 0"):
        CorrectionSettings(sigma=0)
