"""What a pretraining run is watched by: objects that it never sees, clicked as in the evaluation.

A few objects of each set that is kept out, or of the groups that are kept out of the others, are
clicked with the averaged weights: central clicks, zoom, nothing learned.  No set that results are
claimed on is looked at while training.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from segment_anything.modeling import Sam
from torch import Tensor

from adaptation.errors import SettingsError
from adaptation.masks import iou
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import InteractivePredictor, ObjectState
from adaptation.predictor.settings import ZoomSettings
from adaptation.predictor.zoom import View
from adaptation.simulation.annotator import Annotator, Rules
from adaptation.simulation.metrics import carried_forward, clicks_needed
from adaptation.storage.datasets import (
    FolderSet,
    Image,
    ObjectRef,
    held_out_stems,
    open_sets,
    sample_objects,
)
from adaptation.types import Embedding
from training.runtime.distributed import Rank

N_CLICKS = 10
_SHOWN = (1, 2, 3, 5, 10)
_RULES = Rules(max_clicks=N_CLICKS, target=0.90)


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """What is kept out of training, and how often a run is measured on it.

    Args:
        sets: Whole sets.
        groups_of: Sets of the shares of which some groups are kept out.
        share: Which share of their groups.
        objects: Objects in all, of every set about as many; 0 never measures.
        every_minutes: Of training, between two passes.
        patience: Passes without a better one after which a run ends.
        seed: Of the draw of the objects.
    """

    sets: tuple[str, ...] = ()
    groups_of: tuple[str, ...] = ()
    share: float = 0.1
    objects: int = 0
    every_minutes: float = 60.0
    patience: int = 4
    seed: int = 0

    def mistakes(self, shares: Mapping[str, float]) -> list[str]:
        """What makes no sense beside the shares of the training sets, one sentence each."""
        found = []
        if not 0 < self.share < 1:
            found.append(f"validation.share must lie between 0 and 1, got {self.share}")
        if twice := sorted(set(self.sets) & set(shares)):
            found.append(f"validation.sets must not be trained on: {', '.join(twice)}")
        if unknown := sorted(set(self.groups_of) - set(shares)):
            found.append(f"validation.groups_of must be sets of the shares: {', '.join(unknown)}")
        if self.objects < 0 or self.patience < 1 or self.every_minutes <= 0:
            found.append(
                "validation.objects must not be negative, its patience and every_minutes positive"
            )
        if self.objects and not self.sets and not self.groups_of:
            found.append("validation.objects needs validation.sets or validation.groups_of")
        return found


class Validation:
    """The objects that a run is watched by.

    Args:
        data: Folder of the data sets.
        config: Which objects.

    Raises:
        SettingsError: A set is missing, or what is kept out of one holds no object.
    """

    def __init__(self, data: Path, config: ValidationConfig) -> None:
        whole = open_sets(data, config.sets)
        parts = open_sets(data, config.groups_of)
        kept = [(s, frozenset(s.stems)) for s in whole]
        kept += [(s, held_out_stems(s, config.share)) for s in parts]
        self._objects = _draw(kept, config)

    @property
    def refs(self) -> list[ObjectRef]:
        """The objects, by set."""
        return [ref for _, refs in self._objects for ref in refs]

    def measure(self, sam: Sam, weights: Mapping[str, Tensor]) -> dict[str, float]:
        """Click every object ten times at most, with other weights than the model's own.

        Args:
            sam: The model; it stays as it is.
            weights: By name, as of its state dict.

        Returns:
            `val_score`, the mean IoU over ten clicks (an object that is done keeps its last
            value); `val_iou@k`; `val_noc90`, the mean of the clicks to an IoU of 0.90.
        """
        trained = copy.deepcopy(sam)
        trained.load_state_dict(dict(weights))
        predictor = InteractivePredictor(PromptableSam(trained, "compact"), ZoomSettings())
        runs = [
            click_through(predictor, dataset, ref)
            for dataset, refs in self._objects
            for ref in refs
        ]
        ious = carried_forward(runs, N_CLICKS)
        row = {f"val_iou@{k}": float(ious[:, k - 1].mean()) for k in _SHOWN}
        row["val_noc90"] = float(clicks_needed(ious, _RULES.target, N_CLICKS).mean())
        row["val_score"] = float(np.mean(ious))
        return {name: round(value, 4) for name, value in row.items()}


def click_through(
    predictor: InteractivePredictor, dataset: FolderSet, ref: ObjectRef
) -> list[float]:
    """Click one object as the evaluation's central annotator does; the IoU after every click."""
    image, truth = dataset.image(ref.stem), dataset.mask(ref)
    encode, size = _Views(predictor.sam, image), (truth.shape[0], truth.shape[1])
    annotator = Annotator(truth, _RULES, name=f"{ref.stem}/{ref.label}")
    annotator.begin()
    ious: list[float] = []
    state: ObjectState | None = None
    while True:
        answer = predictor.answer(encode, size, annotator.clicks, None, state)
        mask, state = predictor.mask(answer), answer.state
        ious.append(iou(mask, truth))
        if ious[-1] >= _RULES.target or not annotator.reply(mask):
            return ious


