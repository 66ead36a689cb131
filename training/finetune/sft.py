"""Supervised tuning of the decoder: objects whose masks are known, prompts as they are in use.

An object comes from a folder of images and label maps, where a simulated annotator clicks on it, or
from a preferences folder, with the clicks that were made on it.  Its prompts are a lone first
click, later clicks with the mask before fed back and zoomed in as served, and boxes.  In half of
the turns fresh clicks are simulated on the mistakes that the decoder makes by now.  Losses are
those of the online learner: focal and Dice on the mask that is shown, squared error on the
predicted IoU.  Only the decoder learns; views are encoded once, ever.
"""

from __future__ import annotations

import copy
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from adaptation.errors import InputError
from adaptation.learning.examples import Lesson, asked, lesson_loss, window_around
from adaptation.learning.losses import mask_iou
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import Answer, Encode, Interaction
from adaptation.simulation.clicker import jittered_box, noisy_click
from adaptation.types import Box, Click, Embedding, MaskPrediction, Prompt, Size, Window
from training.finetune.collator import best_is_scored_highest
from training.finetune.config import ObjectsConfig, TuningConfig
from training.finetune.metrics import Tally
from training.finetune.objects import Exercise, check_mask, find_exercises
from training.finetune.policy import Policy
from training.finetune.prompt_cache import Replay, Replayer, Unusable, answered_in_turn, plane
from training.finetune.screening import usable
from training.finetune.simulated_prompts import simulated_prompts
from training.finetune.trainer import Pick, Tuning, open_model, open_replayer
from training.runtime.distributed import Rank, run_ranks

STAGE = "sft"

