"""Policy gradients on a policy's own responses: GRPO, PPO, and what both are made of.

All tensors of tokens are ``[B, T]``, one row per response, with a bool ``mask`` that is True on the
tokens of the response; these stand side by side in each row. Losses are sums over tokens, so that a
mean over a whole batch does not depend on the parts it was computed in: divide by ``mask.sum()``.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class ValueTargets(NamedTuple):
    """Advantages, and the returns that the value head learns; both ``[B, T]``, 0 outside."""

    advantages: Tensor
    returns: Tensor


def last_tokens(mask: Tensor) -> Tensor:
    """Return where each response ends: bool, True on its last token.

    >>> last_tokens(torch.tensor([[True, True, False], [False, True, True]]))
    tensor([[False,  True, False],
            [False, False,  True]])
    """
    return mask & (mask.flip(1).cumsum(1).flip(1) == 1)


def whitened(values: Tensor, mask: Tensor, count: int | None = None) -> Tensor:
    """Return ``(values - mean) / sqrt(variance + 1e-8)`` over the tokens in the mask, 0 outside.

    Mean and unbiased variance are those of all tokens of the batch together, as in verl.

    Args:
        count: how often ``mask`` is True; None asks it, for which the program waits for a GPU.

    Three tokens with mean 2 and variance 1:

    >>> mask = torch.tensor([[True, True, False], [True, False, False]])
    >>> whitened(torch.tensor([[1.0, 2.0, 9.0], [3.0, 9.0, 9.0]]), mask)
    tensor([[-1.,  0.,  0.],
            [ 1.,  0.,  0.]])
    """
    count = int(mask.sum()) if count is None else count
    if count < 2:
        raise ValueError(f"found {count} response tokens, expected at least 2 to normalize over")
    mean = values.masked_fill(~mask, 0.0).sum() / count
    centered = (values - mean).masked_fill(~mask, 0.0)
    return centered * torch.rsqrt(centered.square().sum() / (count - 1) + 1e-8)


def group_advantages(rewards: Tensor, eps: float = 1e-6) -> Tensor:
    """Return GRPO's advantages: each reward against the others that answer the same prompt.

    ``(r - mean(group)) / (std(group) + eps)`` with the unbiased standard deviation (Shao et al.
    2024, DeepSeekMath, section 4.1.2); every token of the response has the same one. A group that
    is all right or all wrong has advantages 0 and teaches nothing.

    Args:
        eps: verl's; keeps a group without spread at 0.

    One right answer out of four: mean 1/4, standard deviation sqrt((9 + 3) / 16 / 3) = 1/2.

    >>> group_advantages(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    tensor([[ 1.5000, -0.5000, -0.5000, -0.5000],
            [ 0.0000,  0.0000,  0.0000,  0.0000]])
    """
    if rewards.shape[1] < 2:
        raise ValueError(f"groups of {rewards.shape[1]} response, expected at least 2 to compare")
    centered = rewards - rewards.mean(1, keepdim=True)
    return centered / (rewards.std(1, keepdim=True) + eps)


def policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_ratio: float | None,
) -> Tensor:
    """Return the clipped surrogate loss of PPO and GRPO, summed over tokens.

    With ``ratio = pi(y_t) / pi_old(y_t)``: ``-min(ratio A, clip(ratio, 1 - c, 1 + c) A)``
    (Schulman et al. 2017, equation 7). Where the policy is still the one that drew the responses,
    the ratio is 1, nothing is clipped, and the gradient is ``-A grad log pi(y_t)`` (REINFORCE).

    Args:
        old_logps: under the policy that drew the responses; no gradient.
        clip_ratio: ``c``; None clips nothing.

    Worked by hand: at twice the old probability and c = 0.2 a good token counts 1.2 times and a bad
    one 2 times, since clipping only ever takes a gain away: -(1.2 - 2) = 0.8.

    >>> logps, old = torch.tensor([[2.0, 2.0]]).log(), torch.tensor([[1.0, 1.0]]).log()
    >>> both = torch.ones(1, 2, dtype=torch.bool)
    >>> policy_loss(logps, old, torch.tensor([[1.0, -1.0]]), both, clip_ratio=0.2)
    tensor(0.8000)
    """
    ratio = (logps - old_logps).exp()
    gain = ratio * advantages
    if clip_ratio is not None:
        clipped = ratio.clamp(1 - clip_ratio, 1 + clip_ratio) * advantages
        gain = torch.minimum(gain, clipped)
    return -gain.masked_fill(~mask, 0.0).sum()


def reference_kl(logps: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Return the k3 estimate of ``KL(pi || pi_ref)`` in nats, summed over tokens.

    ``exp(d) - d - 1`` with ``d = log pi_ref(y_t) - log pi(y_t)`` (Schulman 2020, "Approximating KL
    divergence"; equation 4 of Shao et al. 2024): unbiased on the policy's own samples, and never
    negative.

    Args:
        reference: under the model before finetuning; no gradient.

    The reference finds the token twice as likely: 2 - log 2 - 1 = 0.3069.

    >>> one = torch.ones(1, 1, dtype=torch.bool)
    >>> reference_kl(torch.tensor([[0.25]]).log(), torch.tensor([[0.5]]).log(), one)
    tensor(0.3069)
    """
    difference = (reference - logps).masked_fill(~mask, 0.0)
    # expm1: exp(d) - 1 of a small d would lose all its digits.
    return (torch.expm1(difference) - difference).sum()


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, lam: float
) -> ValueTargets:
    """Return generalized advantage estimates (GAE) without discount, and the returns.

    ``A_t = sum_k lam^k delta_{t+k}`` with ``delta_t = r_t + V_{t+1} - V_t`` and V = 0 behind the
    last token (Schulman et al. 2016, equation 16 at gamma 1: what is rewarded is the end of a
    response, however long it is). The returns are ``A + V``.

    Args:
        values: ``V_t``, the expected reward before token t is written; no gradient.
        lam: from 0 (one step ahead) to 1 (all of the response).

    Worked by hand: delta = (0.6 - 0.5, 1 - 0.6) = (0.1, 0.4); A = (0.1 + 0.5 * 0.4, 0.4).

    >>> mask = torch.tensor([[True, True, False]])
    >>> rewards, values = torch.tensor([[0.0, 1.0, 9.0]]), torch.tensor([[0.5, 0.6, 9.0]])
    >>> advantages, returns = generalized_advantages(rewards, values, mask, lam=0.5)
    >>> advantages, returns
    (tensor([[0.3000, 0.4000, 0.0000]]), tensor([[0.8000, 1.0000, 0.0000]]))
    """
    following = torch.zeros_like(values[:, 0])  # V and A of the token behind
    advantage = torch.zeros_like(following)
    columns: list[Tensor] = []
    for position in reversed(range(values.shape[1])):
        inside, value = mask[:, position], values[:, position]
        delta = rewards[:, position] + following - value
        advantage = torch.where(inside, delta + lam * advantage, advantage)
        following = torch.where(inside, value, following)
        columns.append(advantage)
    advantages = torch.stack(columns[::-1], dim=1).masked_fill(~mask, 0.0)
    return ValueTargets(advantages, (advantages + values).masked_fill(~mask, 0.0))


def returns_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """Return the sum of the rewards from each token to the end of its response, 0 outside.

    >>> mask = torch.tensor([[True, True, True, False]])
    >>> returns_to_go(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), mask)
    tensor([[7., 6., 4., 0.]])
    """
    return generalized_advantages(rewards, torch.zeros_like(rewards), mask, lam=1.0).advantages


def value_loss(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Return PPO's loss of the value head, ``(V_t - return_t)^2 / 2``, summed over tokens.

    >>> mask = torch.tensor([[True, True, False]])
    >>> value_loss(torch.tensor([[0.5, 0.0, 9.0]]), torch.tensor([[1.0, 1.0, 0.0]]), mask)
    tensor(0.6250)
    """
    return (values - returns).masked_fill(~mask, 0.0).square().sum() / 2
