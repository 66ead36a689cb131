"""Clicks that the model does not obey, corrected in closed form: the fast weights of one object.

The decoder's masks are linear readouts of per-pixel features.  When a shown mask contradicts a
click, that readout is corrected for this object alone: a penalised logistic regression on the
features, with the decoder's own logits as offset, fitted on the clicked pixels and on pixels of
which the decoder is sure (a one-layer case of Kontogianni et al. 2020, arXiv 1911.12709, solved by
Newton's method in about a millisecond).  Clicks that it cannot reach are then met by interpolating
their residuals with a small Gaussian kernel.  Nothing is carried to the next object.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveFloat
from torch import Tensor

from adaptation.config import check_ranges
from adaptation.models.prompts import click_coordinates
from adaptation.types import Embedding, MaskPrediction, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionSettings:
    """How contradicted clicks are corrected.

    Args:
        is_on: False shows the decoder's masks as they are.
        click_weight: Total weight of one click in the regression; higher bends more pixels.
        anchor_weight: Total weight of the pixels that are held where the decoder put them.
        n_anchors: How many of them are used.
        sure_logit: A pixel is held when its logit lies at least this far from 0.
        sigma: Width of a click in pixels of the low-resolution logits.
        l2: Penalty on the correction, per feature of unit variance.
        n_newton: Newton steps of the regression.
        margin: Logit that a clicked pixel must reach on its own side.
    """

    is_on: bool = True
    click_weight: PositiveFloat = 10.0
    anchor_weight: PositiveFloat = 10.0
    n_anchors: NonNegativeInt = 1500
    sure_logit: float = 2.0
    sigma: PositiveFloat = 2.0
    l2: PositiveFloat = 1.0
    n_newton: NonNegativeInt = 4
    margin: PositiveFloat = 0.5

    def __post_init__(self) -> None:
        check_ranges(self, "The correction")


@dataclass(frozen=True, slots=True, eq=False)
class LowResClicks:
    """Clicks on the grid of the low-resolution logits.

    Args:
        points: ``[N, 2]`` float32 (x, y), pixel centres at whole numbers.
        signs: ``[N]`` float32, 1 for positive and -1 for negative clicks.
    """

    points: Tensor
    signs: Tensor

    @classmethod
    def of(
        cls, prompt: Prompt, embedding: Embedding, stride: float, device: torch.device
    ) -> LowResClicks:
        """Map a prompt's clicks; ``stride`` is frame pixels per logit."""
        frame = torch.from_numpy(click_coordinates(prompt.clicks, embedding)).to(device)
        signs = [1.0 if c.is_positive else -1.0 for c in prompt.clicks]
        return cls((frame + 0.5) / stride - 0.5, torch.tensor(signs, device=device))

    def logits_at(self, logits: Tensor) -> Tensor:
        """Bilinearly interpolated ``[h, w]`` logits under the clicks, ``[N]``."""
        size = torch.tensor([logits.shape[1], logits.shape[0]], device=logits.device)
        grid = (self.points + 0.5) / size * 2 - 1
        found = F.grid_sample(
            logits[None, None], grid[None, None], align_corners=False, padding_mode="border"
        )
        return found[0, 0, 0]

    def contradicted(self, logits: Tensor, margin: float = 0.0) -> Tensor:
        """Which clicks the mask ``logits > 0`` contradicts, ``[N]`` bool."""
        return self.logits_at(logits) * self.signs <= margin


class ClickCorrection:
    """A :data:`~adaptation.predictor.interactive.Corrector` without state, safe in many threads.

    Args:
        settings: Weights of the regression.
        frame_size: Side of the model's square input in pixels.
    """

    def __init__(self, settings: CorrectionSettings, frame_size: int) -> None:
        self.settings = settings
        self.frame_size = frame_size

    def __call__(self, prediction: MaskPrediction, prompt: Prompt, embedding: Embedding) -> Tensor:
        """The shown logits ``[1, 1, h, w]``, corrected if they contradict a click."""
        shown = prediction.shown_logits()
        if not self.settings.is_on or not prompt.clicks:
            return shown
        logits = shown[0, 0]
        stride = self.frame_size / logits.shape[-1]
        clicks = LowResClicks.of(prompt, embedding, stride, logits.device)
        if not clicks.contradicted(logits).any():
            return shown
        if len(prompt.clicks) > 1:
            logits = fit_readout(logits, prediction.upscaled[0], clicks, self.settings)
        return meet_clicks(logits, clicks, self.settings)[None, None]


def fit_readout(
    logits: Tensor, features: Tensor, clicks: LowResClicks, settings: CorrectionSettings
) -> Tensor:
    """Logistic correction of a mask's readout.

    Args:
        logits: ``[h, w]``, the offset.
        features: ``[c, h, w]``, what the readout reads.
        clicks: At least one.
        settings: Weights of the regression.

    Returns:
        ``[h, w]`` corrected logits; the input where the fit is not finite.
    """
    size, offset, columns = logits.shape, logits.flatten(), features.flatten(1)
    is_read = columns.any(0)  # pixels that were not decoded have no features
    rows, target, weight = _samples(offset, clicks, (int(size[0]), int(size[1])), settings, is_read)
    sampled = columns[:, rows].T
    design = torch.cat([sampled, sampled.new_ones(len(rows), 1)], dim=1)
    scale = design.std(0).clamp(min=1e-3)
    scale[-1] = 1.0
    coefficients = _newton(design / scale, offset[rows].clamp(-6, 6), target, weight, settings)
    coefficients = coefficients / scale
    corrected = offset + torch.where(is_read, coefficients[:-1] @ columns + coefficients[-1], 0.0)
    return corrected.view(size) if bool(corrected.isfinite().all()) else logits


