"""The stream of the evaluation: objects one after the other, a simulated annotator, a learner.

What is measured is what is served: every click goes through
`adaptation.predictor.interactive.InteractivePredictor`.
A learner sees what a real annotator gives and nothing else: the clicks, and the mask that is
submitted at the end.  That mask is the current prediction when its IoU has reached the target (the
annotator keeps it), else, after the last click, the ground truth (the annotator paints the rest).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adaptation.errors import ImageError
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import (
    Answer,
    Corrector,
    Encode,
    InteractivePredictor,
    ObjectState,
)
from adaptation.predictor.settings import EdgeSettings, ZoomSettings
from adaptation.predictor.zoom import View
from adaptation.simulation.annotator import Annotator, Rules
from adaptation.storage.datasets import FolderSet, ObjectRef
from adaptation.types import Click, Embedding, Size
from training.runtime.embedding_cache import CachedEncoder

Mask = NDArray[np.bool_]
Mode = Literal["frozen", "adapted"]


class Learner(Protocol):
    """What learns while objects are annotated; one for each annotator's session."""

    @property
    def corrector(self) -> Corrector | None:
        """What makes shown masks obey the clicks, if anything does."""
        ...

    def weights(self, n_clicks: int) -> Mapping[str, Tensor] | None:
        """Decoder weights that answer the newest of so many clicks; None for the base model's."""
        ...

    def observe_click(self, answer: Answer) -> object:
        """Learn from a click that was just answered."""
        ...

    def observe_mask(self, answers: Sequence[Answer], mask: Mask, encode: Encode) -> object:
        """Learn from a finished object.

        Args:
            answers: All answers on the object, oldest first.
            mask: `[H, W]`, as the annotator submitted it.
            encode: Gives embeddings of other views of the same image.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """An object's place in an evaluation.

    Args:
        mode: With or without a learner.
        order: Number of the order of the objects.
        session: Number of the session within the order.
        position: In the session's stream, from 0.
    """

    mode: Mode
    order: int
    session: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectResult:
    """How one object went.  Tuples have one entry for each mask that was shown.

    Args:
        ref: The object.
        slot: Its place in the evaluation.
        clicks: (x, y, is_positive) in whole original pixels.
        ious: IoU with the ground truth at the original size.
        dices: Dice likewise.
        contradicted: How many of the clicks so far lie on the wrong side of the mask.
        disobeyed: Whether the newest click does.
        click_s: Seconds from the click to the mask at the original size, encoding not counted.
        is_accepted: Whether the annotator kept the last mask as it was.
        n_views: Different views that were decoded on: 1 without zoom.
        n_encoded: Views that were in no cache and had to be encoded.
        encode_s: Seconds that this took.
        learn_click_s: Seconds spent in `Learner.observe_click`, over all clicks.
        learn_mask_s: Seconds spent in `Learner.observe_mask`.
    """

    ref: ObjectRef
    slot: Slot
    clicks: tuple[tuple[int, int, bool], ...]
    ious: tuple[float, ...]
    dices: tuple[float, ...]
    contradicted: tuple[int, ...]
    disobeyed: tuple[bool, ...]
    click_s: tuple[float, ...]
    is_accepted: bool
    n_views: int
    n_encoded: int
    encode_s: float
    learn_click_s: float = 0.0
    learn_mask_s: float = 0.0


class Harness:
    """Runs objects through one model.

    Args:
        sam: The model.
        dataset: Where the objects' images and masks are.
        encoder: Gives embeddings; made for the same model.
        rules: How the annotator behaves.
        zoom: When and how far to zoom.
        edges: How masks are drawn at the image's edges.
        corrector: Makes the frozen decoder's masks obey the clicks; a learner has its own.
        clock: Seconds, for what is timed.
    """

    def __init__(
        self,
        sam: PromptableSam,
        dataset: FolderSet,
        encoder: CachedEncoder,
        rules: Rules,
        zoom: ZoomSettings,
        *,
        edges: EdgeSettings | None = None,
        corrector: Corrector | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.sam = sam
        self.rules = rules
        self._dataset = dataset
        self._encoder = encoder
        self._zoom = zoom
        self._edges = edges
        self._corrector = corrector
        self._clock = clock
        self._scene: _Scene | None = None

    def run_stream(
        self,
        refs: Sequence[ObjectRef],
        learner: Learner | None,
        *,
        order: int = 0,
        session: int = 0,
    ) -> Iterator[ObjectResult]:
        """Annotate objects one after the other; the learner keeps what it learnt between them."""
        mode: Mode = "frozen" if learner is None else "adapted"
        for position, ref in enumerate(refs):
            slot = Slot(mode=mode, order=order, session=session, position=position)
            yield self.run_object(ref, slot, learner)

    def run_object(self, ref: ObjectRef, slot: Slot, learner: Learner | None) -> ObjectResult:
        """Annotate one object from the first click to the submitted mask."""
        scene = self._open(ref)
        truth = scene.labels == ref.label
        annotator = Annotator(truth, self.rules, name=f"{ref.stem}/{ref.label}")
        record = _Record(truth, scene.image_size, keeps_answers=learner is not None)
        encoded, encode_s = self._encoder.n_encoded, self._encoder.encode_s
        self._annotate(annotator, scene.encode, record, learner)
        is_accepted = record.ious[-1] >= self.rules.target
        learn_mask_s = 0.0
        if learner is not None:
            started = self._clock()
            submitted = record.mask if is_accepted else truth
            learner.observe_mask(record.answers, submitted, scene.encode)
            learn_mask_s = self._clock() - started
        return ObjectResult(
            ref=ref,
            slot=slot,
            clicks=tuple((round(c.x), round(c.y), c.is_positive) for c in annotator.clicks),
            ious=tuple(record.ious),
            dices=tuple(record.dices),
            contradicted=tuple(record.contradicted),
            disobeyed=tuple(record.disobeyed),
            click_s=tuple(record.click_s),
            is_accepted=is_accepted,
            n_views=len(record.views),
            n_encoded=self._encoder.n_encoded - encoded,
            encode_s=self._encoder.encode_s - encode_s,
            learn_click_s=record.learn_click_s,
            learn_mask_s=learn_mask_s,
        )

    def _annotate(
        self, annotator: Annotator, encode: Encode, record: _Record, learner: Learner | None
    ) -> None:
        """Click until the target is reached or the clicks are used up."""
        annotator.begin()
        watch = _TimedEncode(encode, self._clock)
        while True:
            started, watch.seconds = self._clock(), 0.0
            weights = None if learner is None else learner.weights(len(annotator.clicks))
            corrector = self._corrector if learner is None else learner.corrector
            interaction = InteractivePredictor(self.sam, self._zoom, corrector, edges=self._edges)
            answer = interaction.answer(
                watch, record.image_size, annotator.clicks, annotator.box, record.state, weights
            )
            mask = interaction.mask(answer)
            record.add(answer, mask, self._clock() - started - watch.seconds)
            if learner is not None:
                started = self._clock()
                learner.observe_click(answer)
                record.learn_click_s += self._clock() - started
            if record.ious[-1] >= self.rules.target or not annotator.reply(mask):
                return

    def _open(self, ref: ObjectRef) -> _Scene:
        """An object's image; kept, because its neighbours in the stream lie in the same one."""
        if self._scene is None or self._scene.stem != ref.stem:
            image, labels = self._dataset.image(ref.stem), self._dataset.labels(ref.stem)
            size = image.shape[0], image.shape[1]
            if labels.shape != size:
                raise ImageError(
                    f"The image {ref.stem} has {size[1]}x{size[0]} pixels, its label map "
                    f"{labels.shape[1]}x{labels.shape[0]}; both must be of one size."
                )
            encode = self._encoder.of(image)
            self._scene = _Scene(stem=ref.stem, image_size=size, labels=labels, encode=encode)
        return self._scene


