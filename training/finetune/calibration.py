"""Calibrated scores: the mask that people mean by a lone click is to be scored highest.

A lone click may mean several things, so the decoder offers several masks, and shows the one of
which it predicts the highest IoU.  The masks may be right and the prediction wrong: on images
unlike those it was trained on, which mask is best is what a decoder knows least.  So the last layer
of its IoU head is fitted anew, in closed form, to the IoU that its masks had with masks that people
submitted: ridge regression of what the scores lack on the features that this layer reads.  Nothing
else changes, no mask and no other score, so it can follow any stage of training, or stand alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveFloat
from torch import Tensor
from tqdm import tqdm

from adaptation.config import Count
from adaptation.errors import InputError
from adaptation.learning.examples import StoredPrompt
from adaptation.learning.losses import mask_iou
from adaptation.models.base_decoder import read_card
from adaptation.models.decoder import score_layer
from adaptation.models.sam import PromptableSam
from adaptation.predictor.components import pointed_at
from adaptation.predictor.interactive import Encode
from adaptation.predictor.zoom import View
from adaptation.simulation.clicker import noisy_click
from adaptation.storage.provenance import commit
from adaptation.types import Click, Embedding, Prompt, Size
from training.evaluation.results import RunFolder
from training.finetune.collator import best_is_scored_highest
from training.finetune.config import TUNED, ObjectsConfig
from training.finetune.metrics import MetricSums
from training.finetune.objects import LabeledObject, check_mask, find_objects
from training.finetune.prompt_cache import CachedPrompts, PromptCache, Unusable, plane
from training.finetune.report import RunSummary, write_result, write_row
from training.finetune.screening import usable
from training.finetune.trainer import open_model, open_replayer
from training.runtime.checkpoints import LOG
from training.runtime.distributed import Rank

STAGE = "calibrate"
_SURE = 0.02
"""IoUs count as lying at least this far from 0 and 1 where a head ends in a sigmoid."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig(ObjectsConfig):
    """Everything that a run depends on; configs/calibrate.yaml says what each value does."""

    run: Path = Path("runs/calibrate")
    clicks: Count = 2
    l2: PositiveFloat = 0.03


# The fit -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoneClicks:
    """What the decoder answered to N lone clicks.

    Args:
        features: [N, d] float64, what the last layer of the IoU head reads.
        scores: [N, T - 1] float64, predicted IoU of the candidates; its logit where the head ends
            in a sigmoid.
        ious: [N, T - 1] float64, their IoU with the mask that was meant.
        are_logits: Whether the head ends in a sigmoid, as SAM 2's does.
    """

    features: Tensor
    scores: Tensor
    ious: Tensor
    are_logits: bool = False

    def __len__(self) -> int:
        return len(self.features)

    @property
    def wanted(self) -> Tensor:
        """What the scores should be, [N, T - 1]."""
        return torch.logit(self.ious, eps=_SURE) if self.are_logits else self.ious

    def as_ious(self, scores: Tensor) -> Tensor:
        """Scores as predicted IoUs."""
        return scores.sigmoid() if self.are_logits else scores


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreUpdate:
    """What is added to the rows of the last layer that score candidates.

    Args:
        weight: [T - 1, d] float64.
        bias: [T - 1] float64.
    """

    weight: Tensor
    bias: Tensor

    def scores(self, clicks: LoneClicks) -> Tensor:
        """The scores after the change, [N, T - 1]."""
        return clicks.scores + clicks.features @ self.weight.T + self.bias


def fit(clicks: LoneClicks, l2: float) -> ScoreUpdate:
    """Ridge regression of what the scores lack: min |X W + b - (wanted - scores)|^2 / N + l2 |W|^2.

    X are the features, each with mean 0 and variance 1; those that never change say nothing.

    Args:
        clicks: N of them, at least one.
        l2: Penalty; the larger, the less the scores move apart from their mean.
    """
    mean = clicks.features.mean(dim=0)
    spread = clicks.features.std(dim=0, correction=0)
    scale = torch.where(spread > 1e-6, 1 / spread.clamp(min=1e-6), torch.zeros_like(spread))
    x, lacking = (clicks.features - mean) * scale, clicks.wanted - clicks.scores
    offset = lacking.mean(dim=0)
    penalty = l2 * len(clicks) * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(x.T @ x + penalty, x.T @ (lacking - offset)).T * scale
    return ScoreUpdate(weight=weight, bias=offset - weight @ mean)


