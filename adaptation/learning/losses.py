"""The losses of every recipe and of the online learner: pure functions, reductions spelled out.

Logits and targets share one shape [..., H, W]; results keep the leading axes, so that the caller
decides how masks are averaged.  `weights` are per pixel and not negative; 0 means "no label here".
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

_EPS = 1e-6
_MAX_FOCUS = 20.0


def weighted_mean(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the last two axes; pixels of weight 0 do not count. 0 where nothing counts."""
    if weights is None:
        return values.mean(dim=(-2, -1))
    weights = weights.expand_as(values)
    total: Tensor = (values * weights).sum(dim=(-2, -1))
    return total / weights.sum(dim=(-2, -1)).clamp_min(_EPS)


def bce_loss(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, averaged over the labelled pixels of each mask: [...]."""
    loss = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
    return weighted_mean(loss, weights)


def focal_loss(
    logits: Tensor, target: Tensor, weights: Tensor | None = None, *, gamma: float = 2.0
) -> Tensor:
    """Cross-entropy of which half the weight goes to the hard pixels of each mask: [...].

    The focal weight (1 - p_t)^gamma (Lin et al. 2017, arXiv 1708.02002, equation 4) is divided by
    its mean over the mask (as in RITM's normalised focal loss, arXiv 2102.06583), limited to 20,
    and averaged with 1: the gradient does not die as a mask gets good, nor follow a few outliers.
    No gradient flows through the weight.

    Args:
        logits: [..., H, W].
        target: [..., H, W] in [0, 1], broadcast against the logits.
        weights: [..., H, W], 0 where there is no label.
        gamma: Focus on the hard pixels; 0 gives plain cross-entropy.
    """
    target = target.expand_as(logits)
    with torch.no_grad():
        probs = torch.sigmoid(logits)
        focus = (probs - target).abs() ** gamma
        mean = weighted_mean(focus, weights)[..., None, None]
        focus = 0.5 + 0.5 * (focus / mean.clamp_min(_EPS)).clamp(max=_MAX_FOCUS)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return weighted_mean(loss * focus, weights)


def dice_loss(
    logits: Tensor, target: Tensor, weights: Tensor | None = None, *, smooth: float = 1.0
) -> Tensor:
    """One minus the soft Dice coefficient of each mask (Milletari et al. 2016): [...].

    Args:
        logits: [..., H, W].
        target: [..., H, W] in [0, 1], broadcast against the logits.
        weights: [..., H, W], 0 where there is no label.
        smooth: Pixels added above and below the fraction, so that two empty masks agree.
    """
    probs = torch.sigmoid(logits)
    weights = torch.ones_like(probs) if weights is None else weights
    overlap = (probs * target * weights).sum(dim=(-2, -1))
    total = ((probs + target) * weights).sum(dim=(-2, -1))
    return 1 - (2 * overlap + smooth) / (total + smooth)


def iou_loss(predicted_iou: Tensor, iou: Tensor) -> Tensor:
    """Squared error of the predicted IoUs against the measured ones, both [...]: [...]."""
    return (predicted_iou - iou.detach()) ** 2


def click_loss(
    logits: Tensor,
    points: Tensor,
    labels: Tensor,
    *,
    sigma: float = 2.0,
    target: Tensor | None = None,
) -> Tensor:
    """Cross-entropy on and around the clicks, weighted by a Gaussian around each: [B].

    Args:
        logits: [B, H, W].
        points: [B, N, 2] as (x, y) in pixels of the logits, centres at whole numbers.
        labels: [B, N]; 1 positive, 0 negative, anything else is ignored.
        sigma: Width of the Gaussian in pixels of the logits.
        target: [B, H, W] in [0, 1]; None says that the pixels around a click are like the click.

    Returns:
        The mean over clicks and pixels in the Gaussian's weight; 0 for a mask without clicks.
    """
    height, width = logits.shape[-2:]
    rows = torch.arange(height, device=logits.device)[:, None]
    columns = torch.arange(width, device=logits.device)
    squared = (columns - points[..., 0, None, None]) ** 2 + (rows - points[..., 1, None, None]) ** 2
    weights = torch.exp(-squared / (2 * sigma**2)) * (labels >= 0)[..., None, None]
    wanted = labels.clamp_min(0).to(logits.dtype)[..., None, None].expand_as(weights)
    if target is not None:
        wanted = target[:, None].expand_as(weights)
    loss = F.binary_cross_entropy_with_logits(
        logits[:, None].expand_as(weights), wanted, reduction="none"
    )
    total = (loss * weights).sum(dim=(1, 2, 3))
    return total / weights.sum(dim=(1, 2, 3)).clamp_min(_EPS)


def anchor_loss(weights: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> Tensor:
    """Sum of squared distances of weights from their reference, which gets no gradient: scalar.

    The L2 anchor that keeps a decoder near its start while sparse labels pull at it (Kontogianni
    et al. 2020, arXiv 1911.12709).

    Raises:
        ValueError: The two do not have the same names, or are empty.
    """
    if weights.keys() != reference.keys() or not weights:
        differing = sorted(weights.keys() ^ reference.keys())
        raise ValueError(
            f"An anchor needs the same weights on both sides; they differ: {differing}"
        )
    terms = [((weights[name] - reference[name].detach()) ** 2).sum() for name in weights]
    return torch.stack(terms).sum()


def mask_iou(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """IoU of the masks logits > 0 and target > 0.5 over the labelled pixels: [...].

    Two empty masks agree: 1.
    """
    mask = logits > 0
    wanted = (target > 0.5).expand_as(mask)
    if weights is not None:
        labelled = (weights > 0).expand_as(mask)
        mask, wanted = mask & labelled, wanted & labelled
    union = (mask | wanted).sum(dim=(-2, -1))
    overlap = (mask & wanted).sum(dim=(-2, -1))
    return torch.where(union > 0, overlap / union.clamp_min(1), torch.ones_like(union).float())
