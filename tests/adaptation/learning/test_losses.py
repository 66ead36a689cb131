"""Losses against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adaptation.learning.losses import (
    anchor_loss,
    bce_loss,
    click_loss,
    dice_loss,
    focal_loss,
    iou_loss,
    mask_iou,
    weighted_mean,
)

LOG2 = math.log(2)


def grid(*rows: list[float]) -> Tensor:
    return torch.tensor([rows])


def test_a_weighted_mean_counts_labelled_pixels_only() -> None:
    values = grid([1.0, 2.0], [3.0, 100.0])
    assert weighted_mean(values, grid([1.0, 1.0], [2.0, 0.0])).tolist() == [9 / 4]
    assert weighted_mean(values, torch.zeros(1, 2, 2)).tolist() == [0]


def test_bce_of_logit_zero_is_log_two() -> None:
    loss = bce_loss(torch.zeros(2, 3, 4, 4), torch.ones(4, 4))
    torch.testing.assert_close(loss, torch.full((2, 3), LOG2))


def test_bce_ignores_pixels_of_weight_zero() -> None:
    # log(1 + e^-3) on the labelled pixel; the wrong one beside it carries no label
    loss = bce_loss(grid([3.0, 9.0]), grid([1.0, 0.0]), grid([1.0, 0.0]))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-3)))


def test_focal_weights_follow_the_error() -> None:
    # p = 1/2 and 3/4 for targets 1: errors 1/2 and 1/4, squared 1/4 and 1/16, mean 5/32.
    # Weights 1/2 + 1/2 * (8/5, 2/5) = 1.3 and 0.7; losses log 2 and log 4/3.
    loss = focal_loss(grid([0.0, math.log(3)]), torch.ones(1, 1, 2))
    assert loss.item() == pytest.approx((1.3 * LOG2 + 0.7 * math.log(4 / 3)) / 2)


def test_focal_without_focus_is_cross_entropy() -> None:
    logits, target = torch.randn(2, 5, 5), (torch.rand(2, 5, 5) > 0.5).float()
    torch.testing.assert_close(focal_loss(logits, target, gamma=0), bce_loss(logits, target))


def test_focal_ignores_pixels_of_weight_zero() -> None:
    logits, target = torch.randn(1, 4, 4), torch.ones(1, 4, 4)
    weights = torch.zeros(1, 4, 4)
    weights[:, :2] = 1
    torch.testing.assert_close(
        focal_loss(logits, target, weights), focal_loss(logits[:, :2], target[:, :2])
    )


def test_dice_by_hand() -> None:
    # probabilities 1/2 everywhere, two of four pixels foreground:
    # overlap 1, total 2 + 2, so 1 - (2 + 1) / (4 + 1)
    loss = dice_loss(torch.zeros(1, 2, 2), grid([1.0, 1.0], [0.0, 0.0]))
    assert loss.item() == pytest.approx(1 - 3 / 5)


def test_dice_of_two_empty_masks_is_zero() -> None:
    assert dice_loss(torch.full((1, 4, 4), -50.0), torch.zeros(1, 4, 4)).item() == pytest.approx(0)


def test_dice_ignores_pixels_of_weight_zero() -> None:
    logits, target = torch.randn(1, 4, 4), (torch.rand(1, 4, 4) > 0.5).float()
    weights = torch.zeros(1, 4, 4)
    weights[:, :2] = 1
    torch.testing.assert_close(
        dice_loss(logits, target, weights), dice_loss(logits[:, :2], target[:, :2])
    )


def test_the_iou_loss_trains_the_prediction_only() -> None:
    predicted = torch.tensor([0.5, 1.0], requires_grad=True)
    measured = torch.tensor([0.75, 1.0], requires_grad=True)
    loss = iou_loss(predicted, measured)
    assert loss.tolist() == [0.0625, 0]
    torch.autograd.backward(loss.sum())
    assert measured.grad is None and predicted.grad is not None


def test_a_click_on_undecided_pixels_costs_log_two() -> None:
    points, labels = torch.tensor([[[2.0, 1.0]]]), torch.tensor([[1]])
    loss = click_loss(torch.zeros(1, 8, 8), points, labels)
    assert loss.item() == pytest.approx(LOG2)


def test_a_click_weighs_its_own_pixel_most() -> None:
    # sigma so small that only the clicked pixel counts: x = 2 is the column
    logits = torch.full((1, 4, 4), -7.0)
    logits[0, 1, 2] = 7.0
    points = torch.tensor([[[2.0, 1.0]]])
    right = click_loss(logits, points, torch.tensor([[1]]), sigma=0.1)
    wrong = click_loss(logits, points, torch.tensor([[0]]), sigma=0.1)
    assert right.item() == pytest.approx(math.log1p(math.exp(-7)))
    assert wrong.item() == pytest.approx(7 + math.log1p(math.exp(-7)))


def test_gaussian_weights_by_hand() -> None:
    # One row, click at 0, sigma 1: weights 1 and e^-1/2; losses log(1 + e^-1) and log(1 + e^1)
    loss = click_loss(
        torch.tensor([[[1.0, -1.0]]]), torch.tensor([[[0.0, 0.0]]]), torch.tensor([[1]]), sigma=1
    )
    w = math.exp(-0.5)
    expected = (math.log1p(math.exp(-1)) + w * math.log1p(math.e)) / (1 + w)
    assert loss.item() == pytest.approx(expected)


def test_padding_clicks_cost_nothing() -> None:
    points, labels = torch.zeros(2, 2, 2), torch.tensor([[1, -1], [-1, -1]])
    loss = click_loss(torch.randn(2, 4, 4), points, labels)
    assert loss[0] > 0 and loss[1] == 0


def test_a_target_replaces_the_click_s_own_label() -> None:
    logits, target = torch.full((1, 4, 4), 9.0), torch.ones(1, 4, 4)
    points, labels = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[0]])
    assert click_loss(logits, points, labels, target=target).item() < 0.001
    assert click_loss(logits, points, labels).item() > 5


def test_the_anchor_is_the_squared_distance_of_all_weights() -> None:
    reference = {"a": torch.zeros(2, requires_grad=True), "b": torch.ones(1)}
    weights = {"a": torch.tensor([1.0, -2.0], requires_grad=True), "b": torch.tensor([4.0])}
    loss = anchor_loss(weights, reference)
    assert loss.item() == 1 + 4 + 9
    torch.autograd.backward(loss)
    assert weights["a"].grad is not None and weights["a"].grad.tolist() == [2, -4]
    assert reference["a"].grad is None


def test_an_anchor_to_other_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="'b'"):
        anchor_loss({"a": torch.zeros(1)}, {"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(ValueError, match="same weights"):
        anchor_loss({}, {})


def test_iou_by_hand_and_over_labelled_pixels() -> None:
    logits, target = grid([1.0, 1.0, -1.0, 1.0]), grid([1.0, 0.0, 1.0, 0.0])
    assert mask_iou(logits, target).tolist() == [1 / 4]
    assert mask_iou(logits, target, grid([1.0, 1.0, 0.0, 0.0])).tolist() == [1 / 2]


def test_a_logit_of_zero_is_background_and_empty_masks_agree() -> None:
    assert mask_iou(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)).tolist() == [1]
    assert mask_iou(torch.zeros(1, 2, 2), torch.ones(1, 2, 2)).tolist() == [0]
