"""The way of a click, without HTTP: view, embedding, decode, mask.

The service and the evaluation harness go through this one path, so that what is measured is what
is served.  It holds no state: what one click leaves for the next travels in :class:`ObjectState`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from adaptation.errors import InputError
from adaptation.models.decoder import Weights
from adaptation.models.sam import PromptableSam
from adaptation.predictor.components import pointed_at
from adaptation.predictor.guided_filter import at_edges
from adaptation.predictor.settings import EdgeSettings, ZoomSettings
from adaptation.predictor.zoom import (
    View,
    box_in_view,
    choose_view,
    clicks_in_view,
    extent_of,
    first_view,
    move_logits,
)
from adaptation.types import Box, Click, Embedding, MaskPrediction, Prompt, Size

LOGIT_LIMIT = 32.0
"""Fed-back logits are clamped to plus or minus this, as SAM's training did."""

MASK_LOGIT = 8.0
"""A mask from elsewhere is fed back with this logit inside and its negative outside: as sure as the
model itself is of what it has made."""

MAX_REPLAYED = 3
"""Earlier clicks that are answered again, one by one, before the newest."""

Encode = Callable[[View], Embedding]
"""The embedding of one view of the image at hand, from a cache or fresh."""

Corrector = Callable[[MaskPrediction, Prompt, Embedding], Tensor]
"""Shown logits ``[1, 1, h, w]`` after a correction that makes them obey the clicks."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ObjectState:
    """What one click on an object leaves for the next.

    Args:
        clicks: The clicks answered so far, in original pixels.
        box: The box, if there was one.
        view: The view that the last answer was decoded on.
        input_size: (H, W) of that view in the model's frame.
        low_res_logits: The mask shown last, ``[1, 1, h, w]`` in that view's frame.
    """

    clicks: tuple[Click, ...]
    box: Box | None
    view: View
    input_size: Size
    low_res_logits: Tensor

    def precedes(self, clicks: tuple[Click, ...], box: Box | None) -> bool:
        """Whether these clicks go on where this state stopped."""
        n_known = len(self.clicks)
        grown = n_known < len(clicks) or (n_known == len(clicks) and self.box != box)
        return grown and clicks[:n_known] == self.clicks and self.box in (None, box)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """One click's answer.

    Args:
        prompt: What was decoded, in the view's own pixels, with the fed-back logits.
        embedding: Of the view.
        view: In original pixels.
        image_size: (H, W) of the original image.
        prediction: All masks of the decoder, B = 1, as the decoder made them.
        shown_logits: ``[1, 1, h, w]``, the shown mask after any correction.
        state: To give to the object's next click.
    """

    prompt: Prompt
    embedding: Embedding
    view: View
    image_size: Size
    prediction: MaskPrediction
    shown_logits: Tensor
    state: ObjectState

    @property
    def input_size(self) -> Size:
        """(H, W) of the view in the model's frame, without the padding."""
        return self.embedding.input_size

    @property
    def token(self) -> int:
        """The mask token that is shown."""
        return int(self.prediction.shown_token()[0])

    @property
    def predicted_iou(self) -> float:
        """The model's own estimate of the shown mask's quality."""
        return float(self.prediction.predicted_iou[0, self.token])

    def pasted(self, in_view: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A mask of the view's size, put into its place in the original image, ``[H, W]``."""
        if self.view == View.full(self.image_size):
            return in_view
        mask = np.zeros(self.image_size, dtype=np.bool_)
        mask[self.view.y0 : self.view.y1, self.view.x0 : self.view.x1] = in_view
        return mask

    def candidate_tokens(self) -> tuple[int, ...]:
        """Tokens worth offering, best first: the shown one, then the rest by predicted IoU."""
        scores = self.prediction.predicted_iou[0]
        rest = [t for t in range(1, len(scores)) if t != self.token]
        return (self.token, *sorted(rest, key=lambda t: -float(scores[t])))


WeightsAt = Callable[[int], Weights | None]
"""Decoder weights that answer the newest of so many clicks on an object; None for the base's."""


def base_weights(n_clicks: int) -> None:
    """The base decoder's weights, whatever the number of clicks."""


class InteractivePredictor:
    """Answers clicks on one model with one way of zooming.

    Args:
        sam: The model.
        zoom: When and how far to zoom.
        corrector: Applied to the shown mask of every answer, if given.
        only_parts: Leave out the parts of a mask that nothing points at
            (:mod:`adaptation.predictor.components`).
        edges: How masks are drawn at the image's edges (:mod:`adaptation.predictor.guided_filter`).
        only_regions: Decode no more of the frame than the object needs
            (:mod:`adaptation.models.regions`).
    """

    def __init__(
        self,
        sam: PromptableSam,
        zoom: ZoomSettings,
        corrector: Corrector | None = None,
        only_parts: bool = True,
        edges: EdgeSettings | None = None,
        only_regions: bool = True,
    ) -> None:
        self.sam = sam
        self.zoom = zoom
        self.corrector = corrector
        self.only_parts = only_parts
        self.edges = edges or EdgeSettings()
        self.only_regions = only_regions
        self._stride = sam.input_size / sam.low_res_size

    def answer(
        self,
        encode: Encode,
        image_size: Size,
        clicks: tuple[Click, ...],
        box: Box | None = None,
        state: ObjectState | None = None,
        weights: Weights | None = None,
        view: View | None = None,
    ) -> Answer:
        """Decode one object once.

        Args:
            encode: Gives the embedding of a view; called once.
            image_size: (H, W) of the original image.
            clicks: All clicks on the object, oldest first, original pixels.
            box: The box around the object, if one was drawn.
            state: Of the answer before, None at the first.
            weights: Decoder weights of the session, None for the base model's.
            view: Decode on this one, as was done before, instead of choosing one.

        Raises:
            InputError: Neither a click nor a box, or one that lies outside the image.
        """
        _check_inside(clicks, box, image_size)
        with torch.no_grad():
            view = view or self._view(image_size, clicks, box, state)
            embedding = encode(view)
            prompt = self._prompt(clicks, box, view, embedding, state)
            if self.only_regions:
                prediction = self.sam.decode_region(embedding, prompt, weights=weights)
            else:
                prediction = self.sam.decode(embedding, [prompt], weights=weights)
            shown = prediction.shown_logits()
            if self.corrector is not None:
                shown = self.corrector(prediction, prompt, embedding)
            if self.only_parts:
                shown = pointed_at(shown[0, 0], prompt, embedding, self._stride)[None, None]
        return Answer(
            prompt=prompt,
            embedding=embedding,
            view=view,
            image_size=image_size,
            prediction=prediction,
            shown_logits=shown,
            state=ObjectState(
                clicks=clicks,
                box=box,
                view=view,
                input_size=embedding.input_size,
                low_res_logits=shown.clamp(-LOGIT_LIMIT, LOGIT_LIMIT),
            ),
        )

    def resume(
        self,
        encode: Encode,
        image_size: Size,
        clicks: tuple[Click, ...],
        box: Box | None = None,
        state: ObjectState | None = None,
        weights: WeightsAt = base_weights,
        check: Callable[[], object] = lambda: None,
    ) -> Answer:
        """Answer the newest click, replaying earlier ones that ``state`` does not cover.

        On another worker, or when an annotator moved an earlier point, the answers to the last
        earlier clicks are made again, one by one, as they were made first.  Of more than
        ``MAX_REPLAYED`` the first ones are answered together: what a request costs is bounded.

        Args:
            encode: As for :meth:`answer`, as all the following ones.
            image_size: (H, W) of the original image.
            clicks: All clicks on the object.
            box: Around the object.
            state: Of an earlier answer; one that these clicks do not go on from counts for none.
            weights: By the number of clicks.
            check: Called before every decode; what it raises ends the replay.
        """
        if state is not None and not state.precedes(clicks, box):
            state = None
        known = len(state.clicks) if state is not None else 0
        for n in range(max(known + 1, len(clicks) - MAX_REPLAYED), len(clicks)):
            check()
            state = self.answer(encode, image_size, clicks[:n], box, state, weights(n)).state
        check()
        return self.answer(encode, image_size, clicks, box, state, weights(len(clicks)))

    def state_of(self, mask: NDArray[np.bool_], clicks: tuple[Click, ...]) -> ObjectState:
        """What a mask from elsewhere leaves for the next click, as if the model had made it.

        Args:
            mask: ``[H, W]``, the original size.
            clicks: What it is taken for the answer to.
        """
        size = (mask.shape[0], mask.shape[1])
        side = self.sam.input_size
        input_size = self.sam.framed(size)
        frame = np.zeros((side, side), dtype=np.float32)
        frame[: input_size[0], : input_size[1]] = cv2.resize(
            mask.astype(np.float32), input_size[::-1], interpolation=cv2.INTER_AREA
        )
        grid = (self.sam.low_res_size, self.sam.low_res_size)
        inside = F.adaptive_avg_pool2d(torch.from_numpy(frame)[None, None], grid)
        logits = ((2 * inside - 1) * MASK_LOGIT).to(self.sam.device)
        view = View.full(size)
        return ObjectState(
            clicks=clicks, box=None, view=view, input_size=input_size, low_res_logits=logits
        )

    def next_view(self, answer: Answer) -> View:
        """The view on which the object's next click will be decoded if it lands nearby."""
        return self._view(answer.image_size, answer.state.clicks, answer.state.box, answer.state)

    def mask(self, answer: Answer, token: int | None = None) -> NDArray[np.bool_]:
        """One of an answer's masks at the original size, ``[H, W]``; the shown one by default."""
        return answer.pasted(self.mask_in_view(answer, token))

    def mask_in_view(
        self, answer: Answer, token: int | None = None, size: Size | None = None
    ) -> NDArray[np.bool_]:
        """The part of :meth:`mask` inside the answer's view; no more is set.

        Args:
            answer: Whose mask.
            token: Which one; the shown one by default.
            size: (H, W) to draw the view at, its own by default.
        """
        logits = self._logits(answer, answer.token if token is None else token)
        if not self.edges.is_on:
            return self.sam.binary_mask(logits, answer.embedding, size)
        moved = at_edges(logits, answer.prompt, answer.embedding, self._stride, self.edges)
        mask = self.sam.binary_mask(moved, answer.embedding, size)
        n_wrong = contradicted(mask, answer.prompt.clicks, answer.view.size)
        if not n_wrong and mask.any():
            return mask
        # Between two pixels of the grid a click may end up on the wrong side of a moved border,
        # and the filter may wipe out a mask of a few pixels.
        plain = self.sam.binary_mask(logits, answer.embedding, size)
        is_better = contradicted(plain, answer.prompt.clicks, answer.view.size) < n_wrong
        return plain if is_better or not mask.any() else mask

    def _logits(self, answer: Answer, token: int) -> Tensor:
        """One of an answer's masks, ``[h, w]``, without the parts that nothing points at."""
        if token == answer.token:
            return answer.shown_logits[0, 0]
        logits = answer.prediction.low_res_logits[0, token]
        if not self.only_parts:
            return logits
        return pointed_at(logits, answer.prompt, answer.embedding, self._stride)

    def _view(
        self,
        image_size: Size,
        clicks: tuple[Click, ...],
        box: Box | None,
        state: ObjectState | None,
    ) -> View:
        full = View.full(image_size)
        if state is None and box is None:
            return first_view(clicks, image_size, self.zoom)
        if state is None:
            return choose_view(box, image_size, full, self.zoom)
        extent = extent_of(
            state.low_res_logits[0, 0], state.view, state.input_size, self._stride, clicks
        )
        view = choose_view(_union(extent, box), image_size, state.view, self.zoom)
        seen = box is not None or any(view.contains(c) for c in clicks)
        return view if seen else full

    def _prompt(
        self,
        clicks: tuple[Click, ...],
        box: Box | None,
        view: View,
        embedding: Embedding,
        state: ObjectState | None,
    ) -> Prompt:
        prompt = Prompt(
            clicks=clicks_in_view(clicks, view),
            box=None if box is None else box_in_view(box, view),
        )
        if state is None:
            return prompt
        logits = state.low_res_logits
        if view != state.view:
            source, target = (state.view, state.input_size), (view, embedding.input_size)
            logits = move_logits(logits, source, target, self.sam.input_size)
        return replace(prompt, mask_input=logits[0])


def contradicted(mask: NDArray[np.bool_], clicks: Sequence[Click], size: Size) -> int:
    """How many clicks lie on the wrong side of a mask.

    Args:
        mask: ``[h, w]``, drawn at any size.
        clicks: In pixels of an image of ``size``.
        size: (H, W).
    """
    scale_y, scale_x = (m / s for m, s in zip(mask.shape, size, strict=True))
    rows = (min(int((round(c.y) + 0.5) * scale_y), mask.shape[0] - 1) for c in clicks)
    columns = (min(int((round(c.x) + 0.5) * scale_x), mask.shape[1] - 1) for c in clicks)
    return sum(
        bool(mask[row, column]) != click.is_positive
        for row, column, click in zip(rows, columns, clicks, strict=True)
    )


def _union(extent: Box | None, box: Box | None) -> Box | None:
    if extent is None or box is None:
        return extent or box
    return Box(
        x0=min(extent.x0, box.x0),
        y0=min(extent.y0, box.y0),
        x1=max(extent.x1, box.x1),
        y1=max(extent.y1, box.y1),
    )


def _check_inside(clicks: tuple[Click, ...], box: Box | None, image_size: Size) -> None:
    full = View.full(image_size)
    for click in clicks:
        if not full.contains(click):
            raise InputError(
                f"The click ({click.x:.1f}, {click.y:.1f}) lies outside of the image of "
                f"{image_size[1]}x{image_size[0]} pixels."
            )
    if box is not None and box_in_view(box, full) is None:
        raise InputError(
            f"The box ({box.x0:.1f}, {box.y0:.1f}, {box.x1:.1f}, {box.y1:.1f}) lies outside of "
            f"the image of {image_size[1]}x{image_size[0]} pixels."
        )
