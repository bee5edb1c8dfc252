import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlsubnet.objectives.policy_gradient import (
    generalized_advantages,
    group_advantages,
    policy_loss,
    reference_kl,
    value_loss,
    whitened,
)

# Responses of 3, 1, 4 and 2 tokens; the last two start in the second column.
MASK = torch.tensor(
    [
        [True, True, True, False, False],
        [True, False, False, False, False],
        [False, True, True, True, True],
        [False, True, True, False, False],
    ]
)


def numbers(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*(shape or MASK.shape), generator=generator, dtype=torch.float64)


def test_tokens_outside_a_response_count_nowhere():
    logps, old, advantages = (numbers(seed) for seed in range(3))
    noisy = [values.masked_fill(~MASK, 7.0) for values in (logps, old, advantages)]
    assert torch.equal(
        policy_loss(*noisy, MASK, 0.2), policy_loss(logps, old, advantages, MASK, 0.2)
    )
    assert torch.equal(reference_kl(*noisy[:2], MASK), reference_kl(logps, old, MASK))
    assert torch.equal(value_loss(*noisy[:2], MASK), value_loss(logps, old, MASK))
    assert torch.equal(whitened(noisy[0], MASK), whitened(logps, MASK))
    for found, expected in zip(
        generalized_advantages(*noisy[:2], MASK, 0.9),
        generalized_advantages(logps, old, MASK, 0.9),
        strict=True,
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("clip_ratio", [None, 0.2])
def test_on_policy_the_gradient_is_that_of_reinforce(clip_ratio):
    logps, advantages = numbers(0).requires_grad_(), numbers(1)
    policy_loss(logps, logps.detach(), advantages, MASK, clip_ratio).backward()
    assert logps.grad is not None
    torch.testing.assert_close(logps.grad, -advantages * MASK)


def test_clipping_takes_a_gain_away_and_never_a_loss():
    # Ratios 2, 2, 1/2, 1/2 with advantages +, -, +, -; c = 0.2 stops the first and the last.
    logps = torch.tensor([[2.0, 2.0, 0.5, 0.5]]).log().requires_grad_()
    advantages = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    loss = policy_loss(logps, torch.zeros(1, 4), advantages, mask, clip_ratio=0.2)
    loss.backward()
    # Gains 1.2, -2, 0.5, -0.8; the gradient of -ratio * A is -ratio * A itself.
    assert loss.item() == pytest.approx(1.1)
    assert logps.grad is not None
    assert logps.grad.tolist() == [pytest.approx([0.0, 2.0, -0.5, 0.0])]


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=4, max_size=4), min_size=1, max_size=5),
    st.floats(0.5, 20),
    st.floats(-5, 5),
)
def test_advantages_of_a_group_sum_to_0_and_know_no_scale(rewards, scale, shift):
    values = torch.tensor(rewards, dtype=torch.float64)
    advantages = group_advantages(values)
    assert advantages.sum(1).abs().max() < 1e-9
    torch.testing.assert_close(
        group_advantages(scale * values + shift), advantages, rtol=1e-5, atol=1e-9
    )


def test_a_single_response_has_nothing_to_be_compared_with():
    with pytest.raises(ValueError, match="groups of 1 response, expected at least 2"):
        group_advantages(torch.ones(3, 1))


@given(st.integers(0, 1000))
@settings(max_examples=30)
def test_the_k3_estimate_is_never_negative_and_its_mean_is_the_divergence(seed):
    policy = numbers(seed, 1, 6).log_softmax(1)
    reference = numbers(seed + 5000, 1, 6).log_softmax(1)
    one = torch.ones(1, 1, dtype=torch.bool)
    each = [reference_kl(policy[:, [v]], reference[:, [v]], one).item() for v in range(6)]
    assert min(each) >= 0
    mean = sum(p * k for p, k in zip(policy.exp()[0].tolist(), each, strict=True))
    assert mean == pytest.approx((policy.exp() * (policy - reference)).sum().item())


def test_a_small_divergence_keeps_its_digits_in_float32():
    # d^2 / 2 at d = 1e-4; exp(d) - d - 1 computed in that order would give 0 or 1.2e-7.
    one = torch.ones(1, 1, dtype=torch.bool)
    found = reference_kl(torch.zeros(1, 1), torch.full((1, 1), 1e-4), one).item()
    assert found == pytest.approx(5e-9, rel=2e-3)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_advantages_agree_with_the_sum_that_defines_them(lam):
    rewards, values = numbers(4), numbers(5)
    advantages, returns = generalized_advantages(rewards, values, MASK, lam)
    for row in range(len(MASK)):
        (places,) = torch.where(MASK[row])
        r, v = rewards[row, places].tolist(), [*values[row, places].tolist(), 0.0]
        deltas = [r[t] + v[t + 1] - v[t] for t in range(len(r))]
        expected = [
            sum(lam ** (k - t) * deltas[k] for k in range(t, len(r))) for t in range(len(r))
        ]
        assert advantages[row, places].tolist() == pytest.approx(expected)
        assert returns[row, places].tolist() == pytest.approx(
            [a + b for a, b in zip(expected, v, strict=False)]
        )
    assert not advantages[~MASK].any()
    assert not returns[~MASK].any()


def test_whitened_values_have_mean_0_and_variance_1():
    found = whitened(3 + 5 * numbers(7), MASK)[MASK]
    assert found.mean().item() == pytest.approx(0.0, abs=1e-12)
    assert found.var().item() == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ValueError, match="found 1 response tokens, expected at least 2"):
        whitened(torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))
