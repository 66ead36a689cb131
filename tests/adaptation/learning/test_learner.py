from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from adaptation.learning.adapter import Adapter
from adaptation.learning.examples import (
    UNLABELLED,
    StoredPrompt,
    asked,
    example_loss,
    examples_of,
    label_map,
    simulated_prompt,
)
from adaptation.learning.guard import GuardSettings
from adaptation.learning.learner import ObjectReport, OnlineLearner
from adaptation.learning.scale_evidence import SHARES, LoneClick
from adaptation.learning.trial import Examiner
from adaptation.models.compact.model import build_compact
from adaptation.models.sam import PromptableSam, digest_of
from adaptation.predictor.interactive import Answer, InteractivePredictor
from adaptation.predictor.settings import ZoomSettings
from adaptation.predictor.zoom import View
from adaptation.types import Embedding, as_clicks
from tests.learner_settings import learner_settings

SIZE = (64, 64)
SETTINGS = learner_settings(
    steps=4, think_steps=3, learning_rate=2e-3, guard={"least_overlap": 0.0}
)
THOUGHTFUL = replace(SETTINGS, keep_out=2)
"""Keeps every second object out of replay, to judge idle training by."""


@pytest.fixture(scope="module")
def compact() -> PromptableSam:
    torch.manual_seed(0)
    return PromptableSam(build_compact(input_size=64, dim=16), "tiny")


class Scene:
    """A bright disk on noise, and what was clicked on it."""

    def __init__(self, seed: int, sam: PromptableSam) -> None:
        rng = np.random.default_rng(seed)
        y, x = rng.integers(20, 44, 2)
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
        self.mask: NDArray[np.bool_] = (rows - y) ** 2 + (columns - x) ** 2 < 144
        pixels = rng.integers(0, 80, (*SIZE, 3)) + 140 * self.mask[..., None]
        self.image = pixels.astype(np.uint8)
        self.clicks = as_clicks([(float(x), float(y), True), (2.0, 2.0, False)])
        self.sam = sam

    def encode(self, view: View) -> Embedding:
        return self.sam.embed(
            np.ascontiguousarray(self.image[view.y0 : view.y1, view.x0 : view.x1])
        )

    def answers(self, learner: OnlineLearner) -> list[Answer]:
        interaction = InteractivePredictor(self.sam, ZoomSettings(is_on=False))
        first = interaction.answer(self.encode, SIZE, self.clicks[:1], weights=learner.weights(1))
        second = interaction.answer(
            self.encode, SIZE, self.clicks, state=first.state, weights=learner.weights(1)
        )
        return [first, second]

    def finish(self, learner: OnlineLearner, mask: NDArray[np.bool_] | None = None) -> ObjectReport:
        """Click the object and submit its mask, or another one."""
        return learner.observe_mask(
            self.answers(learner), self.clicks, self.mask if mask is None else mask, self.encode
        )


def run(learner: OnlineLearner, sam: PromptableSam, seeds: Sequence[int]) -> list[float]:
    """Label scenes in order; the adapted IoU of each."""
    found = []
    for seed in seeds:
        scene = Scene(seed, sam)
        found.append(scene.finish(learner).adapted_iou)
        learner.train_idle()
    return found


def test_a_session_gets_better_than_the_frozen_model(compact: PromptableSam) -> None:
    learner = OnlineLearner(compact, SETTINGS)
    run(learner, compact, range(9))  # of which eight have judged what was learned
    scene = Scene(99, compact)
    report = scene.finish(learner)
    assert report.adapted_iou > report.frozen_iou + 0.1


def test_the_base_model_is_never_written_to(compact: PromptableSam) -> None:
    before = digest_of(compact.sam)
    run(OnlineLearner(compact, SETTINGS), compact, range(3))
    assert digest_of(compact.sam) == before


def test_the_same_calls_give_the_same_weights_bit_for_bit(compact: PromptableSam) -> None:
    one, other = OnlineLearner(compact, SETTINGS, seed=3), OnlineLearner(compact, SETTINGS, seed=3)
    run(one, compact, range(2))
    run(other, compact, range(2))
    assert not one.adapter.is_base
    assert one.adapter.version == other.adapter.version
    third = OnlineLearner(compact, SETTINGS, seed=4)
    run(third, compact, range(2))
    assert third.adapter.version != one.adapter.version


def test_a_session_s_weights_take_two_bytes_a_parameter(compact: PromptableSam) -> None:
    learner = OnlineLearner(compact, SETTINGS)
    run(learner, compact, range(1))
    n = sum(v.nelement() for v in compact.decoder_parameters().values())
    assert learner.adapter.n_bytes == 2 * n


def test_only_the_chosen_subset_learns(compact: PromptableSam) -> None:
    learner = OnlineLearner(compact, replace(SETTINGS, subset="norms"))
    run(learner, compact, range(2))
    base = compact.decoder_parameters()
    assert learner.adapter.deltas and all(base[n].dim() == 1 for n in learner.adapter.deltas)


