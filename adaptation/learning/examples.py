"""What a finished object is trained on by: prompts as given, and its mask as eroded labels.

The submitted mask is certain inside and outside of the object, not along its border: annotators'
borders are uncertain, so a band around the border carries no label (Schön et al. 2024,
arXiv 2404.08421, section 3).  The band's width grows with the object.  Padding carries no label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adaptation.learning import losses
from adaptation.masks import erosion_band, erosion_radius
from adaptation.models.decoder import Weights
from adaptation.models.regions import mask_corners, prompt_corners, window_over
from adaptation.models.sam import PromptableSam
from adaptation.predictor.interactive import LOGIT_LIMIT
from adaptation.predictor.zoom import View
from adaptation.simulation.clicker import next_click
from adaptation.types import (
    LOGIT_STRIDE,
    Click,
    Embedding,
    MaskPrediction,
    Prompt,
    Size,
    Window,
)

UNLABELLED = -1
"""Value of a label map's pixels about which nothing is said."""


class DecodedPrompt(Protocol):
    """What is kept of an answer to learn from it; an interaction's answer is one itself.

    Its members: the view, the prompt in the view's own pixels with its fed-back logits, and (H, W)
    of the view in the model's frame.
    """

    @property
    def view(self) -> View: ...  # noqa: D102
    @property
    def prompt(self) -> Prompt: ...  # noqa: D102
    @property
    def input_size(self) -> Size: ...  # noqa: D102


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StoredPrompt:
    """A :class:`DecodedPrompt` without masks and features: small enough to keep many."""

    view: View
    prompt: Prompt
    input_size: Size

    @classmethod
    def of(cls, asked: DecodedPrompt) -> StoredPrompt:
        """Keep the part of an answer that examples are made of, fed-back logits in float16."""
        return cls(view=asked.view, prompt=_halved(asked.prompt), input_size=asked.input_size)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingExample:
    """One prompt on a finished object, with the labels of its view.

    Args:
        prompt: In the view's own pixels; its fed-back logits are kept in float16.
        embedding: Gives the view's embedding, from a cache or fresh; an example outlives caches.
        labels: ``[h, w]`` int8 in the frame of the low-resolution logits: 1 object, 0 background,
            -1 no label.
    """

    prompt: Prompt
    embedding: Callable[[], Embedding]
    labels: Tensor

    def within(self, window: Window) -> TrainingExample:
        """The same example with the labels of a part of the frame only."""
        return replace(self, labels=self.labels[window.pixels(LOGIT_STRIDE)])

    @property
    def target(self) -> Tensor:
        """``[h, w]`` float32, 1 on the object."""
        return (self.labels == 1).float()

    @property
    def pixel_weights(self) -> Tensor:
        """``[h, w]`` float32, 1 where there is a label."""
        return (self.labels != UNLABELLED).float()


def label_map(
    mask: NDArray[np.bool_], input_size: Size, low_res_size: int, model_size: int, share: float
) -> Tensor:
    """A view's mask as eroded labels on the grid of the low-resolution logits.

    Args:
        mask: ``[H, W]`` bool, the view's part of the submitted mask.
        input_size: (H, W) of the view in the model's frame, without the padding.
        low_res_size: Side of the grid.
        model_size: Side of the model's frame.
        share: Width of the uncertain band over the square root of the object's area.

    Returns:
        ``[low_res_size, low_res_size]`` int8, see :class:`TrainingExample`.
    """
    small = low_res_mask(mask, input_size, low_res_size, model_size)
    height, width = small.shape
    positive, negative = erosion_band(small, erosion_radius(small, share=share, largest=4.0))
    labels = np.full((low_res_size, low_res_size), UNLABELLED, dtype=np.int8)
    labels[:height, :width][negative] = 0
    labels[:height, :width][positive] = 1
    return torch.from_numpy(labels)


def low_res_mask(
    mask: NDArray[np.bool_], input_size: Size, low_res_size: int, model_size: int
) -> NDArray[np.bool_]:
    """A view's mask on the grid of the low-resolution logits, ``[h, w]`` without the padding.

    The arguments are those of :func:`label_map`.
    """
    height, width = (max(1, round(s * low_res_size / model_size)) for s in input_size)
    area = cv2.INTER_AREA if mask.shape[0] >= height else cv2.INTER_LINEAR
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=area)
    return np.asarray(small >= 0.5)


def examples_of(
    answers: Sequence[DecodedPrompt],
    mask: NDArray[np.bool_],
    encode: Callable[[View], Embedding],
    sam: PromptableSam,
    *,
    share: float,
    most: int,
) -> tuple[TrainingExample, ...]:
    """Turn an object's answers and its submitted mask into examples.

    The first and the last prompt are kept, and evenly spread ones between, ``most`` in all.

    Args:
        answers: Of the object, oldest first; at least one.
        mask: ``[H, W]`` bool, the submitted mask at the original size.
        encode: Embedding of a view of the image.
        sam: Gives the sizes.
        share: See :func:`label_map`.
        most: At least 1.
    """
    chosen = sorted({round(i) for i in np.linspace(0, len(answers) - 1, min(most, len(answers)))})
    return tuple(_example(answers[i], mask, encode, sam, share) for i in chosen)


def _example(
    answer: DecodedPrompt,
    mask: NDArray[np.bool_],
    encode: Callable[[View], Embedding],
    sam: PromptableSam,
    share: float,
) -> TrainingExample:
    view = answer.view
    inside = mask[view.y0 : view.y1, view.x0 : view.x1]
    return TrainingExample(
        prompt=_halved(answer.prompt),
        embedding=lambda: encode(view),
        labels=label_map(inside, answer.input_size, sam.low_res_size, sam.input_size, share),
    )