def _samples(
    offset: Tensor,
    clicks: LowResClicks,
    size: tuple[int, int],
    settings: CorrectionSettings,
    is_read: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, targets and weights of the regression: clicked pixels, and pixels held in place."""
    weight, sign = _click_maps(clicks, size, settings.sigma)
    clicked = (weight > 0.1).nonzero().flatten()
    is_sure = is_read & (offset.abs() > settings.sure_logit)
    held = (is_sure & (weight <= 0.1)).nonzero().flatten()
    if len(held) > settings.n_anchors:
        step = torch.linspace(0, len(held) - 1, settings.n_anchors, device=held.device)
        held = held[step.long()]
    total = settings.click_weight * len(clicks.signs)
    weights = torch.cat(
        [
            weight[clicked] / weight[clicked].sum() * total,
            torch.full_like(offset[held], settings.anchor_weight / max(1, len(held))),
        ]
    )
    targets = torch.cat([(sign[clicked] > 0).float(), torch.sigmoid(offset[held])])
    return torch.cat([clicked, held]), targets, weights


def _click_maps(clicks: LowResClicks, size: tuple[int, int], sigma: float) -> tuple[Tensor, Tensor]:
    """For each pixel the weight of its nearest click and that click's sign, both ``[h * w]``.

    Weights fall to zero three widths away from the clicks.
    """
    (height, width), device = size, clicks.points.device
    reach = math.ceil(3 * sigma)
    steps = torch.arange(-reach, reach + 1, device=device)
    near = clicks.points.round().long()
    rows = (near[:, 1, None] + steps).clamp(0, height - 1)
    columns = (near[:, 0, None] + steps).clamp(0, width - 1)
    pixels = torch.unique(rows[:, :, None] * width + columns[:, None, :])
    places = torch.stack([pixels % width, pixels // width], dim=1).to(clicks.points.dtype)
    squared = ((places[:, None] - clicks.points[None]) ** 2).sum(dim=2)
    nearest, index = squared.min(dim=1)
    weight = clicks.points.new_zeros(height * width)
    sign = clicks.signs.new_zeros(height * width)
    weight[pixels] = torch.exp(-nearest / (2 * sigma**2))
    sign[pixels] = clicks.signs[index]
    return weight, sign


def _newton(
    design: Tensor, offset: Tensor, target: Tensor, weight: Tensor, settings: CorrectionSettings
) -> Tensor:
    """Coefficients of a weighted, L2-penalised logistic regression with an offset, ``[c + 1]``."""
    coefficients = design.new_zeros(design.shape[1])
    penalty = settings.l2 * torch.eye(design.shape[1], device=design.device)
    for _ in range(settings.n_newton):
        probs = torch.sigmoid(offset + design @ coefficients)
        gradient = design.T @ (weight * (probs - target)) + settings.l2 * coefficients
        curvature = weight * (probs * (1 - probs)).clamp(min=0.02)
        hessian = (design.T * curvature) @ design + penalty
        coefficients = coefficients - torch.linalg.solve(hessian, gradient)
    return coefficients


def meet_clicks(logits: Tensor, clicks: LowResClicks, settings: CorrectionSettings) -> Tensor:
    """Move the logits near contradicted clicks until they obey; exact but local.

    Solves a kernel system whose right-hand side is 0 at obeyed clicks, so that meeting one click
    does not undo another.  The kernel narrows where clicks of both signs stand close together;
    two that fall on the same pixel of the grid contradict each other, and the later one wins.

    Args:
        logits: ``[h, w]``.
        clicks: All clicks on the object, oldest first.
        settings: Width of the kernel, margin.
    """
    clicks = _without_contradictions(clicks)
    sigma = _kernel_width(clicks, settings.sigma)
    for _ in range(3):
        wrong = clicks.contradicted(logits)
        if not wrong.any():
            break
        found = clicks.logits_at(logits)
        residual = torch.where(wrong, clicks.signs * settings.margin - found, found * 0)
        logits = logits + _interpolate(residual, clicks.points, sigma, logits.shape)
    return logits


def _interpolate(residual: Tensor, points: Tensor, sigma: float, size: torch.Size) -> Tensor:
    """A sum of Gaussians that takes the values ``residual`` at ``points``, on the grid."""
    between = torch.cdist(points, points) ** 2
    kernel = torch.exp(-between / (2 * sigma**2))
    kernel = kernel + 1e-4 * torch.eye(len(points), device=points.device)
    amplitude = torch.linalg.solve(kernel, residual)
    rows, columns = (torch.arange(n, device=points.device)[None] for n in size)
    across = torch.exp(-((columns - points[:, :1]) ** 2) / (2 * sigma**2))
    down = torch.exp(-((rows - points[:, 1:]) ** 2) / (2 * sigma**2))
    bumps: Tensor = (down.T * amplitude) @ across
    return bumps


def _without_contradictions(clicks: LowResClicks) -> LowResClicks:
    """Clicks without those that a later click of the other sign, closer than a pixel, overrules."""
    keep = []
    for i in range(len(clicks.signs)):
        later = slice(i + 1, None)
        near = (clicks.points[later] - clicks.points[i]).norm(dim=1) < 0.5
        keep.append(not bool((near & (clicks.signs[later] != clicks.signs[i])).any()))
    chosen = torch.tensor(keep, device=clicks.signs.device)
    return LowResClicks(clicks.points[chosen], clicks.signs[chosen])


def _kernel_width(clicks: LowResClicks, sigma: float) -> float:
    """The kernel's width: a third of the smallest distance between clicks of different signs."""
    apart = torch.cdist(clicks.points, clicks.points)
    opposed = clicks.signs[:, None] != clicks.signs[None, :]
    if not bool(opposed.any()):
        return sigma
    return min(sigma, max(0.4, float(apart[opposed].min()) / 3))
