"""What preference training minimises: pure functions, one value for each example.

A decoder that gives every pixel a logit Z is a distribution over masks in which pixels are
independent Bernoulli draws; a mask's log-likelihood is a sum over pixels, here **averaged**, so
that beta means the same at every resolution:

    log pi(Y | I, P) = sum_x w_x [Y_x log sigma(Z_x) + (1 - Y_x) log(1 - sigma(Z_x))] / sum_x w_x

Arguments and metrics are named as in TRL.  Masks are in {0, 1}, float; pixel weights are not
negative; nothing here is averaged over examples.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from adaptation.errors import InputError
from adaptation.learning.losses import bce_loss

Metrics = dict[str, Tensor]
"""One value for each example, [B], by name."""

OVER = ("all", "difference", "region")
"""What a log-likelihood is averaged over, see `pixel_weights`."""


def mask_logps(logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Average log-likelihood of each of K masks under one prediction: [B, K], at most 0.

    With Z = 0 everywhere every pixel has probability 1/2, so any mask has log-likelihood -log 2.

    Args:
        logits: [B, h, w].
        masks: [B, K, h, w] in {0, 1}.
        weights: [B, h, w], 0 where a pixel does not count; a mask without any weight has 0.
    """
    shared = logits[:, None].expand_as(masks)
    return -bce_loss(shared, masks, weights[:, None].expand_as(masks))


def pixel_weights(
    masks: Tensor,
    valid: Tensor,
    over: str,
    region: Tensor | None = None,
    region_weight: float = 1.0,
) -> Tensor:
    """Which pixels a log-likelihood is averaged over, and how much each counts: [B, h, w].

    Args:
        masks: [B, K, h, w] in {0, 1}, the masks that are compared.
        valid: [B, h, w] in {0, 1}, 0 in the padding.
        over: "all": every valid pixel.  "difference": those on which the masks differ; the common
            part of two good masks, by far the larger, would drown what sets them apart (RN-DPO,
            arXiv 2601.23222).  "region": those that the correction touched, where it is known;
            else as "difference".
        region: [B, h, w] in {0, 1}, the pixels that the correction touched, all 0 where unknown.
        region_weight: The region's pixels count this many times as much as others.

    Raises:
        InputError: `over` is none of the three.
    """
    if over not in OVER:
        raise InputError(f"over must be one of {', '.join(OVER)}, got {over!r}.")
    region = torch.zeros_like(valid) if region is None else region * valid
    differ = valid * (masks.amax(dim=1) != masks.amin(dim=1))
    weights = valid if over == "all" else differ
    if over == "region":
        is_known = (region.sum(dim=(-2, -1), keepdim=True) > 0).to(valid.dtype)
        weights = is_known * region + (1 - is_known) * differ
    return weights * (1 + (region_weight - 1) * region)


# Two masks ---------------------------------------------------------------------------------------


def bce(
    chosen_logps: Tensor, rejected_logps: Tensor, *, beta: float = 1.0, label_smoothing: float = 0.0
) -> Tensor:
    """The source's form, without a reference (Wang et al. 2025): [B].

    The reward of a mask is its negative mean cross-entropy, r(Y) = -BCE(Z, Y) = log pi(Y), and

        loss = -log sigma(beta (r_chosen - r_rejected)).

    By hand: two pixels with Z = (log 3, log 3), so sigma(Z) = 3/4; chosen (1, 1) has log pi = log
    3/4, rejected (0, 0) has log 1/4; the rewards differ by log 3; at beta 1 the loss is -log 3/4.

    Args:
        chosen_logps: [B], see `mask_logps`.
        rejected_logps: [B].
        beta: Sharpness of the preference.
        label_smoothing: Chance that a pair is the wrong way round, see `dpo`.
    """
    return _logistic(chosen_logps - rejected_logps, beta, label_smoothing)


def dpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float = 1.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290, equation 7): [B].

        delta = (log pi(c) - log ref(c)) - (log pi(r) - log ref(r))
        loss  = -(1 - e) log sigma(beta delta) - e log sigma(-beta delta)

    with e = label_smoothing (Mitchell 2023, "conservative DPO").  At policy = reference delta is 0
    and the loss is log 2, whatever beta and e.

    Args:
        chosen_logps: [B], under the policy.
        rejected_logps: [B], under the policy.
        ref_chosen_logps: [B], under the reference.
        ref_rejected_logps: [B], under the reference.
        beta: How far the policy may leave the reference; higher keeps it nearer.
        label_smoothing: Chance that a pair is the wrong way round, from 0 to below 1/2.
    """
    delta = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return _logistic(delta, beta, label_smoothing)


def ipo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    *,
    beta: float = 1.0,
) -> Tensor:
    """Identity preference optimisation (Azar et al. 2023, arXiv 2310.12036, equation 17): [B].

        loss = (delta - 1 / (2 beta))^2,    delta as in `dpo`.

    It stops at a finite margin where `dpo` goes on for ever.  At policy = reference the loss is
    1 / (4 beta^2); it is 0 at delta = 1 / (2 beta).
    """
    delta = (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)
    return (delta - 1 / (2 * beta)) ** 2


def _logistic(delta: Tensor, beta: float, label_smoothing: float) -> Tensor:
    right, wrong = F.logsigmoid(beta * delta), F.logsigmoid(-beta * delta)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


# Ranked lists ------------------------------------------------------------------------------------


def plackett_luce(
    logps: Tensor, ref_logps: Tensor, present: Tensor, *, beta: float = 1.0
) -> Tensor:
    """DPO on ranked lists (Rafailov et al. 2023, appendix A.3, equation 20): [B].

    People pick the best of K, then the best of the rest, and so on; with the implicit rewards
    r_k = beta (log pi(k) - log ref(k)), best first,

        loss = -sum_{k < K} [r_k - log sum_{j >= k} exp r_j].

    For K = 2 this is `dpo`.  At policy = reference it is log K!.

    Args:
        logps: [B, K], under the policy, best first.
        ref_logps: [B, K], under the reference.
        present: [B, K] bool; False pads shorter lists at their ends.
        beta: As in `dpo`.
    """
    rewards = (beta * (logps - ref_logps)).masked_fill(~present, -math.inf)
    # The worst of a list is no choice any more: its own term is r - r = 0.
    rest = torch.stack([rewards[:, k:].logsumexp(dim=1) for k in range(rewards.shape[1])], dim=1)
    terms = torch.where(present, rest.nan_to_num(neginf=0.0) - rewards.nan_to_num(neginf=0.0), 0.0)
    return terms.sum(dim=1)


# The model's estimate of its own masks -----------------------------------------------------------


def score_ranking(
    scores: Tensor, quality: Tensor, *, temperature: float = 0.1, min_gap: float = 0.0
) -> Tensor:
    """Pairwise logistic loss that makes the better mask the higher scored one: [B].

    The mean of log(1 + exp(-(s_i - s_j) / temperature)) over all (i, j) of a prompt of which i is
    the better (Burges et al. 2005, RankNet); 0 without such a pair.  Equal scores: log 2.

    Args:
        scores: [B, T], predicted IoUs.
        quality: [B, T], higher is better, on any scale; NaN where nothing is known.
        temperature: Difference of scores that counts as a clear one.
        min_gap: Two masks whose quality differs by no more than this are not compared.
    """
    is_better = quality[:, :, None] - quality[:, None, :] > min_gap  # NaN is never better
    loss = F.softplus(-(scores[:, :, None] - scores[:, None, :]) / temperature)
    total = (loss * is_better).sum(dim=(1, 2))
    return total / is_better.sum(dim=(1, 2)).clamp_min(1)


def score_error(scores: Tensor, iou: Tensor) -> Tensor:
    """Mean squared error of predicted IoUs over the masks whose IoU is known: [B].

    Args:
        scores: [B, T], predicted IoUs.
        iou: [B, T], measured ones; NaN where nothing is known.  0 for a prompt without any.
    """
    is_known = ~iou.isnan()
    squared = torch.where(is_known, (scores - iou.nan_to_num()) ** 2, 0.0)
    return squared.sum(dim=1) / is_known.sum(dim=1).clamp_min(1)


# What is reported --------------------------------------------------------------------------------


def preference_metrics(
    logps: Tensor, ref_logps: Tensor, present: Tensor, *, beta: float
) -> Metrics:
    """TRL's metrics, one value for each example: the best mask of a list beside its worst.

    `rewards/chosen` is beta (log pi - log ref) of the best, `rewards/margins` its lead over the
    worst, `rewards/accuracies` 1 where that lead is positive.  A form without a reference is given
    ref_logps of 0.

    Args:
        logps: [B, K], best first.
        ref_logps: [B, K].
        present: [B, K] bool; False pads shorter lists at their ends.
        beta: As in the loss.
    """
    logps, ref_logps = logps.detach(), ref_logps.detach()
    worst = present.sum(dim=1, keepdim=True) - 1
    rewards = beta * (logps - ref_logps)
    chosen, rejected = rewards[:, 0], rewards.gather(1, worst)[:, 0]
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).to(rewards.dtype),
        "logps/chosen": logps[:, 0],
        "logps/rejected": logps.gather(1, worst)[:, 0],
    }
