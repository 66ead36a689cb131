"""What is tried on a finished object before anything is learned from it.

Its own prompts are asked of the frozen decoder, and with none, half and all of what a session
learned; the answers are compared with the submitted mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptation.learning import losses
from adaptation.learning.adapter import Adapter
from adaptation.learning.examples import TrainingExample, asked, window_around
from adaptation.learning.scale_evidence import SHARES, LoneClick
from adaptation.models.sam import PromptableSam
from adaptation.predictor.components import pointed_at
from adaptation.types import Embedding, MaskPrediction, Prompt

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """How an object's prompts were answered.

    Args:
        n_clicks: Of each prompt, ``L`` numbers.
        ious: ``[N_TRIED, L]``, IoU of the answers with the submitted mask: the frozen decoder's as
            it is, and with each of SHARES and the session's scores.
        offered: What was offered for its lone click with each of SHARES; empty where it had none.
    """

    n_clicks: tuple[int, ...]
    ious: NDArray[np.float64]
    offered: tuple[LoneClick, ...]

    def as_given(self, adapter: Adapter) -> float:
        """Mean IoU of the answers with the part of an adapter that is in use."""
        found = []
        for n_clicks, column in zip(self.n_clicks, self.ious.T, strict=True):
            share, is_scored = adapter.part(n_clicks)
            tried = np.interp(share, SHARES, column[1:])
            found.append(tried if share or is_scored else column[0])
        return float(np.mean(found))


class Examiner:
    """Asks examples of a model.

    Args:
        sam: The model; never written to.
    """

    def __init__(self, sam: PromptableSam) -> None:
        self._sam = sam

    def try_all(self, adapter: Adapter, examples: Sequence[TrainingExample]) -> Tried:
        """Ask an object's prompts of everything that may answer them."""
        weights = [adapter.weights(self._sam, share) for share in SHARES]
        if not adapter.deltas:  # all shares of nothing are the base decoder
            weights = [None]
        found = [self._asked(example, weights) for example in examples]
        columns = [_for_all(shown) for shown, _ in found]
        offered = next((_for_all(clicks) for _, clicks in found if clicks), [])
        tried = [np.array([column[0], *column]) for column in columns]
        for column, (_, clicks) in zip(tried, found, strict=True):
            if clicks:
                column[1:] = [
                    _as_scored(adapter, *each) for each in zip(SHARES, offered, strict=True)
                ]
        n_clicks = tuple(len(example.prompt.clicks) for example in examples)
        return Tried(n_clicks, np.array(tried).T, tuple(offered))

    def ious(
        self, examples: Sequence[TrainingExample], weights: dict[str, Tensor] | None
    ) -> NDArray[np.float64]:
        """IoU of the answers to examples, ``[L]``."""
        return np.array([self._asked(example, [weights])[0][0] for example in examples])

    def answer(
        self,
        example: TrainingExample,
        embedding: Embedding,
        prompt: Prompt,
        weights: dict[str, Tensor] | None,
    ) -> tuple[MaskPrediction, TrainingExample]:
        """An answer, and the example's labels, on the part of the frame that the example needs."""
        sam, window = self._sam, None
        if sam.reads_windows:
            window = window_around(example.labels, prompt, embedding, sam.input_size)
        if window is None:
            return sam.decode(embedding, [prompt], weights=weights), example
        answer = sam.decode_within(embedding, prompt, window, weights=weights)
        return answer, example.within(window)

    def _asked(
        self, example: TrainingExample, tried: Sequence[dict[str, Tensor] | None]
    ) -> tuple[list[float], list[LoneClick]]:
        """IoU of the answers with each of the weights, and what was offered for a lone click."""
        embedding, prompt = example.embedding(), asked(example)
        shown: list[float] = []
        offered: list[LoneClick] = []
        for weights in tried:
            with torch.no_grad():
                answer, labelled = self._shown(example, embedding, prompt, weights)
            logits = answer.low_res_logits[0]
            ious = losses.mask_iou(logits, labelled.target, labelled.pixel_weights)
            shown.append(float(ious[int(answer.shown_token()[0])]))
            if prompt.is_ambiguous:
                scores = answer.predicted_iou[0, 1:].cpu().double().numpy()
                offered.append(LoneClick(scores, ious[1:].cpu().double().numpy()))
        return shown, offered

    def _shown(
        self,
        example: TrainingExample,
        embedding: Embedding,
        prompt: Prompt,
        weights: dict[str, Tensor] | None,
    ) -> tuple[MaskPrediction, TrainingExample]:
        """As :meth:`answer`; candidates of a lone click as they are shown, without stray parts."""
        if not prompt.is_ambiguous:
            return self.answer(example, embedding, prompt, weights)
        answer = self._sam.decode(embedding, [prompt], weights=weights)
        stride = self._sam.input_size / self._sam.low_res_size
        masks = [pointed_at(each, prompt, embedding, stride) for each in answer.low_res_logits[0]]
        return replace(answer, low_res_logits=torch.stack(masks)[None]), example


def _for_all(found: list[T]) -> list[T]:
    """One for each of SHARES, where all are the same."""
    return found * len(SHARES) if len(found) == 1 else found


def _as_scored(adapter: Adapter, share: float, offered: LoneClick) -> float:
    """IoU of the candidate that the session's scores show."""
    change = adapter.score_change(share)
    scores = offered.scores if change is None else change.applied(offered.scores)
    return float(offered.ious[int(np.argmax(scores))])
