"""PRIME against a second implementation: plain loops over lists, after the recipe's formulas."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlsubnet.objectives.prime import (
    outcome_loss,
    prime_advantages,
    rloo_rewards,
)


def batch(seed: int, groups: int, samples: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return logps, reference, outcomes and mask of responses with 1 to 5 tokens."""
    generator = torch.Generator().manual_seed(seed)
    rows = groups * samples
    lengths = torch.randint(1, 6, (rows,), generator=generator)
    lengths[0] = 3  # at least one process reward in the batch
    starts = torch.randint(0, 3, (rows,), generator=generator)
    places = torch.arange(8)
    mask = (places >= starts[:, None]) & (places < (starts + lengths)[:, None])
    logps, reference = (
        -torch.rand(rows, 8, generator=generator, dtype=torch.float64) * mask for _ in range(2)
    )
    outcomes = torch.randint(0, 2, (rows,), generator=generator).double()
    return logps, reference, outcomes, mask


def advantages_by_hand(
    logps: Tensor, reference: Tensor, outcomes: Tensor, mask: Tensor, n: int, beta: float
) -> list[list[float]]:
    """Return the advantages of each response's tokens, without a tensor operation."""
    rewards = []
    for row in range(len(mask)):
        own = [
            beta * (logps[row, t].item() - reference[row, t].item())
            for t in range(mask.shape[1])
            if mask[row, t]
        ]
        rewards.append([*own[:-1], 0.0])
    largest = max(abs(sum(own[t:])) for own in rewards for t in range(len(own)))
    rewards = [[value / (largest + 1e-6) for value in own] for own in rewards]
    o = outcomes.tolist()
    returns = []
    for i, own in enumerate(rewards):
        group = range(i // n * n, i // n * n + n)
        means = sum(sum(rewards[j]) / len(rewards[j]) for j in group)
        parts = [5 * (n / (n - 1) * value - means / (n - 1)) for value in own]
        parts[-1] += 5 * (o[i] - sum(o[j] for j in group if j != i) / (n - 1))
        returns.append([sum(parts[t:]) for t in range(len(parts))])
    flat = [value for own in returns for value in own]
    mean, variance = statistics.fmean(flat), statistics.variance(flat)
    return [[(value - mean) / math.sqrt(variance + 1e-8) for value in own] for own in returns]


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_advantages_agree_with_the_formulas_worked_in_loops(seed, groups, samples):
    logps, reference, outcomes, mask = batch(seed, groups, samples)
    found = prime_advantages(logps, reference, outcomes, mask, samples, beta=0.05)
    expected = advantages_by_hand(logps, reference, outcomes, mask, samples, beta=0.05)
    for row, own in enumerate(expected):
        assert found[row][mask[row]].tolist() == pytest.approx(own, abs=1e-9)
    assert not found[~mask].any()


def test_groups_that_are_not_whole_are_refused():
    mask = torch.ones(6, 2, dtype=torch.bool)
    for samples in (1, 4):
        with pytest.raises(ValueError, match=f"6 responses in groups of {samples}: expected whole"):
            rloo_rewards(torch.zeros(6, 2), torch.zeros(6), mask, samples)


def test_the_gradient_of_the_reward_model_is_beta_times_its_error_at_every_token():
    logps, reference, outcomes, mask = batch(5, groups=2, samples=3)
    logps.requires_grad_()
    outcome_loss(logps, reference, outcomes, beta=0.5).backward()
    rewards = 0.5 * (logps.detach() - reference).sum(1)
    error = 0.5 * (1 / (1 + (-rewards).exp()) - outcomes)
    assert logps.grad is not None
    torch.testing.assert_close(logps.grad, error[:, None].expand(6, 8))
