"""The objectives against values worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from adaptation.errors import InputError
from training.finetune.preference_losses import (
    bce,
    dpo,
    ipo,
    mask_logps,
    pixel_weights,
    plackett_luce,
    preference_metrics,
    score_error,
    score_ranking,
)

LOG2 = math.log(2)
NAN = math.nan


def t(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


def all_of(*shape: int) -> Tensor:
    return torch.ones(*shape)


# Log-likelihoods


def test_a_mask_of_coin_flips_has_log_one_half() -> None:
    masks = torch.randint(0, 2, (2, 3, 4, 5)).float()
    logps = mask_logps(torch.zeros(2, 4, 5), masks, all_of(2, 4, 5))
    torch.testing.assert_close(logps, torch.full((2, 3), -LOG2))


def test_log_likelihoods_are_weighted_means_over_pixels() -> None:
    # sigma(log 3) = 3/4, so the mask (1, 0) has log 3/4 on its first and log 1/4 on its second
    # pixel; weighted 3 to 1 that is (3 log 3/4 + log 1/4) / 4.
    logits = t(math.log(3), math.log(3)).view(1, 1, 2)
    masks = t(1, 0, 1, 1).view(1, 2, 1, 2)
    logps = mask_logps(logits, masks, t(3, 1).view(1, 1, 2))
    mixed = (3 * math.log(3 / 4) + math.log(1 / 4)) / 4
    torch.testing.assert_close(logps, t(mixed, math.log(3 / 4)).view(1, 2))


def test_a_sum_over_no_pixel_is_zero() -> None:
    logps = mask_logps(torch.randn(1, 2, 2), all_of(1, 2, 2, 2), torch.zeros(1, 2, 2))
    assert logps.tolist() == [[0, 0]]


# Pixels that count

PAIR = t(1, 1, 0, 0, 1, 0, 1, 0).view(1, 2, 1, 4)  # differ in the second and third pixel
VALID = t(1, 1, 1, 0).view(1, 1, 4)
REGION = t(0, 0, 1, 1).view(1, 1, 4)


@pytest.mark.parametrize(
    ("over", "region", "region_weight", "expected"),
    [
        ("all", None, 1, [1, 1, 1, 0]),
        ("difference", None, 1, [0, 1, 1, 0]),
        ("region", REGION, 1, [0, 0, 1, 0]),  # never in the padding
        ("region", torch.zeros_like(REGION), 1, [0, 1, 1, 0]),  # not known: where they differ
        ("all", REGION, 5, [1, 1, 5, 0]),
        ("difference", REGION, 5, [0, 1, 5, 0]),
    ],
)
def test_pixels_count_where_they_should(
    over: str, region: Tensor | None, region_weight: float, expected: list[float]
) -> None:
    weights = pixel_weights(PAIR, VALID, over, region, region_weight)
    assert weights.view(-1).tolist() == expected


def test_a_list_differs_where_any_two_masks_do() -> None:
    masks = t(1, 1, 0, 1, 1, 0, 1, 0, 0).view(1, 3, 1, 3)
    weights = pixel_weights(masks, all_of(1, 1, 3), "difference")
    assert weights.view(-1).tolist() == [0, 1, 0]


def test_an_unknown_choice_of_pixels_is_refused() -> None:
    with pytest.raises(InputError, match="all, difference, region"):
        pixel_weights(PAIR, VALID, "everything")


def test_the_common_part_does_not_dilute_a_difference() -> None:
    # 1 of 100 pixels differs; averaged over all, the margin is a hundredth of what it is there.
    chosen = torch.zeros(1, 10, 10)
    chosen[0, 3, 3] = 1
    masks = torch.stack([chosen, torch.zeros(1, 10, 10)], dim=1)
    logits = torch.full((1, 10, 10), 2.0)
    margins = {}
    for over in ("all", "difference"):
        weights = pixel_weights(masks, all_of(1, 10, 10), over)
        logps = mask_logps(logits, masks, weights)
        margins[over] = float(logps[0, 0] - logps[0, 1])
    assert margins["difference"] == pytest.approx(2.0)  # log sigma(2) - log sigma(-2) = 2
    assert margins["all"] == pytest.approx(0.02)


# Pairs


def test_the_form_without_a_reference() -> None:
    # The example of the docstring; at beta 2 sigma(2 log 3) = 9/10.
    chosen, rejected = t(math.log(3 / 4)), t(math.log(1 / 4))
    assert bce(chosen, rejected).tolist() == pytest.approx([-math.log(3 / 4)])
    assert bce(chosen, rejected, beta=2).tolist() == pytest.approx([-math.log(9 / 10)])
    assert bce(rejected, chosen).tolist() == pytest.approx([-math.log(1 / 4)])


@pytest.mark.parametrize("beta", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_dpo_is_log_two_at_the_reference(beta: float, label_smoothing: float) -> None:
    chosen, rejected = torch.randn(5), torch.randn(5)
    loss = dpo(chosen, rejected, chosen, rejected, beta=beta, label_smoothing=label_smoothing)
    torch.testing.assert_close(loss, torch.full((5,), LOG2))


def test_dpo_by_hand() -> None:
    # delta = (-1 - -2) - (-3 - -3.5) = 0.5; at beta 2 the logistic sees 1.
    arguments = t(-1), t(-3), t(-2), t(-3.5)
    right, wrong = math.log1p(math.exp(-1)), math.log1p(math.exp(1))
    assert dpo(*arguments, beta=2).tolist() == pytest.approx([right])
    smoothed = dpo(*arguments, beta=2, label_smoothing=0.1)
    assert smoothed.tolist() == pytest.approx([0.9 * right + 0.1 * wrong])


def test_swapping_a_pair_flips_the_preference() -> None:
    c, r, ref_c, ref_r = torch.randn(4, 6)
    there, back = dpo(c, r, ref_c, ref_r), dpo(r, c, ref_r, ref_c)
    # sigma(x) + sigma(-x) = 1
    torch.testing.assert_close(torch.exp(-there) + torch.exp(-back), torch.ones(6))


def test_ipo_by_hand() -> None:
    same = torch.randn(3)
    torch.testing.assert_close(ipo(same, same, same, same, beta=0.5), torch.ones(3))
    # delta = 0.5 as above: at beta 1 that is the margin it wants, at beta 2 it is 0.25 too much.
    arguments = t(-1), t(-3), t(-2), t(-3.5)
    assert ipo(*arguments, beta=1).tolist() == pytest.approx([0.0])
    assert ipo(*arguments, beta=2).tolist() == pytest.approx([0.0625])


def test_gradients_raise_the_chosen_and_lower_the_rejected() -> None:
    for loss in (bce, dpo, ipo):
        chosen, rejected = t(-1.0).requires_grad_(), t(-1.0).requires_grad_()
        reference = () if loss is bce else (t(-1.0), t(-1.0))
        loss(chosen, rejected, *reference).sum().backward()  # type: ignore[no-untyped-call]
        assert chosen.grad is not None and rejected.grad is not None
        assert float(chosen.grad) < 0 < float(rejected.grad)


# Lists


def test_a_list_of_two_is_a_pair() -> None:
    logps, ref = torch.randn(4, 2), torch.randn(4, 2)
    listed = plackett_luce(logps, ref, torch.ones(4, 2, dtype=torch.bool), beta=3)
    torch.testing.assert_close(listed, dpo(*logps.T, *ref.T, beta=3))


def test_an_order_by_chance_is_one_of_k_factorial() -> None:
    logps = torch.randn(2, 4)
    listed = plackett_luce(logps, logps, torch.ones(2, 4, dtype=torch.bool))
    torch.testing.assert_close(listed, torch.full((2,), math.log(24)))


def test_chances_of_all_orders_add_up_to_one() -> None:
    rewards, chance = torch.randn(3), 0.0
    for order in itertools.permutations(range(3)):
        loss = plackett_luce(rewards[list(order)][None], torch.zeros(1, 3), all_of(1, 3) > 0)
        chance += math.exp(-float(loss))
    assert chance == pytest.approx(1)


def test_padding_changes_no_list_and_gets_no_gradient() -> None:
    logps = torch.randn(1, 4).requires_grad_()
    present = torch.tensor([[True, True, True, False]])
    padded = plackett_luce(logps, torch.zeros(1, 4), present)
    plain = plackett_luce(logps[:, :3], torch.zeros(1, 3), present[:, :3])
    torch.testing.assert_close(padded, plain)
    padded.sum().backward()  # type: ignore[no-untyped-call]
    assert logps.grad is not None and bool(logps.grad.isfinite().all())
    assert float(logps.grad[0, 3]) == 0


# Scores


def test_scores_are_ranked_by_hand() -> None:
    # Pairs (better, worse): (0, 1), (0, 2), (1, 2); differences of the scores 0.1, 0, -0.1, over
    # the temperature 1, 0, -1.
    scores, quality = t(0.5, 0.4, 0.5)[None], t(0.9, 0.8, 0.1)[None]
    terms = [math.log1p(math.exp(-d)) for d in (1, 0, -1)]
    loss = score_ranking(scores, quality, temperature=0.1)
    assert loss.tolist() == pytest.approx([sum(terms) / 3])
    # With a gap of 0.2 the first two are as good as each other.
    loss = score_ranking(scores, quality, temperature=0.1, min_gap=0.2)
    assert loss.tolist() == pytest.approx([sum(terms[1:]) / 2])


def test_what_is_not_known_is_not_ranked() -> None:
    scores = t(0.5, 0.9, 0.1)[None].requires_grad_()
    loss = score_ranking(scores, t(1, NAN, 0)[None], temperature=1.0)
    assert loss.tolist() == pytest.approx([math.log1p(math.exp(-0.4))])
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None and float(scores.grad[0, 1]) == 0
    assert score_ranking(scores, t(1, NAN, NAN)[None]).tolist() == [0]


def test_errors_of_scores_are_averaged_over_what_is_known() -> None:
    scores = t(0.5, 0.9, 0.1)[None].requires_grad_()
    loss = score_error(scores, t(0.7, NAN, 0.5)[None])
    assert loss.tolist() == pytest.approx([(0.04 + 0.16) / 2])
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None and scores.grad[0].tolist() == pytest.approx([-0.2, 0, -0.4])
    assert score_error(scores, torch.full((1, 3), NAN)).tolist() == [0]


# Metrics


def test_metrics_have_trl_names_and_compare_best_with_worst() -> None:
    logps = torch.tensor([[-1.0, -2.0, -4.0], [-3.0, -1.0, 9.0]])
    ref = torch.tensor([[-1.5, -2.0, -3.0], [-2.0, -2.0, 0.0]])
    present = torch.tensor([[True, True, True], [True, True, False]])
    found = preference_metrics(logps, ref, present, beta=2)
    assert {name: values.tolist() for name, values in found.items()} == {
        "rewards/chosen": [1, -2],
        "rewards/rejected": [-2, 2],
        "rewards/margins": [3, -4],
        "rewards/accuracies": [1, 0],
        "logps/chosen": [-1, -3],
        "logps/rejected": [-4, -1],
    }