def _halved(prompt: Prompt) -> Prompt:
    if prompt.mask_input is None:
        return prompt
    return replace(prompt, mask_input=prompt.mask_input.half())


def asked(example: TrainingExample) -> Prompt:
    """The example's prompt as the decoder wants it, with float32 logits."""
    if example.prompt.mask_input is None:
        return example.prompt
    return replace(example.prompt, mask_input=example.prompt.mask_input.float())


def simulated_prompt(
    example: TrainingExample,
    embedding: Embedding,
    sam: PromptableSam,
    weights: Weights | None,
    n_clicks: int,
    rng: np.random.Generator,
) -> Prompt:
    """Fresh clicks on a finished object, made as its annotator would make them.

    Args:
        example: Gives the labels; its own clicks are not used.
        embedding: Of the example's view.
        sam: The model.
        weights: The session's current decoder weights, whose mistakes the clicks correct.
        n_clicks: How many, at least 1; fewer where no error is left.
        rng: Draws the first click inside the object.

    Returns:
        A prompt with the logits fed back from the click before.
    """
    prompt = first_prompt(example, embedding, sam, rng)
    for _ in range(n_clicks - 1):
        with torch.no_grad():
            shown = sam.decode(embedding, [prompt], weights=weights).shown_logits()
        following = next_prompt(example, prompt, shown[0], embedding, sam)
        if following is None:
            break
        prompt = following
    return prompt


def first_prompt(
    example: TrainingExample, embedding: Embedding, sam: PromptableSam, rng: np.random.Generator
) -> Prompt:
    """A first click inside the object; see :func:`simulated_prompt`."""
    return Prompt(clicks=(_first_click(example.labels.numpy() == 1, embedding, sam, rng),))


def next_prompt(
    example: TrainingExample,
    prompt: Prompt,
    shown: Tensor,
    embedding: Embedding,
    sam: PromptableSam,
) -> Prompt | None:
    """A prompt with one more click, on the largest error of its answer, which is fed back.

    Args:
        example: Gives the labels.
        prompt: What was asked.
        shown: ``[1, h, w]`` logits that answered it.
        embedding: Of the example's view.
        sam: Gives the sizes.

    Returns:
        None where no error is left.
    """
    labels, logits = example.labels.numpy(), shown.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
    mask = (logits[0] > 0).cpu().numpy()
    click = next_click(labels == 1, mask, ignore=labels == UNLABELLED)
    if click is None:
        return None
    return Prompt(clicks=(*prompt.clicks, _in_view(click, embedding, sam)), mask_input=logits)


def _first_click(
    truth: NDArray[np.bool_], embedding: Embedding, sam: PromptableSam, rng: np.random.Generator
) -> Click:
    """A pixel of the object, likelier the farther it lies from the border."""
    depth = cv2.distanceTransform(np.pad(truth.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    share = depth.astype(np.float64).ravel() ** 2
    index = int(rng.choice(share.size, p=share / share.sum()))
    y, x = divmod(index, truth.shape[1])
    return _in_view(Click(x=x, y=y, is_positive=True), embedding, sam)


def _in_view(click: Click, embedding: Embedding, sam: PromptableSam) -> Click:
    """A click on the low-resolution grid as one in the view's own pixels."""
    stride = sam.input_size / sam.low_res_size
    (height, width), (new_height, new_width) = embedding.original_size, embedding.input_size
    x = (click.x + 0.5) * stride * width / new_width - 0.5
    y = (click.y + 0.5) * stride * height / new_height - 0.5
    return Click(
        x=min(max(x, 0.0), width - 1.0),
        y=min(max(y, 0.0), height - 1.0),
        is_positive=click.is_positive,
    )


def window_around(
    labels: Tensor, prompt: Prompt, embedding: Embedding, model_size: int
) -> Window | None:
    """The part of the frame that an example needs: object, clicks and box, with a margin.

    Args:
        labels: ``[h, w]``, see :class:`TrainingExample`.
        prompt: What is asked, in pixels of the encoded image.
        embedding: Of the image.
        model_size: Side of the model's frame.

    Returns:
        None where there is no object, or where the part is hardly smaller than the frame.
    """
    rows, columns = (labels == 1).nonzero(as_tuple=True)
    if not len(rows):
        return None
    return window_over(
        [*mask_corners(rows, columns), *prompt_corners(prompt, embedding)], model_size
    )


def example_loss(
    prediction: MaskPrediction, examples: Sequence[TrainingExample], iou_weight: float
) -> Tensor:
    """Focal loss and dice on the eroded labels, plus the error of the predicted IoU; scalar.

    An ambiguous prompt trains the candidate that is shown and the best one (half weight), any
    other the single-mask output: what the annotator sees, by SAM's selection rule.
    """
    logits = prediction.low_res_logits.float()
    target = torch.stack([example.target for example in examples])[:, None].to(logits.device)
    pixels = torch.stack([example.pixel_weights for example in examples])[:, None].to(logits.device)
    target, pixels = target.expand_as(logits), pixels.expand_as(logits)
    per_mask = losses.focal_loss(logits, target, pixels) + losses.dice_loss(logits, target, pixels)
    shown = per_mask.gather(1, prediction.shown_token()[:, None])[:, 0]
    best = per_mask[:, 1:].min(dim=1).values
    loss = torch.where(prediction.is_ambiguous, shown + 0.5 * best, shown).mean()
    if not iou_weight:
        return loss
    measured = losses.mask_iou(logits.detach(), target, pixels)
    return loss + iou_weight * losses.iou_loss(prediction.predicted_iou.float(), measured).mean()
