"""The published baseline that Strop's learner is compared with: `--adapt seed`.

Schön et al. 2024 (arXiv 2404.08421) adapt SAM's mask decoder with one Adam step per click, on a
balanced cross-entropy over the clicked cells, and, at the end of an object, one step on its mask,
eroded, with the clicks on top; a memory of five objects gives one more, replayed step.  Written
from the description.  Three slips of its public code are not repeated, so that the baseline is a
fair one: clicks are set on the low-resolution grid directly instead of being shrunk away, padding
carries no label instead of counting as background, and losses are means over the labelled cells.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptation.learning.losses import bce_loss
from adaptation.models.sam import PromptableSam
from adaptation.predictor.click_correction import LowResClicks
from adaptation.predictor.interactive import Answer, Encode
from adaptation.types import Embedding, Prompt

UNLABELLED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSettings:
    """The published values.

    Args:
        learning_rate: Adam's; 5e-8 for SAM and 1e-6 for HQ-SAM in the source.
        erosion: Iterations with the cross element on either side of the border.
        memory: Objects that are remembered for replay.
    """

    learning_rate: float = 1e-6
    erosion: int = 4
    memory: int = 5


@dataclass(frozen=True, slots=True, eq=False)
class _Sample:
    prompt: Prompt
    embedding: Embedding
    labels: Tensor


class SeedLearner:
    """One session of the baseline: a decoder that goes on learning through all objects.

    Args:
        sam: The model; never written to.
        settings: The published values.
        seed: Of the replay's draws.
    """

    corrector = None

    def __init__(self, sam: PromptableSam, settings: SeedSettings, seed: int) -> None:
        self._sam = sam
        self._settings = settings
        self._rng = np.random.default_rng(seed)
        base = sam.decoder_parameters()
        self._weights = {n: v.detach().clone().requires_grad_() for n, v in base.items()}
        self._optimiser = torch.optim.Adam(self._weights.values(), lr=settings.learning_rate)
        self._memory: deque[_Sample] = deque(maxlen=settings.memory)

    def weights(self, n_clicks: int) -> Mapping[str, Tensor]:
        """Decoder weights that the next click is answered with, whatever its number."""
        return {name: value.detach() for name, value in self._weights.items()}

    def observe_click(self, answer: Answer) -> None:
        """One step on the clicked cells."""
        labels = torch.full((self._sam.low_res_size,) * 2, UNLABELLED, dtype=torch.int8)
        labels = with_clicks(labels, answer, self._sam.input_size)
        self._step(_Sample(answer.prompt, answer.embedding, labels))

    def observe_mask(
        self, answers: Sequence[Answer], mask: NDArray[np.bool_], encode: Encode
    ) -> None:
        """One step on a remembered object, one on this one."""
        answer = answers[-1]
        labels = eroded(mask, answer, self._sam, self._settings.erosion)
        labels = with_clicks(labels, answer, self._sam.input_size)
        sample = _Sample(answer.prompt, answer.embedding, labels)
        if self._memory:
            self._step(self._memory[int(self._rng.integers(len(self._memory)))])
        self._step(sample)
        self._memory.append(sample)

    def _step(self, sample: _Sample) -> None:
        """One Adam step on a sample; a step that is not finite is left out."""
        if not bool((sample.labels != UNLABELLED).any()):
            return
        prediction = self._sam.decode(sample.embedding, [sample.prompt], weights=self._weights)
        labels = sample.labels.to(self._sam.device)
        logits = prediction.shown_logits()[0, 0]
        loss = bce_loss(logits, (labels == 1).float(), balanced_weights(labels))
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        grads = [w.grad for w in self._weights.values() if w.grad is not None]
        if all(bool(torch.isfinite(grad).all()) for grad in grads):
            self._optimiser.step()


def balanced_weights(labels: Tensor) -> Tensor:
    """Weights `[h, w]` of a label map that give foreground and background the same say."""
    weights = torch.zeros(labels.shape, device=labels.device)
    for value in (0, 1):
        cells = labels == value
        weights[cells] = 1.0 / max(1, int(cells.sum()))
    return weights


@dataclass(frozen=True)
class SeedFactory:
    """Makes sessions of the baseline; picklable."""

    settings: SeedSettings = SeedSettings()

    def __call__(self, sam: PromptableSam, seed: int) -> SeedLearner:
        """A fresh session that starts from the model's own decoder."""
        return SeedLearner(sam, self.settings, seed)

    def identity(self) -> Mapping[str, Any]:
        """The settings as plain values."""
        return {"kind": "seed", **dataclasses.asdict(self.settings)}


def eroded(mask: NDArray[np.bool_], answer: Answer, sam: PromptableSam, iterations: int) -> Tensor:
    """An answer's part of a mask as labels, the band along the border left out.

    Args:
        mask: ``[H, W]`` bool, at the image's size.
        answer: Says on which view.
        sam: The model; labels are on the grid of its low-resolution logits.
        iterations: Erosions with the cross element on either side of the border.

    Returns:
        ``[h, w]`` int8: 1 object, 0 background, -1 no label.
    """
    view, size = answer.view, sam.low_res_size
    stride = sam.input_size / size
    height, width = (max(1, round(side / stride)) for side in answer.embedding.input_size)
    part = mask[view.y0 : view.y1, view.x0 : view.x1].astype(np.uint8)
    small = cv2.resize(part, (width, height), interpolation=cv2.INTER_NEAREST)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    labels = np.full((size, size), UNLABELLED, np.int8)
    for value, region in ((0, 1 - small), (1, small)):
        core = cv2.erode(region, cross, iterations=iterations)
        labels[:height, :width][core > 0] = value
    return torch.from_numpy(labels)


def with_clicks(labels: Tensor, answer: Answer, input_size: int) -> Tensor:
    """Labels ``[h, w]`` with the clicked cells set to what the clicks say, in place.

    Args:
        labels: As of :func:`eroded`.
        answer: With its prompt.
        input_size: Side of the model's frame, in pixels.
    """
    stride = input_size / labels.shape[-1]
    clicks = LowResClicks.of(answer.prompt, answer.embedding, stride, labels.device)
    cells = clicks.points.round().long().clamp(0, labels.shape[-1] - 1)
    labels[cells[:, 1], cells[:, 0]] = (clicks.signs > 0).to(labels.dtype)
    return labels