@dataclass(frozen=True, slots=True)
class _Scene:
    stem: str
    image_size: Size
    labels: NDArray[np.int32]
    encode: Encode


class _TimedEncode:
    """Counts the seconds spent on embeddings, so that they are not taken for the click's."""

    def __init__(self, encode: Encode, clock: Callable[[], float]) -> None:
        self._encode = encode
        self._clock = clock
        self.seconds = 0.0

    def __call__(self, view: View) -> Embedding:
        started = self._clock()
        embedding = self._encode(view)
        self.seconds += self._clock() - started
        return embedding


@dataclass
class _Record:
    """What is noted while an object is annotated."""

    truth: Mask
    image_size: Size
    keeps_answers: bool
    answers: list[Answer] = field(default_factory=list)
    state: ObjectState | None = None
    views: set[View] = field(default_factory=set)
    ious: list[float] = field(default_factory=list)
    dices: list[float] = field(default_factory=list)
    contradicted: list[int] = field(default_factory=list)
    disobeyed: list[bool] = field(default_factory=list)
    click_s: list[float] = field(default_factory=list)
    learn_click_s: float = 0.0

    def __post_init__(self) -> None:
        self.mask = np.zeros_like(self.truth)
        self._n_truth = np.count_nonzero(self.truth)

    def add(self, answer: Answer, mask: Mask, seconds: float) -> None:
        """Note an answer and compare its mask with the truth."""
        if self.keeps_answers:  # a learner wants them; they are large
            self.answers.append(answer)
        self.state, self.mask = answer.state, mask
        self.views.add(answer.view)
        self.click_s.append(seconds)
        shared, total = self._overlap(mask, answer.view)
        self.ious.append(shared / (total - shared))
        self.dices.append(2 * shared / total)
        wrong = [is_contradicted(mask, click) for click in answer.state.clicks]
        self.contradicted.append(sum(wrong))
        self.disobeyed.append(bool(wrong) and wrong[-1])

    def _overlap(self, mask: Mask, view: View) -> tuple[int, int]:
        """Shared pixels and the sum of both masks' pixels; outside its view a mask is empty."""
        window = slice(view.y0, view.y1), slice(view.x0, view.x1)
        inside = mask[window]
        shared = np.count_nonzero(inside & self.truth[window])
        return shared, np.count_nonzero(inside) + self._n_truth


def is_contradicted(mask: Mask, click: Click) -> bool:
    """Whether the clicked pixel lies on the wrong side of a mask."""
    return bool(mask[round(click.y), round(click.x)]) != click.is_positive
