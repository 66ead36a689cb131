"""One session's learner and the diary of what it was taught.

A session is a function of what happened to it: objects taught, steps of thinking begun, objects
forgotten, in this order.  Nothing else moves it, so the diary rebuilds it bit for bit, and an
object that is deleted or rewritten is un-learned by teaching the rest again.

What was asked on an object is asked again when it is taught, on the views of then and with the
session's weights of now.  So an object is known by its clicks and its mask alone, which the journal
holds, and no logits have to be kept anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from adaptation.errors import ModelError
from adaptation.learning.adapter import Adapter
from adaptation.learning.examples import AskedPrompt
from adaptation.learning.learner import ObjectReport, OnlineLearner
from adaptation.learning.settings import LearnerSettings
from adaptation.masks import Rle, decode_rle, iou
from adaptation.models.sam import PromptableSam
from adaptation.predictor.click_correction import ClickCorrection
from adaptation.predictor.interactive import Answer, Interaction, ObjectState, WeightsAt
from adaptation.predictor.zoom import View, ZoomSettings
from adaptation.types import Box, Click, Embedding, Size

Pause = Callable[[], object]
"""Called between two computations; returns when no click waits for the processor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
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
class Taught:
    """A finished object as a session is taught it.

    Args:
        annotation_id: The annotation that it is part of.
        region_id: The region that it became.
        steps: What was asked on it, oldest first; at least one.
        mask: As submitted, at the image's size.
        encode: Embedding of a view of its image.
    """

    annotation_id: str
    region_id: str
    steps: tuple[Step, ...]
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
class Thought:
    """A stretch of thinking.

    Args:
        n_begun: Steps that were begun: all that it takes to make the stretch again.
        n_steps: Steps that were made.
    """

    n_begun: int
    n_steps: int


@dataclass(slots=True, eq=False)
class _Lesson:
    """An entry of the diary: an object, and the stretches of thinking that followed it."""

    taught: Taught
    thought: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class _Restart:
    """An entry of the diary: the session went on from its weights with an empty memory."""

    adapter: Adapter
    settings: LearnerSettings
    seed: int


class TaughtSession:
    """A learner with its diary.  Used by one thread; :attr:`adapter` may be read by any.

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
        self._diary: list[_Lesson | _Restart] = [self._origin]
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
        """Objects in the diary."""
        return sum(isinstance(entry, _Lesson) for entry in self._diary)

    def asked(self, taught: Taught, pause: Pause) -> list[AskedPrompt]:
        """What was asked on an object, asked again; this alone changes nothing.

        Raises:
            StropError: Its image cannot be read, or the answers are not finite.
        """
        interaction = interaction_of(self._sam, self._origin.settings)
        found = []
        for answer in ask(interaction, taught, self._awake().weights, pause):
            if not bool(torch.isfinite(answer.shown_logits).all()):
                raise ModelError("The decoder's answer to one of its clicks is not finite.")
            found.append(AskedPrompt.of(answer))
        return found

    def teach(self, taught: Taught, asked: Sequence[AskedPrompt], pause: Pause) -> ObjectReport:
        """Learn from a finished object, of which was :meth:`asked` just before."""
        learner, mask = self._awake(), decode_rle(taught.mask)
        report = learner.observe_mask(asked, taught.clicks, mask, taught.encode, pause)
        self._adapter = learner.adapter
        self._diary.append(_Lesson(taught))
        return report

    def think(self, should_stop: Callable[[], bool], pause: Pause) -> Thought:
        """Replay in idle time, waiting within a step and stopping between steps."""
        n_begun = 0

        def counted() -> bool:
            nonlocal n_begun
            is_over = should_stop()
            n_begun += not is_over
            return is_over

        n_steps = self._awake().think(counted, pause)
        self._adapter = self._awake().adapter
        last = self._diary[-1]
        if n_begun and isinstance(last, _Lesson):
            last.thought.append(n_begun)
        return Thought(n_begun=n_begun, n_steps=n_steps)

    def think_again(self, n_begun: int, pause: Pause) -> Thought:
        """Begin as many steps as were begun when the session thought for itself."""
        left = n_begun

        def is_enough() -> bool:
            nonlocal left
            pause()
            left -= 1
            return left < 0

        return self.think(is_enough, pause)

    def forget(self, annotation_id: str, pause: Pause) -> int:
        """Un-learn an annotation: everything after it is taught again without it.

        Returns:
            Objects forgotten; 0 where the annotation taught nothing.
        """
        found = [i for i, entry in enumerate(self._diary) if _is_of(entry, annotation_id)]
        if not found:
            return 0
        restarts = (i for i in range(found[0]) if isinstance(self._diary[i], _Restart))
        begin = max(restarts)
        origin, *again = self._diary[begin:]
        assert isinstance(origin, _Restart)
        self._diary, self._adapter = self._diary[:begin], origin.adapter
        self._begin(origin)
        for entry in again:
            if not _is_of(entry, annotation_id):
                self._live_again(entry, pause)
        return len(found)

    def restart(self, settings: LearnerSettings, seed: int) -> None:
        """Go on from the weights as they are, with an empty memory: what a new process does."""
        self._begin(_Restart(self._adapter, settings, seed))

    def rest(self) -> None:
        """Give the memory of the learner back, when only :meth:`restart` will follow."""
        self._learner = None

    def _begin(self, origin: _Restart) -> None:
        self._origin, self._learner = origin, None
        self._diary.append(origin)

    def _live_again(self, entry: _Lesson | _Restart, pause: Pause) -> None:
        if isinstance(entry, _Restart):
            self.restart(entry.settings, entry.seed)
            return
        self.teach(entry.taught, self.asked(entry.taught, pause), pause)
        for n_begun in entry.thought:
            self.think_again(n_begun, pause)

    def _awake(self) -> OnlineLearner:
        if self._learner is None:
            origin = self._origin
            self._learner = OnlineLearner(self._sam, origin.settings, origin.seed, origin.adapter)
        return self._learner


def interaction_of(sam: PromptableSam, settings: LearnerSettings) -> Interaction:
    """The click path of a session, for views that are known already."""
    return Interaction(
        sam, ZoomSettings(is_on=False), ClickCorrection(settings.correction, sam.input_size)
    )


def answering(sam: PromptableSam, adapter: Adapter) -> WeightsAt:
    """What an adapter answers with."""
    return partial(adapter.weights_at, sam)


def ask(
    interaction: Interaction, taught: Taught, weights: WeightsAt, pause: Pause
) -> Iterator[Answer]:
    """Ask again what was asked on an object, each answer fed back into the next question."""
    state: ObjectState | None = None
    for step in taught.steps:
        pause()
        if state is not None and not state.precedes(step.clicks, step.box):
            state = None
        answer = interaction.answer(
            taught.encode,
            taught.image_size,
            step.clicks,
            step.box,
            state,
            weights(len(step.clicks)),
            step.view,
        )
        yield answer
        state = answer.state


def mean_iou(interaction: Interaction, taught: Taught, weights: WeightsAt, pause: Pause) -> float:
    """Mean IoU of the answers to an object's requests with its submitted mask, at its own size."""
    mask = decode_rle(taught.mask)
    found = [iou(interaction.mask(a), mask) for a in ask(interaction, taught, weights, pause)]
    return sum(found) / len(found)


def _is_of(entry: _Lesson | _Restart, annotation_id: str) -> bool:
    return isinstance(entry, _Lesson) and entry.taught.annotation_id == annotation_id