_FIRST_SHARE = 0.4
"""Share of the turns that go to an object's first prompt: it is the one every object has."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SftConfig(ObjectsConfig, TuningConfig):
    """Everything that a run depends on; configs/sft.yaml says what each value does."""

    run: Path = Path("runs/sft")
    clicks: int = 6
    prompts: int = 4
    boxes: float = 0.15
    simulated_share: float = 0.5
    simulated_clicks: int = 3
    iou_weight: float = 1.0
    windows: bool = False

    def mistakes(self) -> list[str]:
        """What makes no sense, one sentence each."""
        found = super().mistakes()
        found += [
            f"{name} must be 1 or more"
            for name in ("clicks", "prompts", "simulated_clicks")
            if getattr(self, name) < 1
        ]
        found += [
            f"{name} is a share between 0 and 1"
            for name in ("boxes", "simulated_share")
            if not 0 <= getattr(self, name) <= 1
        ]
        if self.iou_weight < 0:
            found.append("iou_weight must not be negative")
        return found


class SftRecipe:
    """Objects and their prompts; see `training.finetune.trainer.Recipe`."""

    stage = STAGE

    def __init__(self, config: SftConfig, replayer: Replayer, rank: Rank) -> None:
        self._config, self._replayer = config, replayer
        items, self._left_out = usable(
            find_exercises(config), self.replay, rank, config.max_unusable
        )
        self._train = [item for item in items if item.split == "train"]
        self._val = [item for item in items if item.split == "val"]
        if not self._train:
            raise InputError("All objects are held out for validation; there are too few.")
        self.n_train, self.n_val = len(self._train), len(self._val)

    def replay(self, item: Exercise) -> Replay:
        """An object's prompts, and its mask in the view of each."""
        config = self._config
        settings = f"{config.clicks} {config.prompts} {config.boxes} {config.seed}"

        def make(encode: Encode, size: Size) -> tuple[Sequence[Answer], Mapping[str, Tensor]]:
            truth = item.mask()
            check_mask(truth, size)
            digest = hashlib.sha256(item.key.encode()).digest()
            rng = np.random.default_rng([config.seed, *digest[:8]])
            answers = annotate(self._replayer.interaction, encode, item, truth, config, rng)
            return _with_planes(answers, truth, self._replayer.sam)

        return self._replayer.replay(f"{item.key} {settings}", item.image_key, item.read, make)

    @property
    def items(self) -> Sequence[Exercise]:
        """What is trained on."""
        return self._train

    def with_replayer(self, replayer: Replayer) -> SftRecipe:
        """The same objects, replayed by another one."""
        other = copy.copy(self)
        other._replayer = replayer
        return other

    def train(self, policy: Policy, picks: Sequence[Pick]) -> tuple[Tensor, Tally]:
        """The sum of the losses of one prompt of each object."""
        tally, losses = Tally(), []
        for prediction, lessons in self._answered(policy, self._turns(policy, picks)):
            mean = lesson_loss(prediction, lessons, self._config.iou_weight)
            losses.append(mean * len(lessons))
            tally.add(_tally(prediction, lessons))
            tally.note("loss", mean.detach().expand(len(lessons)))
        return torch.stack(losses).sum(), tally

    def _answered(
        self, policy: Policy, lessons: Sequence[Lesson]
    ) -> Iterator[tuple[MaskPrediction, Sequence[Lesson]]]:
        """Whole frames together; with windows, the others one by one on their part of the frame."""
        whole: list[tuple[Lesson, Embedding]] = []
        for lesson in lessons:
            embedding = lesson.embedding()
            window = self._window(policy.sam, lesson, embedding)
            if window is None:
                whole.append((lesson, embedding))
            else:
                found = policy.decode_within(embedding, asked(lesson), window)
                yield found, [lesson.within(window)]
        if whole:
            alike = [lesson for lesson, _ in whole]
            yield policy.decode([embedding for _, embedding in whole], _prompts(alike)), alike

    def _window(self, sam: PromptableSam, lesson: Lesson, embedding: Embedding) -> Window | None:
        if not self._config.windows or not sam.reads_windows:
            return None
        return window_around(lesson.labels, lesson.prompt, embedding, sam.input_size)

    def validate(self, policy: Policy, picks: Sequence[Pick]) -> Tally:
        """Loss and IoU at each object's first and last prompt."""
        tally = Tally()
        for name, index in (("first", 0), ("last", -1)):
            lessons = [self._lessons(self._val[pick.index])[index] for pick in picks]
            prediction = policy.decode([each.embedding() for each in lessons], _prompts(lessons))
            mean = lesson_loss(prediction, lessons, self._config.iou_weight)
            tally.note("loss", mean.expand(len(lessons)))
            seen = _tally(prediction, lessons)
            seen.values[f"iou@{name}"] = seen.values.pop("iou")
            tally.add(seen)
        return tally

    def data(self) -> Mapping[str, Any]:
        """The objects in numbers, and the digest of all of them."""
        keys = "\n".join(item.key for item in (*self._train, *self._val))
        return {
            "train": self.n_train,
            "validation": self.n_val,
            "images": len({item.image_key for item in (*self._train, *self._val)}),
            "digest": hashlib.sha256(keys.encode()).hexdigest()[:16],
        }

    def notes(self) -> Mapping[str, Any]:
        """Where the objects come from, and what was left out."""
        origins = Counter(item.name.split("/")[0] for item in self._train)
        from_sets = {name: n for name, n in origins.items() if name in self._set_names()}
        n_examples = self.n_train - sum(from_sets.values())
        return {
            "sources": {**from_sets, **({"preferences": n_examples} if n_examples else {})},
            "left_out": {reason: asdict(group) for reason, group in self._left_out.items()},
        }

    def _set_names(self) -> set[str]:
        return {name.partition("/")[0] for name in self._config.sets}

    def _lessons(self, item: Exercise) -> list[Lesson]:
        replay = self.replay(item)
        encode = self._replayer.encode(replay, item.read, item.name)
        return [
            Lesson(prompt=each.prompt, embedding=lambda v=each.view: encode(v), labels=labels)  # type: ignore[misc]
            for each, labels in zip(replay.asked, replay.planes["labels"], strict=True)
        ]

    def _turns(self, policy: Policy, picks: Sequence[Pick]) -> list[Lesson]:
        """A prompt of each object, or clicks on what the decoder makes of its view by now."""
        lessons = [self._drawn_prompt(pick) for pick in picks]
        config = self._config
        fresh = [i for i, p in enumerate(picks) if p.rng.random() < config.simulated_share]
        rngs = [picks[i].rng for i in fresh]
        counts = [int(rng.integers(1, config.simulated_clicks + 1)) for rng in rngs]
        made = simulated_prompts(policy, [lessons[i] for i in fresh], counts, rngs)
        for index, lesson in zip(fresh, made, strict=True):
            lessons[index] = lesson
        return lessons

    def _drawn_prompt(self, pick: Pick) -> Lesson:
        lessons = self._lessons(self._train[pick.index])
        is_later = len(lessons) > 1 and pick.rng.random() >= _FIRST_SHARE
        return lessons[int(pick.rng.integers(1, len(lessons))) if is_later else 0]


