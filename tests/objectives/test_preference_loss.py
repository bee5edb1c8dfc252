import math

import pytest
import torch
from torch import Tensor

from rlsubnet.objectives.preference import dpo_loss, dpo_norm_loss


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_the_loss_of_a_policy_that_is_its_reference_is_log_2() -> None:
    chosen, rejected = values(-3.0, -70.0), values(-9.0, -1.0)
    for beta in (0.1, 5.0):
        plain = dpo_loss(chosen, rejected, chosen, rejected, beta)
        tokens = values(3.0, 7.0), values(9.0, 2.0)
        norm = dpo_norm_loss(chosen, rejected, chosen, rejected, *tokens, beta)
        for losses, margins in (plain, norm):
            assert losses.tolist() == pytest.approx([math.log(2)] * 2)
            assert margins.tolist() == [0.0, 0.0]


def test_dpo_loss_falls_when_the_chosen_response_gains() -> None:
    before = dpo_loss(values(-5.0), values(-5.0), values(-5.0), values(-5.0), 0.1).losses
    chosen_up = dpo_loss(values(-4.0), values(-5.0), values(-5.0), values(-5.0), 0.1).losses
    rejected_up = dpo_loss(values(-5.0), values(-4.0), values(-5.0), values(-5.0), 0.1).losses
    assert chosen_up < before < rejected_up


def test_dpo_norm_of_responses_with_one_token_is_dpo() -> None:
    arguments = values(-3.0), values(-5.0), values(-5.0), values(-4.0)
    plain = dpo_loss(*arguments, beta=0.7)
    norm = dpo_norm_loss(*arguments, values(1.0), values(1.0), beta=0.7)
    assert norm.losses.tolist() == plain.losses.tolist()


def test_dpo_norm_agrees_with_the_definition_by_means_of_tokens() -> None:
    # open-instruct averages first: -log sigmoid(beta [(mean w - mean l) - (ref w - ref l)]).
    policy_chosen, policy_rejected = [-0.5, -1.0, -0.3], [-2.0, -0.1]
    reference_chosen, reference_rejected = [-0.6, -1.5, -0.2], [-1.0, -0.4]

    def mean(logps: list[float]) -> float:
        return sum(logps) / len(logps)

    margin = 5.0 * (
        (mean(policy_chosen) - mean(policy_rejected))
        - (mean(reference_chosen) - mean(reference_rejected))
    )
    sums = [
        values(sum(logps))
        for logps in (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    ]
    losses, margins = dpo_norm_loss(*sums, values(3.0), values(2.0), beta=5.0)
    assert margins.item() == pytest.approx(margin)
    assert losses.item() == pytest.approx(math.log1p(math.exp(-margin)))


def test_gradient_of_dpo_norm_agrees_with_finite_differences() -> None:
    fixed = values(-5.0, -2.0), values(-4.0, -6.0), values(4.0, 3.0), values(2.0, 5.0)

    def loss(chosen: Tensor, rejected: Tensor) -> Tensor:
        return dpo_norm_loss(chosen, rejected, *fixed, beta=2.0).losses.sum()

    chosen = values(-3.0, -2.5).requires_grad_()
    rejected = values(-5.0, -4.5).requires_grad_()
    loss(chosen, rejected).backward()
    step = 1e-6
    for index in range(2):
        nudge = torch.zeros(2, dtype=torch.float64)
        nudge[index] = step
        up, down = chosen.detach() + nudge, chosen.detach() - nudge
        slope = (loss(up, rejected.detach()) - loss(down, rejected.detach())) / (2 * step)
        assert chosen.grad is not None
        assert chosen.grad[index].item() == pytest.approx(slope.item(), abs=1e-8)
        up, down = rejected.detach() + nudge, rejected.detach() - nudge
        slope = (loss(chosen.detach(), up) - loss(chosen.detach(), down)) / (2 * step)
        assert rejected.grad is not None
        assert rejected.grad[index].item() == pytest.approx(slope.item(), abs=1e-8)