@pytest.mark.parametrize("spoil", [np.zeros_like, np.ones_like, np.logical_not])
def test_garbage_teaches_nothing(
    compact: PromptableSam, spoil: Callable[[NDArray[np.bool_]], NDArray[np.bool_]]
) -> None:
    learner = OnlineLearner(compact, SETTINGS)
    scene = Scene(1, compact)
    report = scene.finish(learner, np.asarray(spoil(scene.mask)))
    assert report.skipped is not None and report.n_steps == 0
    assert learner.adapter.is_base and learner.train_idle() == 0


def test_a_session_that_loses_turns_back(compact: PromptableSam) -> None:
    guard = GuardSettings(window=3, least=2, least_overlap=0.0)
    learner = OnlineLearner(compact, replace(SETTINGS, guard=guard))
    run(learner, compact, range(4))
    broken = {n: (d * 0 + 0.5) for n, d in learner.adapter.deltas.items()}
    good = learner.guard.won
    learner.adapter = Adapter(broken, compact.decoder_id)
    reports = []
    for seed in (50, 51):
        scene = Scene(seed, compact)
        reports.append(scene.finish(learner))
        if reports[-1].turned_back:
            break
        learner.adapter = Adapter(broken, compact.decoder_id)
    assert reports[-1].turned_back
    assert not good.is_base


def test_scores_are_learned_without_any_step(compact: PromptableSam) -> None:
    trusting = replace(SETTINGS.trust, least=1.0, margin=-1.0, alarm=1.0)
    learner = OnlineLearner(compact, replace(SETTINGS, steps=0, trust=trusting))
    scene = Scene(7, compact)
    reports = [scene.finish(learner) for _ in range(4)]
    assert not learner.adapter.deltas and all(r.n_steps == 0 for r in reports)
    # Four lone clicks, each later one of which left 0.9 of those before.
    assert learner.adapter.evidence.scores[0].count == pytest.approx(1 + 0.9 + 0.81 + 0.729)
    answer = scene.answers(OnlineLearner(compact, SETTINGS))[0]
    examples = examples_of([answer], scene.mask, scene.encode, compact, share=0.0, most=1)
    tried = Examiner(compact).try_all(learner.adapter, examples)
    ious, offered = tried.ious, tried.offered
    change = learner.adapter.score_change(0.0)
    assert change is not None
    shown = int(np.argmax(change.applied(offered[0].scores)))
    assert ious[0, 0] == offered[0].ious[int(np.argmax(offered[0].scores))], "frozen, as it is"
    assert ious[1, 0] == ious[3, 0] == offered[0].ious[shown]
    before = np.abs(offered[0].scores - offered[0].ious)
    after = np.abs(change.applied(offered[0].scores) - offered[0].ious)
    assert (after < 0.7 * before).all(), "scores come nearer to what the masks are worth"


def test_scores_that_won_answer_first_clicks_alone(compact: PromptableSam) -> None:
    learner = OnlineLearner(compact, replace(SETTINGS, steps=0))
    learner.adapter = replace(
        learner.adapter,
        is_scored=True,
        evidence=learner.adapter.evidence.after_lone_click(
            [LoneClick(np.zeros(3), np.array([0.9, 0.1, 0.1]))] * len(SHARES), 1.0
        ),
    )
    first, later = learner.weights(1), learner.weights(2)
    assert first is not None and later is None
    assert all("iou_prediction_head" in name for name in first) and len(first) == 2


def test_a_waiting_click_stops_idle_training_at_once(compact: PromptableSam) -> None:
    learner = OnlineLearner(compact, THOUGHTFUL)
    run(learner, compact, range(2))
    version = learner.adapter.version
    assert learner.train_idle(should_stop=lambda: True) == 0
    assert learner.adapter.version == version


def test_idle_training_ends_when_nothing_is_gained(compact: PromptableSam) -> None:
    learner = OnlineLearner(compact, THOUGHTFUL)
    run(learner, compact, range(2))
    stretches = 0
    while learner.train_idle() and stretches < 200:
        stretches += 1
    assert stretches < 200
    assert learner.train_idle() == 0


def test_there_is_no_idle_training_without_an_object_to_judge_it_by(compact: PromptableSam) -> None:
    learner = OnlineLearner(compact, replace(SETTINGS, keep_out=3))
    run(learner, compact, range(2))
    assert learner.train_idle() == 0
    run(learner, compact, range(2, 3))
    assert learner.train_idle() > 0


def test_idle_training_that_harms_kept_out_objects_is_undone(compact: PromptableSam) -> None:
    learner = OnlineLearner(compact, THOUGHTFUL)
    run(learner, compact, range(2))
    version = learner.adapter.version
    learner.settings = replace(THOUGHTFUL, learning_rate=0.3)
    assert learner.train_idle() == THOUGHTFUL.think_steps
    assert learner.adapter.version == version


