"""The online learner: a decoder that improves while one session labels.

Two time scales.  Fast: the object at hand, corrected in closed form from its clicks
(:mod:`adaptation.predictor.click_correction`), dropped when it is finished.  Slow: the session's
decoder weights, learned by gradient from finished masks (Schön et al. 2024, arXiv 2404.08421) with
replay of earlier objects, and, in idle time, from freshly simulated clicks.

A learner is a function of the calls made to it: the same calls with the same seed give the same
weights, bit for bit, so a session can be rebuilt from a journal of them.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptation.learning import losses
from adaptation.learning.adapter import Adapter, adapter_of, trainable_names
from adaptation.learning.adapter_scale import ScaleSelector
from adaptation.learning.examples import (
    DecodedPrompt,
    TrainingExample,
    asked,
    example_loss,
    examples_of,
    simulated_prompt,
)
from adaptation.learning.guard import EarlyStopping, Guard, reason_against
from adaptation.learning.parameters import TrainableParameters
from adaptation.learning.settings import LearnerSettings
from adaptation.learning.trial import Examiner, Tried
from adaptation.models.precision import has_fast_bfloat16
from adaptation.models.sam import PromptableSam
from adaptation.predictor.click_correction import ClickCorrection
from adaptation.predictor.zoom import View
from adaptation.types import Click, Embedding, Prompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectReport:
    """What came of one finished object.

    Args:
        adapted_iou: Mean IoU of the session's answers with the submitted mask.
        frozen_iou: The same of the base decoder on the same prompts.
        n_steps: Optimiser steps made.
        skipped: Why nothing was learned, or None.
        turned_back: Whether the session fell back to the last adapter that won.
        version: Of the adapter after the object.
    """

    adapted_iou: float
    frozen_iou: float
    n_steps: int
    skipped: str | None
    turned_back: bool
    version: str


@dataclass(slots=True, eq=False)
class _Remembered:
    examples: tuple[TrainingExample, ...]
    is_kept_out: bool


class OnlineLearner:
    """Learns in one session; not thread-safe, but :attr:`adapter` may be read at any time.

    Args:
        sam: The shared model; never written to.
        settings: How to learn.
        seed: Of all draws.
        adapter: Where to start, the base decoder by default.
    """

    def __init__(
        self,
        sam: PromptableSam,
        settings: LearnerSettings,
        seed: int = 0,
        adapter: Adapter | None = None,
    ) -> None:
        self.sam = sam
        self.settings = settings
        self.adapter = adapter or Adapter(decoder_id=sam.decoder_id)
        self.corrector = ClickCorrection(settings.correction, sam.input_size)
        self.guard = Guard(settings.guard, won=self.adapter)
        self._trust = ScaleSelector(settings.trust, self.adapter)
        self._examiner = Examiner(sam)
        self._memory: deque[_Remembered] = deque(maxlen=settings.replay)
        self._rng = np.random.default_rng(seed)
        self._names = trainable_names(sam.decoder_parameters(), settings.subset)
        self._n_finished = 0
        self._progress = EarlyStopping(settings.think_patience)

    # What the service and the harness call ---------------------------------------------------

    def weights(self, n_clicks: int) -> dict[str, Tensor] | None:
        """Decoder weights that answer the newest of so many clicks on an object."""
        return self.adapter.weights_at(self.sam, n_clicks)

    def observe_mask(
        self,
        answers: Sequence[DecodedPrompt],
        clicks: Sequence[Click],
        mask: NDArray[np.bool_],
        encode: Callable[[View], Embedding],
        pause: Callable[[], object] = lambda: None,
    ) -> ObjectReport:
        """Learn from a finished object.

        Args:
            answers: Everything that was answered on it, oldest first; at least one.
            clicks: All clicks on it, original pixels.
            mask: ``[H, W]`` bool, as submitted, at the original size.
            encode: Embedding of a view of its image; kept, and called again in replay.
            pause: Called before every part of a step; returns when no click waits for the
                processor.
        """
        settings = self.settings
        examples = examples_of(
            answers,
            mask,
            encode,
            self.sam,
            share=settings.erosion_share,
            most=settings.lessons,
        )
        tried = self._examiner.try_all(self.adapter, examples)
        ious = tried.ious
        adapted, frozen = tried.as_given(self.adapter), float(ious[0].mean())
        reason = reason_against(mask, clicks, float(ious.max()), settings.guard)
        turned_back, n_steps = False, 0
        if reason is not None:
            logger.info("nothing learned from an object: %s", reason)
        else:
            self._weigh(tried)
            turned_back = self._turn_back(adapted, frozen)
            n_steps = self._learn(examples, pause)
        return ObjectReport(
            adapted_iou=adapted,
            frozen_iou=frozen,
            n_steps=n_steps,
            skipped=reason,
            turned_back=turned_back,
            version=self.adapter.version,
        )

    def train_idle(
        self,
        should_stop: Callable[[], bool] = lambda: False,
        pause: Callable[[], object] = lambda: None,
    ) -> int:
        """Train in idle time: replay with freshly simulated clicks while it still helps.

        A stretch after which the objects kept out of it are answered no better is undone; without
        any there is nothing to judge it by, and nothing is done.

        Args:
            should_stop: Asked before every step; True when a click waits.
            pause: As for :meth:`observe_mask`.

        Returns:
            Steps made; 0 when there is nothing to learn or nothing more to gain.
        """
        pool = [m for m in self._memory if not m.is_kept_out]
        can_be_judged = len(pool) < len(self._memory)
        if not pool or not can_be_judged or self._progress.is_over:
            return 0
        before = self.adapter

        def draw() -> list[tuple[TrainingExample, bool]]:
            if self._progress.best is None:  # nothing was taken a step from here yet
                self._progress.best = self._kept_out_loss(pause)
            return self._draw(pool, self.settings.simulated_share)

        n_steps = self._run_steps(self.settings.think_steps, draw, should_stop, pause)
        if n_steps and not self._progress.made(self._kept_out_loss(pause)):
            self.adapter = before
        return n_steps

    # One object --------------------------------------------------------------------------------

    def _weigh(self, tried: Tried) -> None:
        """Let the object say what is to be used of what was learned before it."""
        if not self.adapter.is_empty:
            self._trust.observe(tried.n_clicks, tried.ious)
        if tried.offered:
            self._trust.observe_lone_click(tried.offered)
        self.adapter = self._trust.applied(self.adapter)

    def _turn_back(self, adapted_iou: float, frozen_iou: float) -> bool:
        if not self.guard.observe(self.adapter, adapted_iou, frozen_iou):
            return False
        logger.info("the session turns back to adapter %s", self.guard.won.version)
        self.adapter = self.guard.won
        self._trust = ScaleSelector(self.settings.trust, self.adapter)
        for _ in range(min(len(self._memory), self.settings.guard.least)):
            self._memory.pop()
        self.guard.won = Adapter(decoder_id=self.sam.decoder_id)
        return True

    def _learn(self, examples: tuple[TrainingExample, ...], pause: Callable[[], object]) -> int:
        """Steps on the new object with replay, undone if earlier objects get worse by them."""
        self._n_finished += 1
        kept_out = self._n_finished % self.settings.keep_out == 0
        pool = [m for m in self._memory if not m.is_kept_out]
        before, probes = self.adapter, self._probes()
        known = self._probe_iou(probes)
        n_steps = self._run_steps(
            self.settings.steps,
            lambda: [self._pick(examples, 0.0), *self._draw(pool, 0.0)[1:]],
            pause=pause,
        )
        if probes and self._probe_iou(probes) < known - self.settings.guard.probe_drop:
            logger.info("an update made earlier objects worse and was dropped")
            self.adapter, n_steps = before, 0
        else:
            self._memory.append(_Remembered(examples, kept_out))
            self._progress = EarlyStopping(self.settings.think_patience)
        return n_steps

    def _probes(self) -> list[TrainingExample]:
        """First prompts of a few earlier objects, drawn anew each time."""
        if not self._memory:
            return []
        n = min(self.settings.guard.n_probes, len(self._memory))
        chosen = self._rng.choice(len(self._memory), n, replace=False)
        return [self._memory[int(i)].examples[0] for i in chosen]

    def _probe_iou(self, probes: list[TrainingExample]) -> float:
        if not probes:
            return 0.0
        return float(self._examiner.ious(probes, self.adapter.weights(self.sam)).mean())

    # Drawing -----------------------------------------------------------------------------------

    def _draw(
        self, pool: Sequence[_Remembered], simulated_share: float
    ) -> list[tuple[TrainingExample, bool]]:
        """One batch of examples from memory, each to be asked as it was or simulated afresh."""
        if not pool:
            return []
        chosen = self._rng.integers(0, len(pool), self.settings.batch)
        return [self._pick(pool[int(i)].examples, simulated_share) for i in chosen]

    def _pick(
        self, examples: Sequence[TrainingExample], simulated_share: float
    ) -> tuple[TrainingExample, bool]:
        """The first prompt in two of five cases, else a later one; sometimes simulated afresh."""
        later = len(examples) > 1 and self._rng.random() >= 0.4
        index = int(self._rng.integers(1, len(examples))) if later else 0
        return examples[index], bool(self._rng.random() < simulated_share)

    # Steps -------------------------------------------------------------------------------------

    def _run_steps(
        self,
        n_steps: int,
        draw: Callable[[], list[tuple[TrainingExample, bool]]],
        should_stop: Callable[[], bool] = lambda: False,
        pause: Callable[[], object] = lambda: None,
    ) -> int:
        """Adam steps from the current adapter; a step that is not finite ends them."""
        current = {**self.sam.decoder_parameters(), **(self.adapter.weights(self.sam) or {})}
        trainable = TrainableParameters(
            {n: current[n] for n in self._names}, self.settings.rank, self._rng
        )
        optimiser = torch.optim.Adam(
            trainable.leaves, lr=self.settings.learning_rate, betas=(0.9, 0.99)
        )
        done = 0
        while done < n_steps and not should_stop():
            optimiser.zero_grad()
            self._backward(draw(), trainable, pause)
            norm = torch.nn.utils.clip_grad_norm_(trainable.leaves, self.settings.clip)
            if not bool(torch.isfinite(norm)):
                logger.warning("a learning step was dropped: its gradient is not finite")
                break
            optimiser.step()
            done += 1
        self._adopt(trainable.weights(), done)
        return done

    def _adopt(self, weights: dict[str, Tensor], n_steps: int) -> None:
        adapter = self._trust.applied(adapter_of(self.sam, weights))
        finite = all(bool(torch.isfinite(d).all()) for d in adapter.deltas.values())
        if n_steps and finite:
            self.adapter = adapter
        elif n_steps:
            logger.warning("an update was dropped: its weights do not fit into float16")

    def _backward(
        self,
        batch: list[tuple[TrainingExample, bool]],
        trainable: TrainableParameters,
        pause: Callable[[], object],
    ) -> None:
        """Add the gradient of a batch, one example after the other, so that clicks get between."""
        for example, simulate in batch:
            pause()
            loss = self._example_loss(example, simulate, trainable.weights()) / len(batch)
            torch.autograd.backward(loss)
        if self.settings.anchor:
            weights = trainable.weights()
            base = {n: v for n, v in self.sam.decoder_parameters().items() if n in weights}
            torch.autograd.backward(self.settings.anchor * losses.anchor_loss(weights, base))

    def _example_loss(
        self, example: TrainingExample, simulate: bool, weights: dict[str, Tensor]
    ) -> Tensor:
        embedding = example.embedding()
        prompt = self._prompt(example, embedding, weights, simulate)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._uses_half()):
            answer, labelled = self._examiner.answer(example, embedding, prompt, weights)
        return example_loss(answer, [labelled], self.settings.iou_weight)

    def _prompt(
        self,
        example: TrainingExample,
        embedding: Embedding,
        weights: dict[str, Tensor],
        simulate: bool,
    ) -> Prompt:
        if not simulate or not bool((example.labels == 1).any()):
            return asked(example)
        n_clicks = int(self._rng.integers(1, self.settings.simulated_clicks + 1))
        return simulated_prompt(example, embedding, self.sam, weights, n_clicks, self._rng)

    def _uses_half(self) -> bool:
        return self.settings.half and self.sam.device.type == "cpu" and has_fast_bfloat16()

    # Idle training -----------------------------------------------------------------------------

    def _kept_out_loss(self, pause: Callable[[], object]) -> float:
        """Mean loss of the answers to the first prompts of objects kept out of replay."""
        kept_out = [m.examples[0] for m in self._memory if m.is_kept_out]
        weights, found = self.adapter.weights(self.sam), []
        for example in kept_out:
            pause()
            with torch.no_grad():
                answer, labelled = self._examiner.answer(
                    example, example.embedding(), asked(example), weights
                )
                found.append(float(example_loss(answer, [labelled], 0.0)))
        return float(np.mean(found))
