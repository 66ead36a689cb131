"""One training example: a window, its objects, and a few rounds of clicks and corrections.

An episode encodes its window once, prompts every object, decodes, and then corrects the masks as
an annotator would, feeding each mask back.  Some of the rounds, the last one always, are
supervised; their gradients meet at the shared embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional as F

from adaptation.learning.losses import click_loss, dice_loss, focal_loss, iou_loss, mask_iou
from adaptation.models.precision import has_fast_bfloat16
from adaptation.simulation.clicker import jittered_box
from adaptation.types import LOGIT_STRIDE, STRIDE, Window
from training.pretrain.clicks import PixelClick, corrective_click, first_click, scattered_click
from training.pretrain.mask_errors import as_logits, with_one_error
from training.pretrain.windows import TrainingWindow

_LOGIT_LIMIT = 32.0
_FAR_CELLS = 24
"""Cells of the logits beyond which a pixel is far from a click: an eighth of the frame's side."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What all ranks do alike in one step, so that none waits for another.

    Args:
        window_size: Side of the window in pixels.
        max_objects: Objects in it.
        supervised: For each round, whether its masks are supervised; the last one is.
        has_boxes: Whether the objects come with boxes.
        starts_with_click: Whether the first round has a click (always without boxes).
        n_scattered: Clicks given at once with the first one.
        starts_from_mask: Whether the objects come with masks that are right but for one error;
            the first click mends it, the scattered ones came before it.
    """

    window_size: int
    max_objects: int
    supervised: tuple[bool, ...]
    has_boxes: bool
    starts_with_click: bool
    n_scattered: int
    starts_from_mask: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """How the parts of the loss count against each other; mask loss (focal + Dice) counts 1."""

    click: float = 0.3
    predicted_iou: float = 1.0
    single_at_first: float = 0.5
    all_candidates: float = 0.1


@dataclass(frozen=True, slots=True)
class Correction:
    """What one corrective click did, on average over an episode's objects.

    Args:
        n_clicks: Clicks given, this one included.
        before, after: IoU of the masks before and after it.
        far_changed: Share of the pixels far from the click whose mask changed.
    """

    n_clicks: int
    before: float
    after: float
    far_changed: float


@dataclass(slots=True)
class EpisodeReport:
    """What an episode measured: for each round the clicks given and the IoU, [0, 1].

    `corrections` holds the rounds that had a mask to correct; `mends` says that the episode began
    from masks that were right but for one error, so that its IoUs are no measure of first clicks.
    """

    n_objects: int
    loss: float = 0.0
    mends: bool = False
    rounds: list[tuple[int, float]] = field(default_factory=list)
    corrections: list[Correction] = field(default_factory=list)
    obeyed: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Prompts:
    """The prompts of K objects so far, in pixels of the window."""

    coords: NDArray[np.float32]
    labels: NDArray[np.float32]
    boxes: NDArray[np.float32] | None
    previous: Tensor | None = None

    @property
    def n_clicks(self) -> int:
        return self.labels.shape[1]

    @property
    def is_ambiguous(self) -> bool:
        return self.n_clicks == 1 and self.boxes is None and self.previous is None

    def add(self, clicks: Sequence[PixelClick | None]) -> None:
        """Add one click to every object; None adds padding."""
        coords = [(0.0, 0.0) if c is None else (to_frame(c.x), to_frame(c.y)) for c in clicks]
        labels = [-1.0 if c is None else float(c.is_positive) for c in clicks]
        self.coords = np.concatenate([self.coords, np.array(coords, np.float32)[:, None]], axis=1)
        self.labels = np.concatenate([self.labels, np.array(labels, np.float32)[:, None]], axis=1)


class Episode:
    """Runs one window through the model and leaves the gradients in its parameters."""

    def __init__(
        self,
        sam: Sam,
        window: TrainingWindow,
        plan: Plan,
        weights: LossWeights,
        rng: Generator,
        *,
        device: torch.device,
    ) -> None:
        self._sam, self._plan, self._weights, self._rng = sam, plan, weights, rng
        self._device = device
        self._masks = window.masks
        self._target = torch.from_numpy(window.masks).to(device).float()[:, None]
        self._labelled = self._label_content(window)
        self._place = draw_place(plan.window_size, sam.image_encoder.img_size, rng)
        self._pixels = self._normalise(window)
        self._shown: Tensor | None = None
        self.report = EpisodeReport(n_objects=len(window.masks), mends=plan.starts_from_mask)

    def run(self, after: Callable[[], None] | None = None) -> EpisodeReport:
        """Play the episode; `after` runs once the last gradient is there."""
        with self._autocast(is_encoder=True):
            embedding = self._sam.image_encoder(self._pixels).float()
        shared = embedding.detach().requires_grad_()
        prompts = self._first_prompts()
        last = len(self._plan.supervised) - 1
        for index, is_supervised in enumerate(self._plan.supervised):
            with torch.set_grad_enabled(is_supervised):
                logits, predicted_iou = self._decode(shared, prompts)
                if is_supervised:
                    self._supervise(logits, predicted_iou, prompts)
            self._note(prompts, logits.detach(), predicted_iou.detach())
            if index < last:
                self._correct(prompts, logits.detach(), predicted_iou.detach())
        embedding.backward(shared.grad)
        if after is not None:
            after()
        return self.report

    def _label_content(self, window: TrainingWindow) -> Tensor:
        """1 where the window holds image, 0 where it is padding: [1, 1, H, W]."""
        labelled = torch.zeros(1, 1, *window.masks.shape[1:], device=self._device)
        height, width = (side // LOGIT_STRIDE for side in window.content)
        labelled[..., :height, :width] = 1
        return labelled

    def _normalise(self, window: TrainingWindow) -> Tensor:
        pixels = self._tensor(window.image).permute(2, 0, 1)
        pixels = (pixels - self._sam.pixel_mean) / self._sam.pixel_std
        height, width = window.content
        pixels[:, height:] = 0
        pixels[:, :, width:] = 0
        frame: Tensor = pixels[None].contiguous(memory_format=torch.channels_last)
        return frame

    def _autocast(self, *, is_encoder: bool) -> AbstractContextManager[object]:
        """Half precision; on a CPU only where it is native, and never in the encoder there."""
        if self._device.type == "cpu" and (is_encoder or not has_fast_bfloat16()):
            return nullcontext()
        return torch.autocast(self._device.type, torch.bfloat16)

    def _first_prompts(self) -> _Prompts:
        count, plan, rng = len(self._masks), self._plan, self._rng
        boxes = None
        if plan.has_boxes:
            drawn = np.stack([jittered_box(mask, rng) for mask in self._masks])
            boxes = np.asarray(drawn * LOGIT_STRIDE - 0.5, np.float32)
        empty = np.zeros((count, 0), np.float32)
        prompts = _Prompts(np.zeros((count, 0, 2), np.float32), empty, boxes)
        if plan.starts_from_mask:
            self._start_from_masks(prompts)
            return prompts
        if plan.starts_with_click:
            prompts.add([first_click(mask, rng) for mask in self._masks])
        for _ in range(plan.n_scattered):
            prompts.add([scattered_click(mask, rng) for mask in self._masks])
        return prompts

    def _start_from_masks(self, prompts: _Prompts) -> None:
        """Show masks with one error each, the clicks that led there, and a click on the error."""
        rng = self._rng
        for _ in range(self._plan.n_scattered):
            prompts.add([scattered_click(mask, rng) for mask in self._masks])
        wrong = [with_one_error(mask, rng) for mask in self._masks]
        logits = np.stack([as_logits(mask, rng) for mask in wrong])[:, None]
        self._shown = self._tensor(logits)
        self._click(prompts, np.stack(wrong), self._shown)

    def _decode(self, embedding: Tensor, prompts: _Prompts) -> tuple[Tensor, Tensor]:
        encoder, place = self._sam.prompt_encoder, self._place
        points = None
        if prompts.n_clicks:
            points = self._tensor(prompts.coords), self._tensor(prompts.labels)
        boxes = None if prompts.boxes is None else self._tensor(prompts.boxes)
        sparse, dense = encoder.encode(points, boxes, prompts.previous, place)
        with self._autocast(is_encoder=False):
            logits, predicted_iou = self._sam.mask_decoder.predict_masks(
                embedding, encoder.dense_pe(place), sparse, dense
            )
        return logits.float(), predicted_iou.float()

    def _tensor(self, array: NDArray[np.float32]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def _supervise(self, logits: Tensor, predicted_iou: Tensor, prompts: _Prompts) -> None:
        """Backpropagate one round's loss down to the embedding."""
        weights, target, labelled = self._weights, self._target, self._labelled
        per_mask = focal_loss(logits, target, labelled) + dice_loss(logits, target, labelled)
        single, candidates = per_mask[:, 0], per_mask[:, 1:]
        best = candidates.min(dim=1).values
        if prompts.is_ambiguous:
            loss = best + weights.single_at_first * single
            loss = loss + weights.all_candidates * candidates.mean(dim=1)
        else:
            loss = single + weights.all_candidates * best
        measured = mask_iou(logits, target, labelled)
        loss = loss + weights.predicted_iou * iou_loss(predicted_iou, measured).mean(dim=1)
        chosen = choose(logits, predicted_iou, is_ambiguous=prompts.is_ambiguous)
        if prompts.n_clicks:
            loss = loss + weights.click * self._click_loss(chosen, prompts)
        mean = loss.mean() / sum(self._plan.supervised)
        torch.autograd.backward(mean)
        self.report.loss += mean.item()

    def _click_loss(self, chosen: Tensor, prompts: _Prompts) -> Tensor:
        points = (self._tensor(prompts.coords) + 0.5) / LOGIT_STRIDE - 0.5
        labels = self._tensor(prompts.labels)
        return click_loss(chosen[:, 0], points, labels, target=self._target[:, 0])

    def _note(self, prompts: _Prompts, logits: Tensor, predicted_iou: Tensor) -> None:
        """Measure the masks of one round, and what its click changed."""
        chosen = choose(logits, predicted_iou, is_ambiguous=prompts.is_ambiguous)
        iou = mask_iou(chosen, self._target, self._labelled)[:, 0].mean().item()
        self.report.rounds.append((prompts.n_clicks, iou))
        given = prompts.labels >= 0
        if given.any():
            shown = (chosen[:, 0] > 0).cpu().numpy()
            at = ((prompts.coords + 0.5) / LOGIT_STRIDE).astype(int)
            obeyed = shown[np.arange(len(shown))[:, None], at[..., 1], at[..., 0]]
            self.report.obeyed.append(float((obeyed == (prompts.labels > 0))[given].mean()))
        if self._shown is not None:
            before = mask_iou(self._shown, self._target, self._labelled)[:, 0].mean().item()
            far = self._far_changed(prompts, self._shown, chosen)
            self.report.corrections.append(Correction(prompts.n_clicks, before, iou, far))
        self._shown = chosen

    def _far_changed(self, prompts: _Prompts, before: Tensor, after: Tensor) -> float:
        """Share of the pixels far from each object's newest click whose mask changed."""
        height, width = before.shape[-2:]
        newest = (self._tensor(prompts.coords[:, -1]) + 0.5) / LOGIT_STRIDE - 0.5
        rows = torch.arange(height, device=self._device)[:, None]
        columns = torch.arange(width, device=self._device)
        squared = (columns - newest[:, 0, None, None]) ** 2
        squared = squared + (rows - newest[:, 1, None, None]) ** 2
        is_far = (squared > _FAR_CELLS**2) & (self._labelled[:, 0] > 0)
        changed = ((before > 0) != (after > 0))[:, 0] & is_far
        return float(changed.sum() / is_far.sum().clamp_min(1))

    def _correct(self, prompts: _Prompts, logits: Tensor, predicted_iou: Tensor) -> None:
        """Show the masks, take a click on each, and feed the masks back."""
        shown = choose(logits, predicted_iou, is_ambiguous=prompts.is_ambiguous)
        masks = ((shown[:, 0] > 0) & (self._labelled[0] > 0)).cpu().numpy()
        self._click(prompts, masks, shown)

    def _click(self, prompts: _Prompts, masks: NDArray[np.bool_], logits: Tensor) -> None:
        """Take a corrective click on each mask, and feed the masks' logits back."""
        prompts.add(
            [
                corrective_click(mask, target, self._rng)
                for mask, target in zip(masks, self._masks, strict=True)
            ]
        )
        prompts.previous = degrade(logits.clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT), self._rng)


