"""One session's learner and the history of what it was trained on.

A session is a function of what happened to it: objects trained on, steps of idle training begun,
objects un-learned, in this order.  Nothing else changes it, so the history rebuilds it bit for bit,
and an object that is deleted or rewritten is un-learned by training on the others again.

The requests on an object are answered again when it is trained on, on the views of then and with
the session's weights of now.  So an object is known by its clicks and its mask alone, which the
journal holds, and no logits have to be kept anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from adaptation.errors import ModelError
from adaptation.learning.adapter import Adapter
from adaptation.learning.examples import StoredPrompt
from adaptation.learning.learner import ObjectReport, OnlineLearner
from adaptation.learning.settings import LearnerSettings
from adaptation.masks import Rle, decode_rle, iou
from adaptation.models.sam import PromptableSam
from adaptation.predictor.click_correction import ClickCorrection
from adaptation.predictor.interactive import Answer, InteractivePredictor, ObjectState, WeightsAt
from adaptation.predictor.settings import ZoomSettings
from adaptation.predictor.zoom import View
from adaptation.types import Box, Click, Embedding, Size

Pause = Callable[[], object]
"""Called between two computations; returns when no click waits for the processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredPrompt:
    """One request on an object.

    Args:
        clicks: All clicks so far, oldest first, original pixels.
        box: The box, if there was one.
        view: On which it was answered.
    """

    clicks: tuple[Click, ...]
    box: Box | None
    view: View


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SessionObject:
    """A finished object as a session is trained on it.

    Args:
        annotation_id: The annotation that it is part of.
        region_id: The region that it became.
        steps: The requests on it, oldest first; at least one.
        mask: As submitted, at the image's size.
        encode: Embedding of a view of its image.
    """

    annotation_id: str
    region_id: str
    steps: tuple[AnsweredPrompt, ...]
    mask: Rle
    encode: Callable[[View], Embedding]

    @property
    def image_size(self) -> Size:
        """(H, W) of the image."""
        return self.mask.size

    @property
    def clicks(self) -> tuple[Click, ...]:
        """All clicks on it."""
        return self.steps[-1].clicks


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleStretch:
    """A stretch of idle training.

    Args:
        n_begun: Steps that were begun: all that it takes to make the stretch again.
        n_steps: Steps that were made.
    """

    n_begun: int
    n_steps: int


@dataclass(slots=True, eq=False)
class _Trained:
    """An entry of the history: an object, and the stretches of idle training that followed it."""

    finished: SessionObject
    idle_steps: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Restart:
    """An entry of the history: the session went on from its weights with an empty memory."""

    adapter: Adapter
    settings: LearnerSettings
    seed: int


