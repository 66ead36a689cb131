"""Images made up on the spot, with exact masks: shapes, cells, cracks and stains on textures.

Photographs teach what objects look like to people; micrographs, castings and scans look like
nothing in them.  Compositions teach the rest: follow the click, the edge and the texture, at any
contrast.  Photographs of the training sets serve as one source of texture and of outlines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Pixels = NDArray[np.float32]
LabelMap = NDArray[np.int32]
Stencil = NDArray[np.uint8]

_MIN_SHAPE = 24
_MAX_CELLS = 60


class Photographs(Protocol):
    """Where textures and outlines come from."""

    def draw(self, rng: Generator) -> tuple[NDArray[np.uint8], Sequence[LabelMap]]:
        """An image [H, W, 3] and its partitions."""
        ...


@dataclass(frozen=True, slots=True)
class Composer:
    """Draws compositions.

    Args:
        photographs: Source of natural textures and outlines.
    """

    photographs: Photographs

    def compose(self, size: int, rng: Generator) -> tuple[Pixels, LabelMap]:
        """Make one image [size, size, 3] in [0, 255] and its label map [size, size]."""
        image = self.texture(size, rng)
        labels = np.zeros((size, size), np.int32)
        stencils = self._cells(size, rng) if rng.random() < 0.3 else self._shapes(size, rng)
        paint = self._paint(size, image, rng)
        for stencil in stencils:
            if stencil.sum() < _MIN_SHAPE:
                continue
            is_decoy = rng.random() < 0.08
            if is_decoy or rng.random() < 0.2:
                _blend(image, stencil, self._paint(size, image, rng), rng)
            else:
                _blend(image, stencil, paint, rng)
            labels[stencil > 0] = 0 if is_decoy else labels.max() + 1
        return np.clip(image, 0, 255), labels

    def texture(self, size: int, rng: Generator) -> Pixels:
        """A background or a filling, [size, size, 3]: a photograph's patch, or noise."""
        if rng.random() < 0.45:
            return self._photographic(size, rng)
        texture: Pixels = np.full((size, size, 3), rng.uniform(10, 245, 3), np.float32)
        if rng.random() < 0.6:
            texture[:] = texture.mean()
        for cells in (3, 8, 24, 64):
            if rng.random() < 0.5:
                texture += _noise(size, cells, rng.uniform(1, 14), rng)
        if rng.random() < 0.2:
            texture += _waves(size, rng)
        if rng.random() < 0.15:
            texture = _brushed(texture, rng)
        grain = rng.normal(0, rng.uniform(0, 9), (size, size, 1))
        return (texture + grain).astype(np.float32)

    def _photographic(self, size: int, rng: Generator) -> Pixels:
        image, _ = self.photographs.draw(rng)
        shortest = min(image.shape[:2])
        side = int(rng.integers(min(60, shortest), min(300, shortest) + 1))
        y = int(rng.integers(0, image.shape[0] - side + 1))
        x = int(rng.integers(0, image.shape[1] - side + 1))
        patch = cv2.resize(image[y : y + side, x : x + side], (size, size)).astype(np.float32)
        if rng.random() < 0.6:
            mean = patch.mean((0, 1))
            patch = (patch - mean) * np.float32(rng.uniform(0.1, 0.6)) + mean
        return patch

    def _shapes(self, size: int, rng: Generator) -> list[Stencil]:
        count = int(rng.integers(1, 14))
        return [
            self._outline(size, rng) if rng.random() < 0.3 else draw_shape(size, rng)
            for _ in range(count)
        ]

    def _cells(self, size: int, rng: Generator) -> list[Stencil]:
        """Many alike, near each other: nuclei, grains, droplets."""
        radius = float(np.exp(rng.uniform(np.log(4), np.log(max(5, size * 0.12)))))
        count = int(min(_MAX_CELLS, rng.uniform(0.15, 0.7) * (size / (2 * radius)) ** 2 + 2))
        return [
            draw_ellipse(size, rng, radius * float(rng.uniform(0.7, 1.3)), least_aspect=0.6)
            for _ in range(count)
        ]

    def _outline(self, size: int, rng: Generator) -> Stencil:
        """A region of a photograph, scaled and put somewhere."""
        _, partitions = self.photographs.draw(rng)
        partition = partitions[0]
        region = (partition == rng.integers(1, max(2, partition.max() + 1))).astype(np.uint8)
        scale = rng.uniform(0.2, 0.9) * size / max(region.shape)
        shift_x, shift_y = rng.uniform(-0.3, 0.9, 2) * size
        turn = np.array([[scale, 0, shift_x], [0, scale, shift_y]], np.float32)
        return np.asarray(
            cv2.warpAffine(region, turn, (size, size), flags=cv2.INTER_NEAREST), np.uint8
        )

    def _paint(self, size: int, image: Pixels, rng: Generator) -> Pixels:
        """What objects are filled with: a shifted background, a flattened one, or a texture."""
        strength = float(np.exp(rng.uniform(np.log(5), np.log(90)))) * rng.choice([-1, 1])
        shift: Pixels = np.full(3, strength, np.float32)
        if rng.random() < 0.4:
            shift = shift * rng.uniform(0.3, 1.2, 3).astype(np.float32)
        kind = rng.random()
        if kind < 0.35:
            return (image + shift).astype(np.float32)
        if kind < 0.65:
            return np.asarray(0.5 * image + 0.5 * image.mean((0, 1)) + shift, np.float32)
        if kind < 0.75:
            blurred = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(2, 6)))
            return (blurred + 0.3 * shift).astype(np.float32)
        return self.texture(size, rng)


