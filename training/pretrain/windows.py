"""Training windows: one image with the masks of a few of its objects, ready for the model.

Windows are cut the way the model is used: whole frames, random crops, and crops around one object
that are scaled up until it fills the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from adaptation.storage.datasets import FolderSet, Image, LabelMap, Mask
from adaptation.types import LOGIT_STRIDE
from training.pretrain.synthesis import Composer, Pixels

SYNTHETIC = "synthetic"

_PixelT = TypeVar("_PixelT", np.uint8, np.int32)

_ArrayT = TypeVar("_ArrayT", np.float32, np.bool_)

_MIN_ZOOM_SIDE = 40
_ZOOM_FACTORS = (1.3, 4.0)
_SMALL_SIDE = 24
_MIN_AREA_CELLS = 8
_MAX_AREA_SHARE = 0.75
_LONGEST_SOURCE = 640


@dataclass(frozen=True, slots=True)
class TrainingWindow:
    """One window and its objects.

    Args:
        image: [size, size, 3] float32 RGB in [0, 255]; zero below and right of the content.
        content: (height, width) of the part that holds the image, both even.
        masks: [K, size / 2, size / 2] bool, at the resolution of the logits.
    """

    image: Pixels
    content: tuple[int, int]
    masks: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Scene:
    """A source image and its partitions, [H, W, 3] and [H, W] each."""

    image: Image
    partitions: Sequence[LabelMap]


@dataclass
class SceneSource:
    """A data set held in memory once it has been read, at most 640 pixels on a side.

    Args:
        dataset: The set.
        left_out: Stems that are not drawn.
    """

    dataset: FolderSet
    left_out: frozenset[str] = frozenset()
    _scenes: dict[str, Scene] = field(default_factory=dict)

    def draw(self, rng: Generator) -> tuple[Image, Sequence[LabelMap]]:
        """A random image and its partitions."""
        stems = self._stems
        stem = stems[int(rng.integers(len(stems)))]
        if stem not in self._scenes:
            self._scenes[stem] = self._read(stem)
        scene = self._scenes[stem]
        return scene.image, scene.partitions

    @cached_property
    def _stems(self) -> list[str]:
        return [stem for stem in self.dataset.stems if stem not in self.left_out]

    def _read(self, stem: str) -> Scene:
        image, partitions = self.dataset.image(stem), self.dataset.partitions(stem)
        scale = _LONGEST_SOURCE / max(image.shape[:2])
        if scale < 1:
            size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
            partitions = [
                np.asarray(cv2.resize(p, size, interpolation=cv2.INTER_NEAREST), np.int32)
                for p in partitions
            ]
        return Scene(image, partitions)


@dataclass(frozen=True, slots=True)
class _Cut:
    """A rectangle of the source and the factor by which it is scaled."""

    x: int
    y: int
    width: int
    height: int
    scale: float

    def content(self, size: int) -> tuple[int, int]:
        """(height, width) after scaling: even, and no larger than the window."""
        sides = (int(round(side * self.scale / 2)) * 2 for side in (self.height, self.width))
        height, width = (min(size, max(side, 2)) for side in sides)
        return height, width

    def of(self, array: NDArray[_PixelT]) -> NDArray[_PixelT]:
        """The rectangle's part of an array whose first axes are rows and columns."""
        return array[self.y : self.y + self.height, self.x : self.x + self.width]


