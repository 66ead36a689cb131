"""One annotator at work on one image: opens it, clicks, accepts or paints, and submits."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from adaptation.errors import InputError
from adaptation.masks import Mask, encode_rle, iou
from adaptation.simulation.annotator import Annotator, Rules
from adaptation.storage.datasets import ObjectRef
from backend.commands.simulate.client import Client, Refused
from backend.commands.simulate.painting import Painter
from backend.commands.simulate.plan import Picture
from backend.commands.simulate.results import Outcome, PictureResult, SimulatedObject
from backend.commands.simulate.wire import Body, Region, SimulatedTask, accepted, new_id
from backend.protocol import RegionId
from backend.protocol.regions import decode_region, mask_shape

Clicked = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How annotators work.

    Args:
        rules: Where they click, and when they are content.
        give_up: What they do when they are not: "paint", "keep" or "leave".
        painter: How well they paint.
        think_s: Seconds before every click.
        local_files: Whether the server reads the images by their names.
    """

    rules: Rules
    give_up: str = "paint"
    painter: Painter = Painter()
    think_s: float = 0.0
    local_files: bool = False


@dataclass(frozen=True, slots=True)
class _Offer:
    """A mask that was shown: the region, its pixels, its IoU, and its place among the offers."""

    region: Region | None
    mask: Mask
    iou: float
    choice: int


@dataclass(slots=True)
class _Drawing:
    """What was done on one object so far."""

    keypoints: list[Region] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Ending:
    """How an object ended: the region for the annotation, if any, and its mask."""

    outcome: Outcome
    region: Region | None = None
    mask: Mask | None = None
    choice: int = 0
    is_sloppy: bool = False


class Labeler:
    """One annotator.

    Args:
        client: Speaks to the server.
        habits: How to work.
        number: Of the annotator, from 1.
        on_click: Called after every answered click.
    """

    def __init__(
        self, client: Client, habits: Habits, number: int, on_click: Clicked = lambda: None
    ) -> None:
        self._client, self._habits, self._number = client, habits, number
        self._on_click = on_click

    def label(self, picture: Picture, annotation_id: int) -> PictureResult:
        """Label an image and submit it.

        An image that cannot be read, or that the server refuses, is noted as failed, and nothing
        of it is submitted.

        Raises:
            ServerLost: The server is gone; nothing of the image was submitted.
            Stopped: The simulation is to stop.
        """
        try:
            objects = self._label(picture, annotation_id)
        except (Refused, InputError) as error:
            objects = [_failed(ref, str(error)) for ref in picture.refs]
        return PictureResult(
            key=picture.key,
            annotator=self._number,
            annotation_id=annotation_id,
            model_version=self._client.model_version,
            objects=tuple(objects),
        )

    def _label(self, picture: Picture, annotation_id: int) -> list[SimulatedObject]:
        started = time.monotonic()
        labels = picture.dataset.labels(picture.stem)
        task = SimulatedTask(
            project_id=picture.project_id,
            task_id=picture.task_id,
            label=picture.label,
            reference=self._reference(picture),
            size=(labels.shape[0], labels.shape[1]),
        )
        results: list[SimulatedObject] = []
        regions: list[Region] = []
        self._client.predict(task.opened())
        for ref in picture.refs:
            result, region = self._draw(task, ref, labels == ref.label, regions)
            results.append(result)
            regions += [] if region is None else [region]
        lead_time_s = time.monotonic() - started
        self._client.post(
            "/webhook", task.submitted(annotation_id, regions, self._number, lead_time_s)
        )
        return results

    def _reference(self, picture: Picture) -> str:
        return picture.local_reference() if self._habits.local_files else picture.data_uri()

    def _draw(
        self, task: SimulatedTask, ref: ObjectRef, truth: Mask, finished: Sequence[Region]
    ) -> tuple[SimulatedObject, Region | None]:
        """One object from the first click to the region that will be submitted."""
        # Named as in the evaluation, so that noisy clicks are the same there and here.
        annotator = Annotator(truth, self._habits.rules, name=f"{ref.stem}/{ref.label}")
        drawing = _Drawing()
        annotator.begin()
        while True:
            offer = self._click(task, annotator, truth, drawing, finished)
            if offer.iou >= self._habits.rules.target or not annotator.reply(offer.mask):
                break
        ending = self._end(task, offer, truth, f"{ref.stem}/{ref.label}")
        return _result(ref, annotator, drawing, ending, truth), ending.region

    def _click(
        self,
        task: SimulatedTask,
        annotator: Annotator,
        truth: Mask,
        drawing: _Drawing,
        finished: Sequence[Region],
    ) -> _Offer:
        """Make the annotator's newest click, and look at what is shown."""
        self._client.pause(self._habits.think_s)
        drawing.keypoints.append(task.keypoint(annotator.clicks[-1], new_id()))
        body = task.clicked(drawing.keypoints, finished, self._number)
        answer, elapsed_s = self._client.predict(body)
        offer = _best_offer(answer, truth)
        drawing.ious.append(offer.iou)
        drawing.seconds.append(elapsed_s)
        self._on_click()
        return offer

    def _end(self, task: SimulatedTask, offer: _Offer, truth: Mask, name: str) -> _Ending:
        """Accept what is shown, or do what is done with a mask that is not good enough."""
        is_good = offer.iou >= self._habits.rules.target
        give_up = self._habits.give_up
        if offer.region is not None and (is_good or give_up == "keep"):
            outcome: Outcome = "accepted" if is_good else "kept"
            return _Ending(outcome, accepted(offer.region), offer.mask, offer.choice)
        if give_up != "paint":
            return _Ending("left")
        mask, is_sloppy = self._habits.painter.paint(truth, name)
        return _Ending("painted", task.painted(mask, offer.region), mask, offer.choice, is_sloppy)


