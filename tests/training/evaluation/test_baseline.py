from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import Answer, InteractivePredictor
from adaptation.predictor.settings import ZoomSettings
from adaptation.simulation.annotator import Rules
from adaptation.storage.datasets import FolderSet
from adaptation.types import as_clicks
from tests.training.fakes import Mask, disc, tiny_model, write_discs
from training.evaluation.baseline import (
    UNLABELLED,
    SeedLearner,
    SeedSettings,
    balanced_weights,
    eroded,
    with_clicks,
)
from training.evaluation.harness import Harness
from training.runtime.embedding_cache import CachedEncoder

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
MASK: Mask = np.zeros((32, 64), np.bool_)
MASK[8:28, 20:50] = True
CLICKS = as_clicks([(30, 16, True), (5, 5, False)])


@pytest.fixture
def sam() -> PromptableSam:
    return tiny_model()


def answer_of(sam: PromptableSam) -> Answer:
    interaction = InteractivePredictor(sam, ZoomSettings(is_on=False))
    return interaction.answer(CachedEncoder(sam).of(IMAGE), (32, 64), CLICKS)


def learner_of(sam: PromptableSam, **changes: float) -> SeedLearner:
    return SeedLearner(sam, SeedSettings(**changes), seed=0)  # type: ignore[arg-type]


def test_only_the_clicked_cells_are_labelled_by_clicks(sam: PromptableSam) -> None:
    blank = torch.full((16, 16), UNLABELLED, dtype=torch.int8)
    labels = with_clicks(blank, answer_of(sam), sam.input_size)
    assert int((labels != UNLABELLED).sum()) == 2
    # 64 pixels on a grid of 16: the cell of pixel (30, 16) is (7, 4) or, rounded, its neighbour.
    assert labels[4, 7] == 1 and labels[1, 1] == 0


def test_the_band_and_the_padding_carry_no_label(sam: PromptableSam) -> None:
    labels = eroded(MASK, answer_of(sam), sam, 1)
    assert (labels[8:] == UNLABELLED).all(), "the image fills the upper half of the frame"
    assert labels[4, 8] == 1 and labels[0, 0] == 0
    assert labels[4, 5] == UNLABELLED, "the border lies in the band"


def test_foreground_and_background_have_the_same_say() -> None:
    labels = torch.tensor([[1, 0, 0], [0, UNLABELLED, 0]])
    weights = balanced_weights(labels)
    assert weights[labels == 1].sum() == weights[labels == 0].sum() == 1
    assert weights[1, 1] == 0


def test_a_click_moves_the_decoder_towards_it_and_nothing_else(sam: PromptableSam) -> None:
    before = {n: v.clone() for n, v in sam.decoder_parameters().items()}
    learner, answer = learner_of(sam, learning_rate=1e-3), answer_of(sam)

    def loss() -> float:
        labels = torch.full((16, 16), UNLABELLED, dtype=torch.int8)
        labels = with_clicks(labels, answer, sam.input_size)
        shown = sam.decode(answer.embedding, [answer.prompt], weights=learner.weights(1))
        logits = shown.shown_logits()[0, 0]
        target, labelled = (labels == 1).float(), labels != UNLABELLED
        return float(
            torch.nn.functional.binary_cross_entropy_with_logits(logits[labelled], target[labelled])
        )

    first = loss()
    for _ in range(5):
        learner.observe_click(answer)
    assert loss() < first
    assert all(torch.equal(v, before[n]) for n, v in sam.decoder_parameters().items())


def test_the_memory_is_bounded_and_replay_is_seeded(sam: PromptableSam) -> None:
    learners = [learner_of(sam, learning_rate=1e-3, memory=2) for _ in range(2)]
    answer = answer_of(sam)
    for learner in learners:
        for shift in range(4):
            mask = np.roll(MASK, 4 * shift, axis=1)
            learner.observe_mask([answer], mask, CachedEncoder(sam).of(IMAGE))
        assert len(learner._memory) == 2
    first, second = (learner.weights(1) for learner in learners)
    assert all(torch.equal(first[n], second[n]) for n in first)


def test_finished_masks_are_learned(sam: PromptableSam) -> None:
    learner, answer = learner_of(sam, learning_rate=3e-3, erosion=1), answer_of(sam)
    labels = eroded(MASK, answer, sam, 1)

    def share_of_wrong_cells() -> float:
        shown = sam.decode(answer.embedding, [answer.prompt], weights=learner.weights(1))
        mask, labelled = shown.shown_logits()[0, 0] > 0, labels != UNLABELLED
        return float((mask[labelled] != (labels[labelled] == 1)).float().mean())

    before = share_of_wrong_cells()
    for _ in range(15):
        learner.observe_mask([answer], MASK, CachedEncoder(sam).of(IMAGE))
    assert share_of_wrong_cells() < 0.7 * before


def test_it_goes_through_the_harness(tmp_path: Path, sam: PromptableSam) -> None:
    dataset = FolderSet(write_discs(tmp_path / "discs", n_images=2))
    rules = Rules(max_clicks=3, target=0.99)
    harness = Harness(sam, dataset, CachedEncoder(sam), rules, ZoomSettings(is_on=False))
    refs = list(dataset.objects())
    frozen = list(harness.run_stream(refs, None))
    adapted = list(harness.run_stream(refs, learner_of(sam, learning_rate=3e-3, erosion=1)))
    assert adapted[0].ious[0] == frozen[0].ious[0], "nothing is learnt before the first click"
    assert adapted[0].ious[1:] != frozen[0].ious[1:], "clicks are learned from at once"


def test_a_mask_too_thin_for_the_erosion_still_has_its_clicks(sam: PromptableSam) -> None:
    learner = learner_of(sam, learning_rate=1e-3, erosion=4)
    learner.observe_mask([answer_of(sam)], disc(30, 16, 2)[:32], CachedEncoder(sam).of(IMAGE))
    assert all(torch.isfinite(v).all() for v in learner.weights(1).values())