@dataclass(frozen=True)
class WindowSampler:
    """Draws training windows from several sources.

    Args:
        sources: Data sets by name.
        composer: Draws the synthetic windows.
        shares: Name of a source (or "synthetic") -> its share of the windows.
        merging: Names of the sources whose neighbouring regions may be merged into one object.
        frame_size: Side of the model's frame in pixels.
    """

    sources: dict[str, SceneSource]
    composer: Composer
    shares: dict[str, float]
    merging: frozenset[str]
    frame_size: int

    def sample(self, size: int, max_objects: int, rng: Generator) -> TrainingWindow:
        """Draw one window with 1 to `max_objects` objects."""
        names = list(self.shares)
        weights = np.array([self.shares[name] for name in names])
        while True:
            name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
            if name == SYNTHETIC:
                window = self._synthetic(size, max_objects, rng)
            else:
                window = self._real(name, size, max_objects, rng)
            if len(window.masks):
                return window

    def _synthetic(self, size: int, max_objects: int, rng: Generator) -> TrainingWindow:
        image, labels = self.composer.compose(size, rng)
        areas = np.bincount(labels.ravel())
        ids = [int(i) for i in np.flatnonzero(areas) if i > 0]
        rng.shuffle(ids)
        half = (size // LOGIT_STRIDE, size // LOGIT_STRIDE)
        masks = [_shrink(_component(labels == i, rng), half) for i in ids[: 2 * max_objects]]
        kept = _usable(masks, half)[:max_objects]
        return _assemble(recolour(image, rng), kept, size, (size, size), rng)

    def _real(self, name: str, size: int, max_objects: int, rng: Generator) -> TrainingWindow:
        image, partitions = self.sources[name].draw(rng)
        cut = self._choose_cut(image.shape[:2], partitions, size, rng)
        content = cut.content(size)
        interpolation = cv2.INTER_AREA if cut.scale < 1 else cv2.INTER_LINEAR
        pixels = cv2.resize(cut.of(image), content[::-1], interpolation=interpolation)
        parts = [np.asarray(cut.of(p), np.int32) for p in partitions]
        half = (content[0] // LOGIT_STRIDE, content[1] // LOGIT_STRIDE)
        masks = [
            _shrink(_draw_object(parts, name in self.merging, rng), half)
            for _ in range(2 * max_objects)
        ]
        kept = _usable(_distinct(masks), half)[:max_objects]
        return _assemble(recolour(pixels.astype(np.float32), rng), kept, size, content, rng)

    def _choose_cut(
        self, shape: tuple[int, ...], partitions: Sequence[LabelMap], size: int, rng: Generator
    ) -> _Cut:
        height, width = shape[:2]
        is_frame = size == self.frame_size
        chances = (0.45, 0.4) if is_frame else (0.12, 0.38)
        if _holds_small_objects(partitions[0], self.frame_size):
            chances = (0.25, 0.65) if is_frame else (0.0, 0.8)
        draw = rng.random()
        if draw < chances[0]:
            return _Cut(0, 0, width, height, size / max(height, width))
        if draw < sum(chances):
            return _zoom_cut(partitions, size, rng)
        scale = float(np.exp(rng.uniform(np.log(0.6), np.log(2.2))))
        scale *= self.frame_size / max(height, width)
        sides = min(width, round(size / scale)), min(height, round(size / scale))
        x = int(rng.integers(0, width - sides[0] + 1))
        y = int(rng.integers(0, height - sides[1] + 1))
        return _Cut(x, y, *sides, scale)


def _holds_small_objects(partition: LabelMap, frame_size: int) -> bool:
    """Whether half of the objects measure less than 24 pixels of the frame."""
    areas = np.bincount(partition.ravel())[1:]
    areas = areas[areas > 0]
    if len(areas) == 0:
        return False
    scale = frame_size / max(partition.shape)
    return bool(np.sqrt(np.median(areas)) * scale < _SMALL_SIDE)


def _zoom_cut(partitions: Sequence[LabelMap], size: int, rng: Generator) -> _Cut:
    """A square around one object, scaled to fill the window."""
    partition = partitions[int(rng.integers(len(partitions)))]
    height, width = partition.shape
    areas = np.bincount(partition.ravel())
    areas[0] = 0
    ids = np.flatnonzero(areas >= 40)
    if len(ids) == 0:
        return _Cut(0, 0, width, height, size / max(height, width))
    x, y, w, h = cv2.boundingRect((partition == rng.choice(ids)).astype(np.uint8))
    side = max(_MIN_ZOOM_SIDE, int(max(w, h) * np.exp(rng.uniform(*np.log(_ZOOM_FACTORS)))))
    across, down = min(side, width), min(side, height)
    jitter = rng.uniform(-0.1, 0.1, 2) * side
    left = int(np.clip(x + w / 2 - across / 2 + jitter[0], 0, width - across))
    top = int(np.clip(y + h / 2 - down / 2 + jitter[1], 0, height - down))
    return _Cut(left, top, across, down, size / max(across, down))


def _draw_object(parts: Sequence[LabelMap], may_merge: bool, rng: Generator) -> Mask:
    """A region of one annotator; perhaps with neighbours, perhaps one connected piece of it."""
    labels = parts[int(rng.integers(len(parts)))]
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    ids = np.flatnonzero(areas >= 16)
    if len(ids) == 0:
        return np.zeros(labels.shape, np.bool_)
    mask = labels == rng.choice(ids)
    if may_merge and rng.random() < 0.25:
        for _ in range(int(rng.integers(1, 4))):
            ring = (cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0) & ~mask
            neighbours = labels[ring & (labels > 0)]
            if len(neighbours):
                mask = mask | (labels == rng.choice(neighbours))
    return _component(mask, rng) if rng.random() < 0.7 else mask


def _component(mask: Mask, rng: Generator) -> Mask:
    """One connected piece, drawn by area."""
    count, components, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count <= 2:
        return mask
    areas = stats[1:, cv2.CC_STAT_AREA].astype(np.float64)
    return np.asarray(components == 1 + rng.choice(count - 1, p=areas / areas.sum()))


def _shrink(mask: Mask, shape: tuple[int, int]) -> Mask:
    """Scale a mask to the resolution of the logits, with smooth edges where it grows."""
    grows = mask.shape[0] < shape[0]
    interpolation = cv2.INTER_LINEAR if grows else cv2.INTER_AREA
    scaled = cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=interpolation)
    return np.asarray(scaled >= 0.5)


def _distinct(masks: Sequence[Mask]) -> list[Mask]:
    unique = {mask.tobytes(): mask for mask in masks}
    return list(unique.values())


def _usable(masks: Sequence[Mask], shape: tuple[int, int]) -> list[Mask]:
    """Masks that are neither specks nor nearly everything."""
    most = _MAX_AREA_SHARE * shape[0] * shape[1]
    return [mask for mask in masks if _MIN_AREA_CELLS <= mask.sum() <= most]


def _assemble(
    image: Pixels, masks: Sequence[Mask], size: int, content: tuple[int, int], rng: Generator
) -> TrainingWindow:
    """Turn and mirror at random, then pad to the window."""
    turns = int(rng.integers(4)) if rng.random() < 0.3 else 0
    flips = rng.random() < 0.5
    half = size // LOGIT_STRIDE
    canvas = np.zeros((size, size, 3), np.float32)
    turned = _turn(image, turns, flips)
    canvas[: turned.shape[0], : turned.shape[1]] = turned
    planes = np.zeros((len(masks), half, half), np.bool_)
    for plane, mask in zip(planes, masks, strict=True):
        small = _turn(mask, turns, flips)
        plane[: small.shape[0], : small.shape[1]] = small
    shape = content[::-1] if turns % 2 else content
    return TrainingWindow(canvas, shape, planes)


def _turn(array: NDArray[_ArrayT], turns: int, flips: bool) -> NDArray[_ArrayT]:
    """Turn by quarters, then mirror; [H, W, ...]."""
    turned = np.rot90(array, turns)
    return turned[:, ::-1] if flips else turned


def recolour(image: Pixels, rng: Generator) -> Pixels:
    """Change colour, contrast, light, sharpness and noise, strongly; [H, W, 3] in [0, 255]."""
    x: NDArray[np.floating] = image
    if rng.random() < 0.25:
        x = np.repeat(x.mean(axis=-1, keepdims=True), 3, axis=-1)
    elif rng.random() < 0.1:
        x = x[..., rng.permutation(3)]
    if rng.random() < 0.6:
        x = (x - 128) * rng.uniform(0.4, 1.4) + 128 + rng.uniform(-45, 45)
        x = x * rng.uniform(0.85, 1.15, 3)
    if rng.random() < 0.2:
        x = 255 * (np.clip(x, 0, 255) / 255) ** float(np.exp(rng.uniform(-0.7, 0.7)))
    if rng.random() < 0.08:
        x = 255 - x
    if rng.random() < 0.12:
        x = x + _slope(x.shape[0], x.shape[1], rng)
    if rng.random() < 0.15:
        x = np.asarray(cv2.GaussianBlur(x, (0, 0), float(rng.uniform(0.5, 2.0))), np.float32)
    if rng.random() < 0.25:
        x = x + rng.normal(0, rng.uniform(2, 14), x.shape[:2] + (1,))
    return np.asarray(np.clip(x, 0, 255), np.float32)


def _slope(height: int, width: int, rng: Generator) -> NDArray[np.float32]:
    """Light that falls off across the image."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None]
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :, None]
    return np.asarray(rng.uniform(-40, 40) * x + rng.uniform(-40, 40) * y, np.float32)