def measured(clicks: LoneClicks, scores: Tensor) -> dict[str, float]:
    """What scores, [N, T - 1], are worth."""
    tally = MetricSums()
    scores = clicks.as_ious(scores)
    highest = scores.argmax(dim=1, keepdim=True)
    tally.note("iou", clicks.ious.gather(1, highest)[:, 0])
    tally.note("predicted_iou_error", (scores - clicks.ious).abs().flatten())
    tally.note("calibration/accuracies", best_is_scored_highest(scores, clicks.ious))
    tally.note_gap("calibration/ece", scores, clicks.ious)
    return tally.means()


# The decoder -------------------------------------------------------------------------------------


def ask(sam: PromptableSam, embedding: Embedding, prompt: Prompt, labels: Tensor) -> LoneClicks:
    """Answer one lone click.

    Args:
        sam: The model.
        embedding: Of the view.
        prompt: One click.
        labels: [h, w] int8 on the grid of the logits: 1 object, 0 background, -1 padding.
    """
    parameters = sam.decoder_parameters()
    name = score_layer(parameters)
    weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
    with torch.no_grad():
        with sam.observing(name) as read:
            found = sam.decode(embedding, [prompt])
        features = read[0]
        scores = features @ weight.T + bias
        target, known = (labels == 1).float(), (labels != -1).float()
        offered = torch.stack(
            [_as_shown(each, prompt, embedding, sam) for each in found.low_res_logits[0]]
        )
        ious = mask_iou(offered, target.to(sam.device), known.to(sam.device))
    return LoneClicks(
        features=features.cpu().double(),
        scores=scores[:, 1:].cpu().double(),
        ious=ious[None, 1:].cpu().double(),
        are_logits=sam.scores_are_logits,
    )


def _as_shown(logits: Tensor, prompt: Prompt, embedding: Embedding, sam: PromptableSam) -> Tensor:
    return pointed_at(logits, prompt, embedding, sam.input_size / sam.low_res_size)


def calibrated(sam: PromptableSam, change: ScoreUpdate) -> dict[str, Tensor]:
    """All of the decoder's parameters, with the scores of the candidates changed."""
    parameters = dict(sam.decoder_parameters())
    name = score_layer(parameters)
    for part, added in (("weight", change.weight), ("bias", change.bias)):
        old = parameters[f"{name}.{part}"]
        new = old.detach().clone()
        new[1:] += added.to(new.device, new.dtype)
        parameters[f"{name}.{part}"] = new
    return parameters


# The objects -------------------------------------------------------------------------------------


class Clicks:
    """Lone clicks on objects whose masks are known.

    Args:
        config: How many, and the seed.
        replayer: Of the model.
    """

    def __init__(self, config: CalibrationConfig, replayer: PromptCache) -> None:
        self._config, self._replayer = config, replayer

    def replay(self, item: LabeledObject) -> CachedPrompts:
        """An object's lone clicks, and its mask on the grid of the logits."""
        config = self._config

        def make(encode: Encode, size: Size) -> tuple[Sequence[StoredPrompt], Mapping[str, Tensor]]:
            truth, view = item.mask(), View.full(size)
            check_mask(truth, size)
            framed = encode(view).input_size
            labels = plane(truth, view, framed, self._replayer.sam)
            if not bool((labels == 1).any()):
                raise Unusable("its mask vanishes at the model's resolution")
            prompts = (Prompt(clicks=(click,)) for click in lone_clicks(item, truth, config))
            asked = [StoredPrompt(view=view, prompt=each, input_size=framed) for each in prompts]
            return asked, {"labels": labels}

        key = f"lone clicks {item.key} {config.clicks} {config.seed}"
        return self._replayer.replay(key, item.image_key, item.read, make)

    def of(self, items: Sequence[LabeledObject], name: str) -> LoneClicks | None:
        """The answers to all clicks on some objects; None without objects."""
        found = [
            answer
            for item in tqdm(items, desc=name, unit="object", leave=False)
            for answer in self._answers(item)
        ]
        if not found:
            return None
        parts = ([getattr(a, part) for a in found] for part in ("features", "scores", "ious"))
        features, scores, ious = (torch.cat(part) for part in parts)
        are_logits = found[0].are_logits
        return LoneClicks(features=features, scores=scores, ious=ious, are_logits=are_logits)

    def _answers(self, item: LabeledObject) -> Iterator[LoneClicks]:
        replay = self.replay(item)
        encode = self._replayer.encode(replay, item.read, item.name)
        for asked in replay.asked:
            embedding = encode(asked.view)
            yield ask(self._replayer.sam, embedding, asked.prompt, replay.planes["labels"])