class _Views:
    """The embeddings of an image's views; of the newest only, which is asked for again."""

    def __init__(self, sam: PromptableSam, image: Image) -> None:
        self._sam, self._image = sam, image
        self._newest: tuple[View, Embedding] | None = None

    def __call__(self, view: View) -> Embedding:
        if self._newest is None or self._newest[0] != view:
            part = np.ascontiguousarray(self._image[view.y0 : view.y1, view.x0 : view.x1])
            self._newest = view, self._sam.embed(part)
        return self._newest[1]


class Watch:
    """Looks at a run every now and then, and says when it is over.

    The first rank measures and the others wait; all of them know the outcome.

    Args:
        data: Folder of the data sets.
        config: What is measured, and how often.
        rank: This process.
    """

    def __init__(self, data: Path, config: ValidationConfig, rank: Rank) -> None:
        self._config, self._rank = config, rank
        self._is_on = config.objects > 0
        self._validation = Validation(data, config) if self._is_on and rank.is_first else None
        self.state: dict[str, float] = {"passes": 0, "best": -1.0, "since_best": 0}

    @property
    def is_over(self) -> bool:
        """Whether the last passes brought nothing better."""
        return self.state["since_best"] >= self._config.patience

    def look(
        self, sam: Sam, weights: Mapping[str, Tensor], minutes: float
    ) -> dict[str, float] | None:
        """Measure if it is time.

        Args:
            sam: The model.
            weights: What to measure, by name.
            minutes: Spent in training so far; infinite at its end.

        Returns:
            What was measured, on the first rank; None elsewhere, and before its time.
        """
        due = (self.state["passes"] + 1) * self._config.every_minutes
        if not self._is_on or self._rank.gather(minutes)[0] < due:
            return None
        row = None if self._validation is None else self._validation.measure(sam, weights)
        score = self._rank.gather(-1.0 if row is None else row["val_score"])[0]
        is_better = score > self.state["best"]
        self.state = {
            "passes": self.state["passes"] + 1,
            "best": max(score, self.state["best"]),
            "since_best": 0 if is_better else self.state["since_best"] + 1,
        }
        return row


def _draw(
    kept: Sequence[tuple[FolderSet, frozenset[str]]], config: ValidationConfig
) -> list[tuple[FolderSet, list[ObjectRef]]]:
    """As many objects of each set as there is room for, one of each set in turn."""
    drawn = []
    for dataset, stems in kept:
        found = [ref for ref in dataset.objects() if ref.stem in stems]
        if not found:
            raise SettingsError(
                f"What validation keeps out of the data set {dataset.name!r} holds no object of "
                "100 pixels or more; keep out a larger share, or take it out of "
                "validation.groups_of."
            )
        drawn.append(sample_objects(found, config.objects, config.seed))
    in_turn = (ref for ref in chain.from_iterable(zip_longest(*drawn)) if ref is not None)
    chosen = {ref for ref, _ in zip(in_turn, range(config.objects), strict=False)}
    return [
        (dataset, sorted(chosen.intersection(refs)))
        for (dataset, _), refs in zip(kept, drawn, strict=True)
        if chosen.intersection(refs)
    ]