class LearningSession:
    """A learner with its history.  Used by one thread; :attr:`adapter` may be read by any.

    A call that raises leaves the session in no state that can be told: drop it, and make one anew
    from the last adapter that is known.

    Args:
        sam: The shared model.
        settings: How it learns.
        seed: Of all draws.
        start: The adapter it starts from.
    """

    def __init__(
        self, sam: PromptableSam, settings: LearnerSettings, seed: int, start: Adapter
    ) -> None:
        self._sam, self._adapter = sam, start
        self._origin = _Restart(start, settings, seed)
        self._history: list[_Trained | _Restart] = [self._origin]
        self._learner: OnlineLearner | None = None

    @property
    def adapter(self) -> Adapter:
        """What the session has learned so far; immutable."""
        return self._adapter

    @property
    def origin(self) -> Adapter:
        """What it started from, or went on from with an empty memory."""
        return self._origin.adapter

    @property
    def n_objects(self) -> int:
        """Objects in the history."""
        return sum(isinstance(entry, _Trained) for entry in self._history)

    def answer_again(self, finished: SessionObject, pause: Pause) -> list[StoredPrompt]:
        """The requests on an object, answered again; this alone changes nothing.

        Raises:
            StropError: Its image cannot be read, or the answers are not finite.
        """
        interaction = interaction_of(self._sam, self._origin.settings)
        found = []
        for answer in ask(interaction, finished, self._running().weights, pause):
            if not bool(torch.isfinite(answer.shown_logits).all()):
                raise ModelError("The decoder's answer to one of its clicks is not finite.")
            found.append(StoredPrompt.of(answer))
        return found

    def train_on(
        self, finished: SessionObject, asked: Sequence[StoredPrompt], pause: Pause
    ) -> ObjectReport:
        """Train on a finished object whose requests :meth:`answer_again` has just answered."""
        learner, mask = self._running(), decode_rle(finished.mask)
        report = learner.observe_mask(asked, finished.clicks, mask, finished.encode, pause)
        self._adapter = learner.adapter
        self._history.append(_Trained(finished))
        return report

    def train_idle(self, should_stop: Callable[[], bool], pause: Pause) -> IdleStretch:
        """Replay in idle time, waiting within a step and stopping between steps."""
        n_begun = 0

        def counted() -> bool:
            nonlocal n_begun
            is_over = should_stop()
            n_begun += not is_over
            return is_over

        n_steps = self._running().train_idle(counted, pause)
        self._adapter = self._running().adapter
        last = self._history[-1]
        if n_begun and isinstance(last, _Trained):
            last.idle_steps.append(n_begun)
        return IdleStretch(n_begun=n_begun, n_steps=n_steps)

    def train_idle_again(self, n_begun: int, pause: Pause) -> IdleStretch:
        """Begin as many steps as were begun in the stretch that is repeated."""
        left = n_begun

        def is_enough() -> bool:
            nonlocal left
            pause()
            left -= 1
            return left < 0

        return self.train_idle(is_enough, pause)

    def unlearn(self, annotation_id: str, pause: Pause) -> int:
        """Un-learn an annotation: everything after it is repeated without it.

        Returns:
            Objects un-learned; 0 where the session was not trained on the annotation.
        """
        found = [i for i, entry in enumerate(self._history) if _is_of(entry, annotation_id)]
        if not found:
            return 0
        restarts = (i for i in range(found[0]) if isinstance(self._history[i], _Restart))
        begin = max(restarts)
        origin, *again = self._history[begin:]
        assert isinstance(origin, _Restart)
        self._history, self._adapter = self._history[:begin], origin.adapter
        self._begin(origin)
        for entry in again:
            if not _is_of(entry, annotation_id):
                self._repeat(entry, pause)
        return len(found)

    def restart(self, settings: LearnerSettings, seed: int) -> None:
        """Go on from the weights as they are, with an empty memory: what a new process does."""
        self._begin(_Restart(self._adapter, settings, seed))

    def release(self) -> None:
        """Free the learner's memory, when only :meth:`restart` will follow."""
        self._learner = None

    def _begin(self, origin: _Restart) -> None:
        self._origin, self._learner = origin, None
        self._history.append(origin)

    def _repeat(self, entry: _Trained | _Restart, pause: Pause) -> None:
        if isinstance(entry, _Restart):
            self.restart(entry.settings, entry.seed)
            return
        self.train_on(entry.finished, self.answer_again(entry.finished, pause), pause)
        for n_begun in entry.idle_steps:
            self.train_idle_again(n_begun, pause)

    def _running(self) -> OnlineLearner:
        if self._learner is None:
            origin = self._origin
            self._learner = OnlineLearner(self._sam, origin.settings, origin.seed, origin.adapter)
        return self._learner


def interaction_of(sam: PromptableSam, settings: LearnerSettings) -> InteractivePredictor:
    """The click path of a session, for views that are known already."""
    return InteractivePredictor(
        sam, ZoomSettings(is_on=False), ClickCorrection(settings.correction, sam.input_size)
    )


def answering(sam: PromptableSam, adapter: Adapter) -> WeightsAt:
    """What an adapter answers with."""
    return partial(adapter.weights_at, sam)


def ask(
    interaction: InteractivePredictor, finished: SessionObject, weights: WeightsAt, pause: Pause
) -> Iterator[Answer]:
    """Answer the requests on an object again, each answer fed back into the next one."""
    state: ObjectState | None = None
    for step in finished.steps:
        pause()
        if state is not None and not state.precedes(step.clicks, step.box):
            state = None
        answer = interaction.answer(
            finished.encode,
            finished.image_size,
            step.clicks,
            step.box,
            state,
            weights(len(step.clicks)),
            step.view,
        )
        yield answer
        state = answer.state


def mean_iou(
    interaction: InteractivePredictor, finished: SessionObject, weights: WeightsAt, pause: Pause
) -> float:
    """Mean IoU of the answers to an object's requests with its submitted mask, at its own size."""
    mask = decode_rle(finished.mask)
    found = [iou(interaction.mask(a), mask) for a in ask(interaction, finished, weights, pause)]
    return sum(found) / len(found)


def _is_of(entry: _Trained | _Restart, annotation_id: str) -> bool:
    return isinstance(entry, _Trained) and entry.finished.annotation_id == annotation_id