def _best_offer(answer: Body, truth: Mask) -> _Offer:
    """Of the masks in an answer the one nearest to the truth; an empty one where there is none.

    Raises:
        Refused: The answer is none that Label Studio could draw.
    """
    try:
        (result,) = answer["results"]
        offers = [_offer(region, truth) for region in result["result"]]
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise Refused(f"/predict was answered with no mask that can be drawn: {error}") from error
    return max(offers, key=lambda o: o.iou, default=_Offer(None, np.zeros_like(truth), 0.0, 0))


def _offer(region: Region, truth: Mask) -> _Offer:
    own_id = RegionId.parse(region["id"])
    size = int(region["original_height"]), int(region["original_width"])
    shape = mask_shape(region["type"])
    if shape is None:
        raise InputError(f"a region of type {region['type']!r} holds no mask")
    mask = decode_region(shape, region["value"], size, region["id"])
    return _Offer(region, mask, iou(mask, truth), 0 if own_id is None else own_id.candidate)


def _result(
    ref: ObjectRef, annotator: Annotator, drawing: _Drawing, ending: _Ending, truth: Mask
) -> SimulatedObject:
    mask = ending.mask
    return SimulatedObject(
        dataset=ref.dataset,
        stem=ref.stem,
        label=ref.label,
        group=ref.group,
        area=ref.area,
        clicks=tuple((round(c.x), round(c.y), c.is_positive) for c in annotator.clicks),
        ious=tuple(drawing.ious),
        seconds=tuple(round(seconds, 4) for seconds in drawing.seconds),
        outcome=ending.outcome,
        region_id="" if ending.region is None else ending.region["id"],
        choice=ending.choice,
        submitted_iou=0.0 if mask is None else iou(mask, truth),
        is_sloppy=ending.is_sloppy,
        mask_digest="" if mask is None else _digest(mask),
    )


def _failed(ref: ObjectRef, error: str) -> SimulatedObject:
    return SimulatedObject(
        dataset=ref.dataset,
        stem=ref.stem,
        label=ref.label,
        group=ref.group,
        area=ref.area,
        clicks=(),
        ious=(),
        seconds=(),
        outcome="failed",
        error=error,
    )


def _digest(mask: Mask) -> str:
    return hashlib.sha256(encode_rle(mask).counts).hexdigest()[:16]
