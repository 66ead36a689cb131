"""What Strop asks of a model, asked of every family: sessions' weights, threads, learning."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adaptation.learning.adapter import SUBSETS, load_adapter, save_adapter, trainable_names
from adaptation.learning.examples import label_map
from adaptation.learning.learner import OnlineLearner
from adaptation.learning.losses import dice_loss
from adaptation.models.base_decoder import load_base, save_base
from adaptation.models.sam import digest_of
from adaptation.predictor.click_correction import ClickCorrection, CorrectionSettings
from adaptation.predictor.interactive import Answer, InteractivePredictor
from adaptation.predictor.settings import ZoomSettings
from adaptation.predictor.zoom import View
from adaptation.types import Box, Embedding, Prompt, as_clicks
from tests.adaptation.models.hub.conftest import Loaded
from tests.learner_settings import learner_settings

CLICKS = as_clicks([(30, 20, True), (70, 40, False), (38, 26, True)])


def test_the_upscaled_features_are_what_the_masks_are_read_from(
    loaded: Loaded, picture: NDArray[np.uint8]
) -> None:
    """Corrections are fitted on them: each mask is a linear readout, to rounding."""
    sam = loaded.sam
    with torch.no_grad():
        got = sam.decode(sam.embed(picture), [Prompt(clicks=CLICKS)])
    features = got.upscaled[0].flatten(1).T.double()
    for logits in got.low_res_logits[0].flatten(1).double():
        readout = torch.linalg.lstsq(features, logits[:, None], driver="gelsd").solution
        assert (features @ readout - logits[:, None]).abs().max() < 1e-3 * logits.abs().max()


def test_every_parameter_that_learns_has_a_say(loaded: Loaded, picture: NDArray[np.uint8]) -> None:
    """All of the decoder gets gradients, and nothing else; no part is carried along unused."""
    sam = loaded.sam
    weights = {n: v.clone().requires_grad_() for n, v in sam.decoder_parameters().items()}
    got = sam.decode(sam.embed(picture), [Prompt(clicks=CLICKS)], weights=weights)
    (got.low_res_logits.square().mean() + got.predicted_iou.sum()).backward()
    idle = [n for n, w in weights.items() if w.grad is None or not bool(w.grad.any())]
    # Biases of keys shift all attention alike; a single mask that was replaced leaves its token.
    assert [n for n in idle if "k_proj.bias" not in n and "mlps.0." not in n] == []
    assert all(p.grad is None for p in sam.sam.parameters())


def test_every_subset_of_the_decoder_is_there(loaded: Loaded) -> None:
    base = loaded.sam.decoder_parameters()
    chosen = {subset: set(trainable_names(base, subset)) for subset in SUBSETS}
    assert all(chosen.values()) and chosen["all"] == set(base)
    assert chosen["tokens"] < chosen["all"] and not chosen["output"] & chosen["transformer"]
    # What is neither the transformer's nor the output's are tokens that only the former reads.
    rest = chosen["all"] - chosen["output"] - chosen["transformer"]
    assert rest <= {"obj_score_token.weight"}


def test_threads_with_weights_of_their_own_do_not_disturb_each_other(
    loaded: Loaded, picture: NDArray[np.uint8]
) -> None:
    sam, prompt = loaded.sam, Prompt(clicks=CLICKS)
    embedding = sam.embed(picture)
    sessions = [{n: v + 0.01 * i for n, v in sam.decoder_parameters().items()} for i in range(3)]
    with torch.no_grad():
        wanted = [sam.decode(embedding, [prompt], weights=s).low_res_logits for s in sessions]
    wrong: list[int] = []

    def work(i: int) -> None:
        with torch.no_grad():
            for _ in range(10):
                got = sam.decode(embedding, [prompt], weights=sessions[i]).low_res_logits
                if not torch.equal(got, wanted[i]):
                    wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not torch.equal(wanted[0], wanted[2])


def test_bytes_of_an_embedding_are_told(loaded: Loaded, picture: NDArray[np.uint8]) -> None:
    embedding = loaded.sam.embed(picture)
    channels = {"sam": 32, "sam_hq": 32 + 16 * 4}.get(loaded.family, 32 + 4 * 8 + 16 * 4)
    assert embedding.features.shape == (1, channels, 4, 4)
    assert embedding.features.isfinite().all()
    side = loaded.sam.low_res_size
    stretched = loaded.family not in ("sam", "sam_hq")
    assert tuple(embedding.guide.shape) == ((side, side, 3) if stretched else (10, side, 3))


def test_another_normalisation_is_another_encoder(loaded: Loaded) -> None:
    """Embeddings made with one must not answer for the other."""
    encoder = loaded.sam.sam.image_encoder
    before = digest_of(encoder)
    encoder.pixel_mean += 1
    after = digest_of(encoder)
    encoder.pixel_mean -= 1
    assert before == digest_of(encoder) == loaded.sam.encoder_id != after


class Scene:
    """A bright disk, clicked on three times."""

    def __init__(self, loaded: Loaded, zoom: bool = False) -> None:
        rng = np.random.default_rng(4)
        rows, columns = np.mgrid[:48, :80]
        self.mask = (rows - 22) ** 2 + (columns - 34) ** 2 < 150
        pixels = rng.integers(0, 80, (48, 80, 3)) + 140 * self.mask[..., None]
        self.image = pixels.astype(np.uint8)
        self.sam = loaded.sam
        self.predictor = InteractivePredictor(
            loaded.sam,
            ZoomSettings(is_on=zoom),
            ClickCorrection(CorrectionSettings(), loaded.sam.input_size),
        )

    def encode(self, view: View) -> Embedding:
        crop = self.image[view.y0 : view.y1, view.x0 : view.x1]
        return self.sam.embed(np.ascontiguousarray(crop))

    def answers(self, learner: OnlineLearner | None = None) -> list[Answer]:
        found: list[Answer] = []
        for n in range(1, len(CLICKS) + 1):
            weights = None if learner is None else learner.weights(n)
            state = found[-1].state if found else None
            found.append(
                self.predictor.answer(
                    self.encode, (48, 80), CLICKS[:n], state=state, weights=weights
                )
            )
        return found


def test_masks_obey_clicks_and_zoom(loaded: Loaded) -> None:
    for zoom in (False, True):
        scene = Scene(loaded, zoom)
        answer = scene.answers()[-1]
        mask = scene.predictor.mask(answer)
        assert mask.shape == (48, 80)
        assert [bool(mask[int(c.y), int(c.x)]) for c in CLICKS] == [True, False, True]
    box = Box(x0=20, y0=8, x1=50, y1=40)
    boxed = scene.predictor.answer(scene.encode, (48, 80), (), box)
    assert scene.predictor.mask(boxed).shape == (48, 80)


def test_a_mask_from_elsewhere_is_fed_back_at_its_place(loaded: Loaded) -> None:
    scene = Scene(loaded)
    state = scene.predictor.state_of(scene.mask, CLICKS[:1])
    back = loaded.sam.binary_mask(state.low_res_logits[0, 0], scene.encode(state.view))
    assert (back & scene.mask).sum() / (back | scene.mask).sum() > 0.6  # the grid has 16 cells
    answer = scene.predictor.answer(scene.encode, (48, 80), CLICKS[:2], state=state)
    assert answer.prompt.mask_input is not None


def test_a_session_learns_and_its_adapter_is_kept(loaded: Loaded, tmp_path: Path) -> None:
    sam, scene, before = loaded.sam, Scene(loaded), digest_of(loaded.sam.sam)
    settings = learner_settings(steps=150, learning_rate=1e-2, guard={"least_overlap": 0.0})
    learner = OnlineLearner(sam, settings)
    answers = scene.answers(learner)
    learner.observe_mask(answers, CLICKS, scene.mask, scene.encode)
    labels = label_map(scene.mask, answers[0].input_size, sam.low_res_size, sam.input_size, 0.0)
    target, known = (labels == 1).float(), (labels >= 0).float()
    losses = []
    for weights in (None, learner.adapter.weights(sam)):
        with torch.no_grad():
            got = sam.decode(answers[-1].embedding, [answers[-1].prompt], weights=weights)
        losses.append(float(dice_loss(got.low_res_logits[0, 0], target, known)))
    assert losses[1] < 0.7 * losses[0]
    assert digest_of(sam.sam) == before
    path = tmp_path / "adapter.safetensors"
    save_adapter(learner.adapter, path, {})
    again = load_adapter(path, sam)
    assert again.version == learner.adapter.version
    assert again.n_bytes == 2 * sum(v.numel() for v in sam.decoder_parameters().values())


def test_a_tuned_decoder_is_exported_and_served(
    loaded: Loaded, picture: NDArray[np.uint8], tmp_path: Path
) -> None:
    sam, path = loaded.sam, tmp_path / "decoder.safetensors"
    tuned = {n: v + 0.01 for n, v in sam.decoder_parameters().items()}
    save_base(path, sam, tuned, "sft", {})
    served = load_base(path, sam)
    embedding, prompt = sam.embed(picture), Prompt(clicks=CLICKS)
    with torch.no_grad():
        wanted = sam.decode(embedding, [prompt], weights=tuned)
        got = served.decode(embedding, [prompt])
    assert torch.equal(wanted.low_res_logits, got.low_res_logits)
    assert served.encoder_id == sam.encoder_id and served.decoder_id != sam.decoder_id
    assert served.framed((48, 80)) == sam.framed((48, 80))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halved_embeddings_decode_alike(
    loaded: Loaded, picture: NDArray[np.uint8], dtype: torch.dtype
) -> None:
    sam = loaded.sam
    embedding = sam.embed(picture)
    half = replace(embedding, features=embedding.features.to(dtype))
    with torch.no_grad():
        wanted = sam.decode(embedding, [Prompt(clicks=CLICKS)]).low_res_logits
        got = sam.decode(half, [Prompt(clicks=CLICKS)]).low_res_logits
    assert (wanted - got).abs().max() < 0.02 * wanted.abs().max()