def draw_shape(size: int, rng: Generator) -> Stencil:
    """One random shape, [size, size] of 0 and 1; it may come out empty."""
    radius = float(np.exp(rng.uniform(np.log(4), np.log(size * 0.35))))
    kind = int(rng.integers(5))
    if kind == 0:
        return draw_ellipse(size, rng, radius, least_aspect=0.3)
    if kind == 1:
        return _draw_polygon(size, rng, radius)
    if kind == 2:
        return _draw_blob(size, rng, radius)
    if kind == 3:
        return _draw_curve(size, rng, radius)
    return _draw_patch(size, rng, radius)


def draw_ellipse(size: int, rng: Generator, radius: float, *, least_aspect: float) -> Stencil:
    """A filled ellipse, [size, size] of 0 and 1."""
    stencil = np.zeros((size, size), np.uint8)
    axes = (max(2, int(radius)), max(2, int(radius * rng.uniform(least_aspect, 1))))
    centre = (int(rng.uniform(0.02, 0.98) * size), int(rng.uniform(0.02, 0.98) * size))
    cv2.ellipse(stencil, centre, axes, float(rng.uniform(0, 180)), 0, 360, (1,), -1)
    return stencil


def _around(size: int, rng: Generator, radii: NDArray[np.floating], angles: object) -> Stencil:
    centre = rng.uniform(0.1, 0.9, 2) * size
    turns = np.asarray(angles)
    points = centre + radii[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    stencil = np.zeros((size, size), np.uint8)
    cv2.fillPoly(stencil, [points.astype(np.int32)], (1,))
    return stencil


def _draw_polygon(size: int, rng: Generator, radius: float) -> Stencil:
    corners = int(rng.integers(3, 9))
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    return _around(size, rng, radius * rng.uniform(0.5, 1.2, corners), angles)


def _draw_blob(size: int, rng: Generator, radius: float) -> Stencil:
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    waves = np.zeros_like(angles)
    for order in (1, 2, 3, 4):
        waves += rng.normal() / order * np.sin(order * angles + rng.uniform(0, 2 * np.pi))
    return _around(size, rng, radius * (1 + 0.35 * waves), angles)


def _draw_curve(size: int, rng: Generator, radius: float) -> Stencil:
    """A thin, winding stroke: a crack, a fibre, a scratch."""
    knots = int(rng.integers(3, 7))
    path = np.cumsum(rng.normal(0, radius * 0.6, (knots, 2)), axis=0)
    path += rng.uniform(0.1, 0.9, 2) * size
    at = np.linspace(0, knots - 1, 60)
    dense = np.stack([np.interp(at, np.arange(knots), path[:, i]) for i in (0, 1)], axis=1)
    smooth = cv2.GaussianBlur(dense.astype(np.float32), (1, 9), 2)
    stencil = np.zeros((size, size), np.uint8)
    cv2.polylines(stencil, [smooth.astype(np.int32)], False, (1,), int(rng.integers(2, 12)))
    return stencil


def _draw_patch(size: int, rng: Generator, radius: float) -> Stencil:
    """One connected patch of thresholded noise: a stain with a ragged edge."""
    cells = max(2, int(size / radius / 0.7))
    noise = cv2.resize(
        rng.normal(size=(cells, cells)).astype(np.float32),
        (size, size),
        interpolation=cv2.INTER_CUBIC,
    )
    above = (noise > noise.mean() + 0.8 * noise.std()).astype(np.uint8)
    count, components = cv2.connectedComponents(above)
    if count < 2:
        return np.asarray(above)
    return np.asarray(components == rng.integers(1, count), np.uint8)


def _blend(image: Pixels, stencil: Stencil, paint: Pixels, rng: Generator) -> None:
    """Paint inside the stencil, in place, with a soft edge; sometimes shaded or rimmed."""
    softness = float(rng.uniform(0.4, 1.8))
    x, y, width, height = cv2.boundingRect(stencil)
    pad = int(3 * softness) + 1
    top, left = max(0, y - pad), max(0, x - pad)
    part = (slice(top, y + height + pad), slice(left, x + width + pad))
    inside = stencil[part]
    alpha = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), softness)
    style = rng.random()
    if style < 0.2:
        depth = cv2.distanceTransform(np.pad(inside, 1), cv2.DIST_L2, cv2.DIST_MASK_3)[1:-1, 1:-1]
        alpha = alpha * (0.4 + 0.6 * np.sqrt(depth / max(float(depth.max()), 1.0)))
    elif style < 0.35:
        rim = (inside > cv2.erode(inside, np.ones((3, 3), np.uint8))).astype(np.float32)
        alpha = np.maximum(alpha * rng.uniform(0.1, 0.5), cv2.GaussianBlur(rim, (0, 0), 0.6))
    mixing = alpha[..., None].astype(np.float32)
    image[part] = image[part] * (1 - mixing) + paint[part] * mixing


def _noise(size: int, cells: int, strength: float, rng: Generator) -> Pixels:
    coarse = rng.normal(0, strength, (cells, cells)).astype(np.float32)
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, np.float32)[..., None]


def _waves(size: int, rng: Generator) -> Pixels:
    """A regular pattern: fabric, mesh, machined grooves."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 40)
    phase = (np.cos(angle) * x + np.sin(angle) * y) * 2 * np.pi / period
    return np.asarray(np.sin(phase) * rng.uniform(2, 25), np.float32)[..., None]


def _brushed(texture: Pixels, rng: Generator) -> Pixels:
    """Grain drawn out along one axis, as on rolled or ground metal."""
    grain = texture + rng.normal(0, rng.uniform(5, 25), texture.shape[:2] + (1,))
    length = int(rng.integers(5, 41))
    kernel = (length, 1) if rng.random() < 0.5 else (1, length)
    return np.asarray(cv2.blur(grain.astype(np.float32), kernel), np.float32)