def lone_clicks(item: LabeledObject, truth: Mask, config: CalibrationConfig) -> Iterator[Click]:
    """The first click that was made on an object, and others that might have been."""
    digest = hashlib.sha256(item.key.encode()).digest()
    rng = np.random.default_rng([config.seed, *digest[:8]])
    recorded = [c for c in item.clicks[:1] if c.is_positive and item.box is None]
    yield from recorded
    nothing = np.zeros_like(truth)
    for _ in range(config.clicks - len(recorded)):
        click = noisy_click(truth, nothing, rng)
        assert click is not None, "a mask that is not empty can be clicked"
        yield click


# A run -------------------------------------------------------------------------------------------


def run(config: CalibrationConfig, command: str = "strop-train calibrate") -> None:
    """Fit the scores, and write the decoder and the report.

    Raises:
        InputError: There is no object to learn from.
        SettingsError: The run folder holds a run of something else.
    """
    started = time.monotonic()
    sam = open_model(config, Rank())
    clicks = Clicks(config, open_replayer(config, sam))
    exercises = find_objects(config)
    items, left_out = usable(exercises, clicks.replay, Rank(), config.max_unusable)
    train = [item for item in items if item.split == "train"]
    val = [item for item in items if item.split == "val"]
    seen, held_out = clicks.of(train, "calibrate"), clicks.of(val, "validation")
    if seen is None:
        raise InputError("All objects are held out for validation; there are too few.")
    identity = _identity(config, sam, train, val)
    RunFolder(config.run, identity, commit())
    change = fit(seen, config.l2)
    (config.run / LOG).unlink(missing_ok=True)
    if held_out is not None:
        for step, scores in enumerate((held_out.scores, change.scores(held_out))):
            values = {f"eval_{name}": value for name, value in measured(held_out, scores).items()}
            write_row(config.run, {"step": step, **values})
    summary = RunSummary(
        command=command,
        identity=identity,
        notes={"left_out": {reason: asdict(group) for reason, group in left_out.items()}},
        steps=1,
        minutes=(time.monotonic() - started) / 60,
        n_starts=1,
    )
    write_result(config.run, sam, calibrated(sam, change), summary)


def _identity(
    config: CalibrationConfig,
    sam: PromptableSam,
    train: Sequence[LabeledObject],
    val: Sequence[LabeledObject],
) -> dict[str, Any]:
    parent = "base" if config.base is None else read_card(config.base).stage
    keys = "\n".join(item.key for item in (*train, *val))
    return {
        "stage": parent if parent in TUNED else STAGE,  # what was tuned before is tuned still
        "calibrated": True,
        "base": {
            "model_id": sam.model_id,
            "encoder_id": sam.encoder_id,
            "decoder_id": sam.decoder_id,
        },
        "data": {
            "train": len(train),
            "validation": len(val),
            "images": len({item.image_key for item in (*train, *val)}),
            "digest": hashlib.sha256(keys.encode()).hexdigest()[:16],
        },
        "config": config.identity(),
    }
