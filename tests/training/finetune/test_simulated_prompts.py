"""Clicks simulated for a batch are those that would have been simulated one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adaptation.learning.examples import TrainingExample, label_map, simulated_prompt
from adaptation.models.catalog import load_model
from adaptation.models.sam import PromptableSam
from adaptation.types import Embedding, MaskPrediction, Prompt, as_clicks
from tests.training.fakes import disc
from tests.training.tuning_kit import SIZE, write_model
from training.finetune.policy import Policy
from training.finetune.simulated_prompts import simulated_prompts


class CountingPolicy(Policy):
    """Notes how many prompts each decode was asked."""

    def __init__(self, sam: PromptableSam) -> None:
        super().__init__(sam, "all", mixed_precision=False)
        self.sizes: list[int] = []

    def decode(self, embeddings: object, prompts: object) -> MaskPrediction:
        self.sizes.append(len(prompts))  # type: ignore[arg-type]
        return super().decode(embeddings, prompts)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> PromptableSam:
    folder = tmp_path_factory.mktemp("clicks")
    return load_model("compact", folder, checkpoint=write_model(folder))


def lesson(sam: PromptableSam, seed: int) -> TrainingExample:
    rng = np.random.default_rng(seed)
    truth = disc(int(rng.integers(20, 44)), 30, int(rng.integers(6, 14)))
    image = rng.integers(0, 60, (*SIZE, 3)) + 150 * truth[..., None]
    embedding: Embedding = sam.embed(image.astype(np.uint8))
    labels = label_map(truth, embedding.input_size, sam.low_res_size, sam.input_size, 0.05)
    prompt = Prompt(clicks=as_clicks([(1.0, 1.0, True)]))
    return TrainingExample(prompt=prompt, embedding=lambda: embedding, labels=labels)


def test_a_batch_is_clicked_like_its_objects_one_by_one(sam: PromptableSam) -> None:
    lessons, counts = [lesson(sam, seed) for seed in range(4)], [1, 3, 2, 4]
    policy = CountingPolicy(sam)
    with torch.no_grad():
        for weight in policy.weights.values():
            weight.mul_(1.05)
    rngs = [np.random.default_rng(seed) for seed in range(4)]
    found = simulated_prompts(policy, lessons, counts, rngs)
    # Three objects want a second click, two of them a third, one a fourth.
    assert policy.sizes == [3, 2, 1]
    for seed, (each, count) in enumerate(zip(lessons, counts, strict=True)):
        rng = np.random.default_rng(seed)
        alone = simulated_prompt(each, each.embedding(), sam, policy.weights, count, rng)
        assert found[seed].prompt.clicks == alone.clicks
        assert len(alone.clicks) == count
        assert torch.equal(found[seed].labels, each.labels)
        if count > 1:
            ours, theirs = found[seed].prompt.mask_input, alone.mask_input
            assert ours is not None and theirs is not None
            assert torch.allclose(ours, theirs, atol=1e-4)


def test_an_object_without_an_error_gets_no_more_clicks(sam: PromptableSam) -> None:
    blank = lesson(sam, 0)
    labels = torch.where(blank.labels == 1, 1, -1).to(torch.int8)  # nothing but the object counts
    whole = TrainingExample(prompt=blank.prompt, embedding=blank.embedding, labels=labels)
    policy = CountingPolicy(sam)
    with torch.no_grad():
        policy.weights["hint_logit.bias"].add_(100.0)  # everything is the object
    (found,) = simulated_prompts(policy, [whole], [5], [np.random.default_rng(0)])
    assert policy.sizes == [1] and len(found.prompt.clicks) == 1


def test_nothing_is_decoded_for_nobody(sam: PromptableSam) -> None:
    assert simulated_prompts(Policy(sam, "all", mixed_precision=False), [], [], []) == []
