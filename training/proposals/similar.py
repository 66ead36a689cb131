"""Measure "label a few, get the rest": proposals on new images after a few finished objects."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adaptation.errors import SettingsError
from adaptation.masks import Mask
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import InteractivePredictor
from adaptation.predictor.settings import ZoomSettings
from adaptation.proposals.memory import MemoryGenerator, MemorySettings, ObjectMemory
from adaptation.proposals.refiner import Refiner, Region, ZoomRefiner
from adaptation.proposals.similar import SimilarProposer, SimilarSettings
from adaptation.storage.datasets import MIN_AREA
from training.proposals.config import SimilarConfig
from training.proposals.images import DataImages

ACCEPTED = 0.85
MATCHES = (0.5, 0.75)

Progress = Callable[[Iterable[str], str], Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """After so many finished objects, over all images; shares in percent.

    Args:
        finished: Objects in the memory.
        n_objects: Objects of at least 100 pixels in the images.
        n_proposed: Regions that were proposed.
        precision_50: Of the proposals that match an object with an IoU of 0.5 at least.
        recall_50: Of the objects that a proposal matches so.
        precision_75: The same at 0.75.
        recall_75: The same at 0.75.
        accepted: Of the proposals with an IoU of 0.85 at least: kept as they are.
        clicks_saved: Objects proposed as they are, less proposals that match nothing and take a
            click to reject, over all objects: at least so much of "one click each" is saved.
        recall_at_precision_80: The most objects that a threshold on the score would have found
            at a precision of 80 % (IoU 0.5); the threshold is chosen with the truth at hand.
    """

    finished: int
    n_objects: int
    n_proposed: int
    precision_50: float
    recall_50: float
    precision_75: float
    recall_75: float
    accepted: float
    clicks_saved: float
    recall_at_precision_80: float

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class SimilarEvaluation:
    """One run.

    Args:
        config: What to do.
        sam: The model.
        progress: Shows how far it is.

    Raises:
        SettingsError: There are too few images or objects.
    """

    def __init__(self, config: SimilarConfig, sam: PromptableSam, progress: Progress) -> None:
        self.config, self.sam, self._progress = config, sam, progress
        self.images = DataImages.of(config.data, sam, config.cache, config.cache_gb)
        stems = [s for s in self.images.dataset.stems if self.images.has_labels(s)]
        random.Random(config.seed).shuffle(stems)
        self.examples = self._examples(stems)
        taken = {self.images.dataset.groups[stem] for stem, _ in self.examples}
        rest = [s for s in stems if self.images.dataset.groups[s] not in taken]
        self.queries = rest[: config.images]
        if not self.queries:
            raise SettingsError(
                f"{config.data.name} has no image of another group than the finished objects'."
            )

    def _examples(self, stems: Sequence[str]) -> list[tuple[str, int]]:
        """The finished objects: (stem, index of its mask), image by image."""
        wanted, found = max(self.config.finished), list[tuple[str, int]]()
        for stem in stems:
            masks = self.images.masks(stem)
            large = [k for k, mask in enumerate(masks) if np.count_nonzero(mask) >= MIN_AREA]
            random.Random(f"{self.config.seed} {stem}").shuffle(large)
            found += [(stem, k) for k in large]
            if len(found) >= wanted:
                return found[:wanted]
        raise SettingsError(
            f"{self.config.data.name} has {len(found)} objects of {MIN_AREA} pixels or more, and "
            f"{wanted} are to be finished: ask for fewer with finished=[...]."
        )

    def run(self) -> list[Row]:
        """Measure after each number of finished objects."""
        return [self._after(count) for count in sorted(self.config.finished)]

    def _after(self, count: int) -> Row:
        memory = self._memory(count)
        settings = SimilarSettings(places=self.config.places, min_score=0.0)
        refiner: Refiner | ZoomRefiner = Refiner(self.sam, all_candidates=True)
        if self.config.zoom:
            refiner = ZoomRefiner(InteractivePredictor(self.sam, ZoomSettings()))
        proposer = SimilarProposer(
            generator=MemoryGenerator(memory=memory), refiner=refiner, settings=settings
        )
        found: list[_Match] = []
        n_objects = 0
        for stem in self._progress(self.queries, f"after {count}"):
            truths = [m for m in self.images.masks(stem) if np.count_nonzero(m) >= MIN_AREA]
            encode = self.images.encode(stem) if self.config.zoom else None
            regions = proposer.propose(self.images.image(stem), encode=encode)
            found += _matched(regions, truths)
            n_objects += len(truths)
        return _row(count, n_objects, found, self.config.min_score)

    def _memory(self, count: int) -> ObjectMemory:
        channels = int(self.sam.sam.prompt_encoder.embed_dim)
        memory = ObjectMemory(channels, MemorySettings())
        for stem, index in self.examples[:count]:
            masks = self.images.masks(stem)
            others = np.logical_or.reduce(masks)
            memory.add(self.images.image(stem), masks[index], exclude=others)
        return memory


@dataclass(frozen=True, kw_only=True)
class _Match:
    """A proposal: its score and its IoU with the object that is its own, 0 without one."""

    score: float
    iou: float


def _matched(regions: Sequence[Region], truths: Sequence[Mask]) -> list[_Match]:
    """Each proposal's own object: the best pair first, each object once."""
    table = _overlaps([r.mask for r in regions], truths)
    ious = np.zeros(len(regions))
    while table.size and table.max() > 0:
        row, column = np.unravel_index(int(table.argmax()), table.shape)
        ious[row] = table[row, column]
        table[row], table[:, column] = 0, 0
    return [_Match(score=r.score, iou=float(v)) for r, v in zip(regions, ious, strict=True)]


