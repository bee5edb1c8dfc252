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


def test_simpo_and_orpo_do_not_reward_length():
    once = values(-1.0), values(-5.0), values(2.0), values(4.0)
    thrice = tuple(3 * value for value in once)
    assert simpo_loss(*once, 2.0, 0.5) == simpo_loss(*thrice, 2.0, 0.5)
    assert orpo_loss(*once, 0.1) == orpo_loss(*thrice, 0.1)


def test_the_reference_point_takes_no_gradient():
    policy = values(-1.0, -2.0).requires_grad_()
    point = kto_reference_point(policy, values(-3.0, -3.0))
    assert point.item() == 1.5  # (2 + 1) / 2
    assert not point.requires_grad


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