def annotate(
    interaction: Interaction,
    encode: Encode,
    item: Exercise,
    truth: Mask,
    config: SftConfig,
    rng: Generator,
) -> list[Answer]:
    """The answers on an object that are trained on: the first one, then others.

    Args:
        interaction: The base model as it is served.
        encode: Embeddings of views of the image.
        item: Its own clicks are answered again where it has some.
        truth: `[H, W]`, its mask.
        config: How many clicks, prompts and boxes.
        rng: Of the simulated annotator.
    """
    size = (truth.shape[0], truth.shape[1])
    if item.clicks or item.box is not None:
        answers = answered_in_turn(interaction, encode, size, item.clicks, item.box)
    else:
        answers = _simulated(interaction, encode, truth, config.clicks, rng)
    n_kept = min(config.prompts, len(answers))
    kept = [
        answers[i] for i in sorted({round(i) for i in np.linspace(0, len(answers) - 1, n_kept)})
    ]
    if item.box is None and rng.random() < config.boxes:
        kept.insert(1, interaction.answer(encode, size, (), _box(truth, rng)))
    return kept


def _simulated(
    interaction: Interaction, encode: Encode, truth: Mask, n_clicks: int, rng: Generator
) -> list[Answer]:
    """An annotator clicks on the mistakes, roughly in their middle."""
    answers: list[Answer] = []
    clicks: tuple[Click, ...] = ()
    shown, size = np.zeros_like(truth), (truth.shape[0], truth.shape[1])
    while len(answers) < n_clicks:
        click = noisy_click(truth, shown, rng, clicked=clicks)
        if click is None:
            break
        clicks = (*clicks, click)
        state = answers[-1].state if answers else None
        answers.append(interaction.answer(encode, size, clicks, None, state))
        shown = interaction.mask(answers[-1])
    return answers


def _box(truth: Mask, rng: Generator) -> Box:
    x0, y0, x1, y1 = (float(v) for v in jittered_box(truth, rng))
    return Box(x0=x0, y0=y0, x1=max(x1, x0 + 1), y1=max(y1, y0 + 1))


def _with_planes(
    answers: Sequence[Answer], truth: Mask, sam: PromptableSam
) -> tuple[Sequence[Answer], Mapping[str, Tensor]]:
    """Answers in whose view the object can be seen, and its mask there, `[n, h, w]`."""
    planes = [plane(truth, answer.view, answer.input_size, sam) for answer in answers]
    seen = [index for index, labels in enumerate(planes) if bool((labels == 1).any())]
    if not seen:
        raise Unusable("its mask vanishes at the model's resolution")
    return [answers[i] for i in seen], {"labels": torch.stack([planes[i] for i in seen])}


def _prompts(lessons: Sequence[Lesson]) -> list[Prompt]:
    return [asked(lesson) for lesson in lessons]


def _tally(prediction: MaskPrediction, lessons: Sequence[Lesson]) -> Tally:
    """IoU of the shown masks, and what the model's own estimates are worth."""
    logits, scores = prediction.low_res_logits.detach(), prediction.predicted_iou.detach()
    target = torch.stack([lesson.target for lesson in lessons]).to(logits.device)[:, None]
    pixels = torch.stack([lesson.pixel_weights for lesson in lessons]).to(logits.device)[:, None]
    ious = mask_iou(logits, target, pixels)
    shown = prediction.shown_token()[:, None]
    tally = Tally()
    tally.note("iou", ious.gather(1, shown)[:, 0])
    tally.note("predicted_iou_error", (scores - ious).abs().gather(1, shown)[:, 0])
    tally.note_gap("calibration/ece", scores.gather(1, shown), ious.gather(1, shown))
    offered = torch.where(prediction.is_ambiguous[:, None], ious[:, 1:], torch.nan)
    tally.note("calibration/accuracies", best_is_scored_highest(scores[:, 1:], offered))
    return tally


def run(config: SftConfig, command: str = "strop-train sft") -> None:
    """Tune, with the ranks that `torchrun` started or `processes` of our own."""
    run_ranks(_train, (config, command), config.processes)


def _train(job: tuple[SftConfig, str], rank: Rank) -> None:
    config, command = job
    sam = open_model(config, rank)
    recipe = SftRecipe(config, open_replayer(config, sam), rank)
    Tuning(config, sam, recipe, rank, command).run()


__all__ = ["STAGE", "SftConfig", "SftRecipe", "run"]