def test_idle_training_that_helps_kept_out_objects_is_kept(compact: PromptableSam) -> None:
    learner = OnlineLearner(compact, THOUGHTFUL)
    run(learner, compact, range(2))
    version = learner.adapter.version
    while learner.train_idle():
        pass
    assert learner.adapter.version != version


def test_an_exploding_rate_never_leaves_weights_that_are_not_finite(
    compact: PromptableSam,
) -> None:
    learner = OnlineLearner(compact, replace(SETTINGS, learning_rate=1e30))
    run(learner, compact, range(2))
    assert all(torch.isfinite(d).all() for d in learner.adapter.deltas.values())


def test_memory_is_bounded(compact: PromptableSam) -> None:
    learner = OnlineLearner(
        compact,
        replace(
            SETTINGS, replay=3, steps=1, guard=GuardSettings(least_overlap=0.0, probe_drop=1.0)
        ),
    )
    run(learner, compact, range(5))
    assert len(learner._memory) == 3


def test_labels_leave_out_the_border_and_the_padding() -> None:
    mask = np.zeros((40, 80), np.bool_)
    mask[10:30, 20:60] = True
    labels = label_map(mask, (32, 64), 32, 64, share=0.1)
    assert labels.shape == (32, 32) and labels.dtype == torch.int8
    assert (labels[16:] == UNLABELLED).all()
    assert labels[8, 16] == 1 and labels[0, 0] == 0
    assert labels[8, 8] == UNLABELLED or labels[8, 7] == UNLABELLED


def test_lessons_keep_the_first_and_the_last_prompt(compact: PromptableSam) -> None:
    scene = Scene(2, compact)
    answers = scene.answers(OnlineLearner(compact, SETTINGS))
    many = [answers[0], *[answers[1]] * 8]
    lessons = examples_of(many, scene.mask, scene.encode, compact, share=0.04, most=4)
    assert len(lessons) == 4
    assert lessons[0].prompt.mask_input is None
    last = lessons[-1].prompt.mask_input
    assert last is not None and last.dtype == torch.float16
    assert asked(lessons[-1]).mask_input is not None
    assert asked(lessons[-1]).mask_input.dtype == torch.float32  # type: ignore[union-attr]


def test_kept_prompts_teach_what_answers_teach(compact: PromptableSam) -> None:
    one, other = OnlineLearner(compact, SETTINGS), OnlineLearner(compact, SETTINGS)
    scene = Scene(6, compact)
    scene.finish(one)
    kept = [StoredPrompt.of(answer) for answer in scene.answers(other)]
    other.observe_mask(kept, scene.clicks, scene.mask, scene.encode)
    assert not one.adapter.is_base and one.adapter.version == other.adapter.version


def test_a_finished_object_waits_for_clicks_before_every_step(compact: PromptableSam) -> None:
    learner, waits = OnlineLearner(compact, SETTINGS), []
    scene = Scene(7, compact)
    answers = scene.answers(learner)
    learner.observe_mask(
        answers, scene.clicks, scene.mask, scene.encode, pause=lambda: waits.append(1)
    )
    assert len(waits) == SETTINGS.steps


def test_simulated_clicks_fall_on_errors_and_feed_masks_back(compact: PromptableSam) -> None:
    scene = Scene(3, compact)
    lesson = examples_of(
        scene.answers(OnlineLearner(compact, SETTINGS)),
        scene.mask,
        scene.encode,
        compact,
        share=0.04,
        most=2,
    )[0]
    rng = np.random.default_rng(0)
    prompt = simulated_prompt(lesson, lesson.embedding(), compact, None, 3, rng)
    assert 1 < len(prompt.clicks) <= 3 and prompt.mask_input is not None
    first = prompt.clicks[0]
    assert first.is_positive and scene.mask[round(first.y), round(first.x)]
    for click in prompt.clicks[1:]:
        assert scene.mask[round(click.y), round(click.x)] == click.is_positive


def test_a_perfect_mask_costs_next_to_nothing_and_an_opposite_one_much(
    compact: PromptableSam,
) -> None:
    scene = Scene(4, compact)
    learner = OnlineLearner(compact, SETTINGS)
    lesson = examples_of(
        scene.answers(learner), scene.mask, scene.encode, compact, share=0.04, most=1
    )[0]
    prediction = compact.decode(lesson.embedding(), [asked(lesson)])
    sure = (lesson.target * 2 - 1).expand_as(prediction.low_res_logits) * 20
    good = replace(prediction, low_res_logits=sure)
    bad = replace(prediction, low_res_logits=-sure)
    assert float(example_loss(good, [lesson], 0.0)) < 0.01
    assert float(example_loss(bad, [lesson], 0.0)) > 5
