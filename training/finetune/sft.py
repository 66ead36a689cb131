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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import NonNegativeFloat
from torch import Tensor

from adaptation.config import Count, Share
from adaptation.errors import InputError
from adaptation.learning.examples import TrainingExample, asked, example_loss, window_around
from adaptation.learning.losses import mask_iou
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import Answer, Encode, InteractivePredictor
from adaptation.simulation.clicker import jittered_box, noisy_click
from adaptation.types import Box, Click, Embedding, MaskPrediction, Prompt, Size, Window
from training.finetune.collator import best_is_scored_highest
from training.finetune.config import ObjectsConfig, TuningConfig
from training.finetune.metrics import MetricSums
from training.finetune.objects import LabeledObject, check_mask, find_objects
from training.finetune.policy import Policy
from training.finetune.prompt_cache import (
    CachedPrompts,
    PromptCache,
    Unusable,
    answered_in_turn,
    plane,
)
from training.finetune.screening import usable
from training.finetune.simulated_prompts import simulated_prompts
from training.finetune.trainer import Pick, Trainer, open_model, open_replayer
from training.runtime.distributed import Rank, run_ranks

STAGE = "sft"

_FIRST_SHARE = 0.4
"""Share of the turns that go to an object's first prompt: it is the one every object has."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SftConfig(ObjectsConfig, TuningConfig):
    """Everything that a run depends on; configs/sft.yaml says what each value does."""

    run: Path = Path("runs/sft")
    clicks: Count = 6
    prompts: Count = 4
    boxes: Share = 0.15
    simulated_share: Share = 0.5
    simulated_clicks: Count = 3
    iou_weight: NonNegativeFloat = 1.0
    windows: bool = False


class SftRecipe:
    """Objects and their prompts; see `training.finetune.trainer.Recipe`."""

    stage = STAGE

    def __init__(self, config: SftConfig, replayer: PromptCache, rank: Rank) -> None:
        self._config, self._replayer = config, replayer
        items, self._left_out = usable(find_objects(config), self.replay, rank, config.max_unusable)
        self._train = [item for item in items if item.split == "train"]
        self._val = [item for item in items if item.split == "val"]
        if not self._train:
            raise InputError("All objects are held out for validation; there are too few.")
        self.n_train, self.n_val = len(self._train), len(self._val)

    def replay(self, item: LabeledObject) -> CachedPrompts:
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
    def items(self) -> Sequence[LabeledObject]:
        """What is trained on."""
        return self._train

    def with_replayer(self, replayer: PromptCache) -> SftRecipe:
        """The same objects, replayed by another one."""
        other = copy.copy(self)
        other._replayer = replayer
        return other

    def train(self, policy: Policy, picks: Sequence[Pick]) -> tuple[Tensor, MetricSums]:
        """The sum of the losses of one prompt of each object."""
        tally, losses = MetricSums(), []
        for prediction, examples in self._answered(policy, self._turns(policy, picks)):
            mean = example_loss(prediction, examples, self._config.iou_weight)
            losses.append(mean * len(examples))
            tally.add(_tally(prediction, examples))
            tally.note("loss", mean.detach().expand(len(examples)))
        return torch.stack(losses).sum(), tally

    def _answered(
        self, policy: Policy, examples: Sequence[TrainingExample]
    ) -> Iterator[tuple[MaskPrediction, Sequence[TrainingExample]]]:
        """Whole frames together; with windows, the others one by one on their part of the frame."""
        whole: list[tuple[TrainingExample, Embedding]] = []
        for example in examples:
            embedding = example.embedding()
            window = self._window(policy.sam, example, embedding)
            if window is None:
                whole.append((example, embedding))
            else:
                found = policy.decode_within(embedding, asked(example), window)
                yield found, [example.within(window)]
        if whole:
            alike = [example for example, _ in whole]
            yield policy.decode([embedding for _, embedding in whole], _prompts(alike)), alike

    def _window(
        self, sam: PromptableSam, example: TrainingExample, embedding: Embedding
    ) -> Window | None:
        if not self._config.windows or not sam.reads_windows:
            return None
        return window_around(example.labels, example.prompt, embedding, sam.input_size)

    def validate(self, policy: Policy, picks: Sequence[Pick]) -> MetricSums:
        """Loss and IoU at each object's first and last prompt."""
        tally = MetricSums()
        for name, index in (("first", 0), ("last", -1)):
            examples = [self._examples(self._val[pick.index])[index] for pick in picks]
            prediction = policy.decode([each.embedding() for each in examples], _prompts(examples))
            mean = example_loss(prediction, examples, self._config.iou_weight)
            tally.note("loss", mean.expand(len(examples)))
            seen = _tally(prediction, examples)
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

    def _examples(self, item: LabeledObject) -> list[TrainingExample]:
        replay = self.replay(item)
        encode = self._replayer.encode(replay, item.read, item.name)
        return [
            TrainingExample(
                prompt=each.prompt,
                embedding=partial(encode, each.view),
                labels=labels,
            )
            for each, labels in zip(replay.asked, replay.planes["labels"], strict=True)
        ]

    def _turns(self, policy: Policy, picks: Sequence[Pick]) -> list[TrainingExample]:
        """A prompt of each object, or clicks on what the decoder makes of its view by now."""
        examples = [self._drawn_prompt(pick) for pick in picks]
        config = self._config
        fresh = [i for i, p in enumerate(picks) if p.rng.random() < config.simulated_share]
        rngs = [picks[i].rng for i in fresh]
        counts = [int(rng.integers(1, config.simulated_clicks + 1)) for rng in rngs]
        made = simulated_prompts(policy, [examples[i] for i in fresh], counts, rngs)
        for index, example in zip(fresh, made, strict=True):
            examples[index] = example
        return examples

    def _drawn_prompt(self, pick: Pick) -> TrainingExample:
        examples = self._examples(self._train[pick.index])
        is_later = len(examples) > 1 and pick.rng.random() >= _FIRST_SHARE
        return examples[int(pick.rng.integers(1, len(examples))) if is_later else 0]


def annotate(
    interaction: InteractivePredictor,
    encode: Encode,
    item: LabeledObject,
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
    interaction: InteractivePredictor, encode: Encode, truth: Mask, n_clicks: int, rng: Generator
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


def _prompts(examples: Sequence[TrainingExample]) -> list[Prompt]:
    return [asked(example) for example in examples]


def _tally(prediction: MaskPrediction, examples: Sequence[TrainingExample]) -> MetricSums:
    """IoU of the shown masks, and what the model's own estimates are worth."""
    logits, scores = prediction.low_res_logits.detach(), prediction.predicted_iou.detach()
    target = torch.stack([example.target for example in examples]).to(logits.device)[:, None]
    pixels = torch.stack([example.pixel_weights for example in examples]).to(logits.device)[:, None]
    ious = mask_iou(logits, target, pixels)
    shown = prediction.shown_token()[:, None]
    tally = MetricSums()
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
    Trainer(config, sam, recipe, rank, command).run()


__all__ = ["STAGE", "SftConfig", "SftRecipe", "run"]
