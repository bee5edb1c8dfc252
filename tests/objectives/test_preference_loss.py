import math

import pytest
import torch
from torch import Tensor

from rlsubnet.objectives.preference import (
    dpo_loss,
    dpo_norm_loss,
    kto_loss,
    kto_reference_point,
    log_odds,
    orpo_loss,
    simpo_loss,
)


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_the_loss_of_a_policy_that_is_its_reference_is_log_2_and_that_of_kto_one_half():
    chosen, rejected = values(-3.0, -70.0), values(-9.0, -1.0)
    for beta in (0.1, 5.0):
        plain = dpo_loss(chosen, rejected, chosen, rejected, beta)
        tokens = values(3.0, 7.0), values(9.0, 2.0)
        norm = dpo_norm_loss(chosen, rejected, chosen, rejected, *tokens, beta)
        for losses, margins in (plain, norm):
            assert losses.tolist() == pytest.approx([math.log(2)] * 2)
            assert margins.tolist() == [0.0, 0.0]
    start = kto_reference_point(chosen, chosen)
    losses, margins = kto_loss(chosen, rejected, chosen, rejected, start, beta=0.1)
    assert (losses.tolist(), margins.tolist()) == ([0.5, 0.5], [0.0, 0.0])


def test_dpo_norm_of_responses_with_one_token_is_dpo():
    arguments = values(-3.0), values(-5.0), values(-5.0), values(-4.0)
    plain = dpo_loss(*arguments, beta=0.7)
    norm = dpo_norm_loss(*arguments, values(1.0), values(1.0), beta=0.7)
    assert norm.losses.tolist() == plain.losses.tolist()


def test_simpo_aims_at_a_margin_of_gamma_per_token_reward():
    # Means per token: -1 and -1, then -1 and -3. Margins with beta 2: 0 and 4.
    responses = values(-2.0, -4.0), values(-3.0, -6.0), values(2.0, 4.0), values(3.0, 2.0)
    losses, margins = simpo_loss(*responses, beta=2.0, gamma=4.0)
    assert margins.tolist() == [0.0, 4.0]
    # -log sigmoid(0 - 4) = log(1 + e^4), and log 2 where the target is met exactly.
    assert losses.tolist() == pytest.approx([math.log1p(math.exp(4)), math.log(2)])


def test_simpo_and_orpo_do_not_reward_length():
    once = values(-1.0), values(-5.0), values(2.0), values(4.0)
    thrice = tuple(3 * value for value in once)
    assert simpo_loss(*once, 2.0, 0.5) == simpo_loss(*thrice, 2.0, 0.5)
    assert orpo_loss(*once, 0.1) == orpo_loss(*thrice, 0.1)


def test_kto_measures_both_kinds_of_responses_against_the_reference_point():
    # beta 1 and z_0 = 1. Pair 1: h = 1 + log 3 and 1 + log 3, so sigmoid is 3/4 for the desirable
    # and 1/4 for the undesirable response; losses 1/4 and 3/4. Pair 2: h = 1 and 1 - log 3, losses
    # 1/2 and 1/4.
    log3 = math.log(3)
    reference = values(-7.0, -8.0), values(-9.0, -10.0)
    chosen = reference[0] + values(1 + log3, 1.0)
    rejected = reference[1] + values(1 + log3, 1 - log3)
    losses, margins = kto_loss(chosen, rejected, *reference, torch.tensor(1.0), beta=1.0)
    assert losses.tolist() == pytest.approx([1 / 2, 3 / 8])
    assert margins.tolist() == pytest.approx([0.0, log3])


def test_the_reference_point_takes_no_gradient():
    policy = values(-1.0, -2.0).requires_grad_()
    point = kto_reference_point(policy, values(-3.0, -3.0))
    assert point.item() == 1.5  # (2 + 1) / 2
    assert not point.requires_grad


def test_orpo_adds_the_weighted_odds_ratio_to_the_likelihood_of_the_chosen():
    # Two tokens each of probability 3/4 and 1/4: odds 3 and 1/3, odds ratio 9.
    chosen, rejected = values(2 * math.log(3 / 4)), values(2 * math.log(1 / 4))
    losses, margins = orpo_loss(chosen, rejected, values(2.0), values(2.0), odds_weight=0.5)
    assert margins.item() == pytest.approx(math.log(9))
    assert losses.item() == pytest.approx(-math.log(3 / 4) + 0.5 * math.log(1 + 1 / 9))


def test_log_odds_stay_finite_where_a_probability_rounds_to_one_or_zero():
    logps = torch.tensor([0.0, -1e-6, -1e4], requires_grad=True)
    odds = log_odds(logps)
    odds.sum().backward()
    assert logps.grad is not None
    assert torch.isfinite(logps.grad).all()
    # Float32 knows probabilities up to 1 - 2^-23: odds 2^23. Then 1e6 and exp(-1e4).
    assert odds.tolist() == pytest.approx([23 * math.log(2), math.log(1e6), -1e4], rel=1e-5)


TOKENS = values(4.0, 3.0), values(2.0, 5.0)
REFERENCE = values(-5.0, -2.0), values(-4.0, -6.0)


@pytest.mark.parametrize(
    "loss",
    [
        lambda *policy: dpo_loss(*policy, *REFERENCE, beta=2.0),
        lambda *policy: dpo_norm_loss(*policy, *REFERENCE, *TOKENS, beta=2.0),
        lambda *policy: simpo_loss(*policy, *TOKENS, beta=2.0, gamma=0.5),
        lambda *policy: kto_loss(*policy, *REFERENCE, torch.tensor(0.7), beta=2.0),
        lambda *policy: orpo_loss(*policy, *TOKENS, odds_weight=0.1),
    ],
    ids=["dpo", "dpo_norm", "simpo", "kto", "orpo"],
)
def test_gradients_agree_with_finite_differences(loss):
    policy = values(-3.0, -2.5).requires_grad_(), values(-5.0, -4.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda *logps: loss(*logps).losses, policy)