def to_frame(pixel: float) -> float:
    """Centre of a pixel of the logits, in pixels of the window."""
    return (pixel + 0.5) * LOGIT_STRIDE - 0.5


def choose(logits: Tensor, predicted_iou: Tensor, *, is_ambiguous: bool) -> Tensor:
    """The mask that is shown, [B, 1, H, W]: the best candidate for a lone click, else the first."""
    if not is_ambiguous:
        return logits[:, :1]
    best = 1 + predicted_iou[:, 1:].argmax(dim=1)
    return logits[torch.arange(len(logits), device=logits.device), best][:, None]


def degrade(logits: Tensor, rng: Generator) -> Tensor:
    """Now and then a mask that comes from a coarser view, as after zooming in."""
    if rng.random() > 0.2:
        return logits
    coarse = F.interpolate(
        logits, scale_factor=1 / float(rng.uniform(1.5, 5)), mode="bilinear", align_corners=False
    )
    return F.interpolate(coarse, size=logits.shape[-2:], mode="bilinear", align_corners=False)


def draw_place(size: int, frame_size: int, rng: Generator) -> Window:
    """Where in the frame the window lies."""
    x, y = (STRIDE * int(v) for v in rng.integers(0, (frame_size - size) // STRIDE + 1, 2))
    return Window(x=x, y=y, width=size, height=size)