def _overlaps(found: Sequence[Mask], true: Sequence[Mask]) -> NDArray[np.float64]:
    """IoU of each pair, ``[N, M]``."""
    if not found or not true:
        return np.zeros((len(found), len(true)))
    a = np.stack([m.ravel() for m in found]).astype(np.float32)
    b = np.stack([m.ravel() for m in true]).astype(np.float32)
    shared = a @ b.T
    union = a.sum(axis=1)[:, None] + b.sum(axis=1)[None] - shared
    return np.asarray(shared / union, np.float64)


def _row(count: int, n_objects: int, found: Sequence[_Match], min_score: float) -> Row:
    shown = [m for m in found if m.score >= min_score]
    hits = {t: sum(m.iou >= t for m in shown) for t in (*MATCHES, ACCEPTED)}
    wrong = sum(m.iou < MATCHES[0] for m in shown)

    def share(part: float, whole: int) -> float:
        return 100 * part / whole if whole else 0.0

    return Row(
        finished=count,
        n_objects=n_objects,
        n_proposed=len(shown),
        precision_50=share(hits[0.5], len(shown)),
        recall_50=share(hits[0.5], n_objects),
        precision_75=share(hits[0.75], len(shown)),
        recall_75=share(hits[0.75], n_objects),
        accepted=share(hits[ACCEPTED], len(shown)),
        clicks_saved=share(hits[ACCEPTED] - wrong, n_objects),
        recall_at_precision_80=share(_most_at_precision(found, 0.8), n_objects),
    )


def _most_at_precision(found: Sequence[_Match], precision: float) -> int:
    """The most hits among the best-scored proposals with that precision at least."""
    hits, most = 0, 0
    for rank, match in enumerate(sorted(found, key=lambda m: -m.score), start=1):
        hits += match.iou >= MATCHES[0]
        if hits >= precision * rank:
            most = hits
    return most


def table(rows: Sequence[Row]) -> str:
    """Rows as text in columns."""
    lines = [
        f"{'finished':>8}{'objects':>9}{'proposed':>9}{'P@50':>7}{'R@50':>7}{'P@75':>7}{'R@75':>7}"
        f"{'accepted':>10}{'saved':>8}{'R at P80':>10}"
    ]
    lines += [
        f"{r.finished:>8}{r.n_objects:>9}{r.n_proposed:>9}{r.precision_50:>7.1f}"
        f"{r.recall_50:>7.1f}{r.precision_75:>7.1f}{r.recall_75:>7.1f}{r.accepted:>10.1f}"
        f"{r.clicks_saved:>8.1f}{r.recall_at_precision_80:>10.1f}"
        for r in rows
    ]
    return "\n".join(lines)
