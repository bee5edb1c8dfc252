"""PRIME: process rewards out of a model that was only ever told outcomes (Cui et al. 2025).

The formulas are those of verl's PRIME recipe (``prime_core_algos.py``, ``prime_dp_rm.py``), which
the paper's hyperparameters are the example values of. Shapes as in
:mod:`rlsubnet.objectives.policy_gradient`; the rows of a group, the ``samples`` responses to one
prompt, stand side by side. ``logps`` and ``reference`` are log-probabilities under the reward model
phi and under the frozen copy that it started from, 0 outside the responses; ``outcomes``, ``[B]``,
are 1 for a right response and 0 for a wrong one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rlsubnet.objectives.policy_gradient import last_tokens, returns_to_go, whitened

# Weights of process and outcome rewards in the returns. These are normalized afterwards: only the
# ratio of the two matters.
PROCESS, OUTCOME = 5.0, 5.0


def preferred_groups(
    accuracies: Sequence[float], ended: Sequence[bool], count: int, low: float, high: float
) -> list[int]:
    """Return the numbers of the ``count`` groups to learn from, those that pass the filter first.

    A group passes if its share of right responses is between ``low`` and ``high``, and no response
    was cut off. The order stays as drawn; failing groups fill what is missing, so that a batch
    always has its full size.

    Args:
        low: least share, 0.2 in verl's PRIME recipe.
        high: greatest share, 0.8 there.

    >>> preferred_groups([1.0, 0.5, 0.0, 0.5], [True, True, True, True], 3, 0.2, 0.8)
    [1, 3, 0]
    >>> preferred_groups([1.0, 0.5, 0.0, 0.5], [True, False, True, True], 3, 0.2, 0.8)
    [3, 0, 1]
    """
    # Differs from verl's recipe, whose sort is unstable: which groups fill in is arbitrary there.
    passes = [done and low <= share <= high for share, done in zip(accuracies, ended, strict=True)]
    return sorted(range(len(passes)), key=lambda number: not passes[number])[:count]


def outcome_loss(logps: Tensor, reference: Tensor, outcomes: Tensor, beta: float) -> Tensor:
    """Return the cross entropy of the implicit reward model phi, summed over responses.

    The reward of a response is ``beta * sum_t q_t`` with ``q_t = log phi(y_t) - log ref(y_t)``; its
    sigmoid is the probability that the response is right (Cui et al. 2025, equation 5).

    Args:
        beta: 0.05 in the paper (Appendix B).

    Worked by hand: phi gained 2 nats on a right response, so its reward is 0.5 * 2 = 1 and the loss
    log(1 + exp(-1)) = 0.3133; an unchanged phi adds log 2 = 0.6931.

    >>> import torch
    >>> logps = torch.tensor([[-1.0, -1.0], [-3.0, 0.0]])
    >>> reference = torch.tensor([[-2.0, -2.0], [-3.0, 0.0]])
    >>> outcome_loss(logps, reference, torch.tensor([1.0, 0.0]), beta=0.5)
    tensor(1.0064)
    """
    rewards = beta * (logps - reference).sum(dim=1)
    return functional.binary_cross_entropy_with_logits(rewards, outcomes, reduction="sum")


def process_rewards(logps: Tensor, reference: Tensor, mask: Tensor, beta: float) -> Tensor:
    """Return the rewards of the tokens, ``beta * q_t``, scaled so that no return exceeds 1.

    The last token has 0: its place is taken by the outcome. The scale is the largest
    ``|sum_{s >= t} r_s|`` of the batch plus 1e-6, so that beta hardly matters here.

    Worked by hand: q = (1, 3, -) gives returns (4, 3, 0), the second response (-2, 0, -).

    >>> import torch
    >>> logps = torch.tensor([[1.0, 3.0, 7.0], [-2.0, 5.0, 0.0]])
    >>> mask = torch.tensor([[True, True, True], [True, True, False]])
    >>> process_rewards(logps, torch.zeros(2, 3), mask, beta=0.5)
    tensor([[ 0.2500,  0.7500,  0.0000],
            [-0.5000,  0.0000,  0.0000]])
    """
    rewards = (beta * (logps - reference)).masked_fill(~mask | last_tokens(mask), 0.0)
    # Differs from the paper: verl takes the maximum over the responses of one rank, so that its
    # advantages depend on the number of GPUs; here it is that of the whole batch.
    return rewards / (returns_to_go(rewards, mask).abs().max() + 1e-6)


def rloo_rewards(rewards: Tensor, outcomes: Tensor, mask: Tensor, samples: int) -> Tensor:
    """Return the rewards of the tokens less the leave-one-out mean of their group.

    With n responses a prompt, ``m_j`` the mean of the process rewards of response j over its
    tokens, and ``o_j`` its outcome:

    * process, at every token: ``n / (n - 1) r_{i,t} - sum_j m_j / (n - 1)``;
    * outcome, at the last token: ``o_i - sum_{j != i} o_j / (n - 1)``.

    Both are weighted 5 and added.

    Args:
        samples: n, the size of a group.

    Worked by hand: m = (0.1, 0), so the process part is (2 * 0.2 - 0.1, -0.1) and (-0.1) for the
    second response of one token; the outcome part is +1 and -1 at the ends.

    >>> import torch
    >>> mask = torch.tensor([[True, True], [True, False]])
    >>> rewards = torch.tensor([[0.2, 0.0], [0.0, 0.0]])
    >>> rloo_rewards(rewards, torch.tensor([1.0, 0.0]), mask, samples=2)
    tensor([[ 1.5000,  4.5000],
            [-5.5000,  0.0000]])
    """
    if samples < 2 or len(rewards) % samples:
        raise ValueError(
            f"{len(rewards)} responses in groups of {samples}: expected whole groups of at least 2"
        )
    others = samples - 1
    means = rewards.sum(1) / mask.sum(1)  # 0 outside the mask
    baseline = means.view(-1, samples).sum(1).repeat_interleave(samples) / others
    process = rewards * (samples / others) - baseline[:, None]
    totals = outcomes.view(-1, samples).sum(1).repeat_interleave(samples)
    outcome = outcomes - (totals - outcomes) / others
    ends = last_tokens(mask) * outcome[:, None]
    return (PROCESS * process + OUTCOME * ends).masked_fill(~mask, 0.0)


def prime_advantages(
    logps: Tensor,
    reference: Tensor,
    outcomes: Tensor,
    mask: Tensor,
    samples: int,
    beta: float,
    count: int | None = None,
) -> Tensor:
    """Return PRIME's advantages of the tokens: whitened returns of the leave-one-out rewards.

    Worked by hand: phi still is the reference, so only outcomes count: returns 5, 5 and -5, -5,
    mean 0, unbiased variance 100 / 3.

    >>> import torch
    >>> mask = torch.ones(2, 2, dtype=torch.bool)
    >>> same = torch.full((2, 2), -1.0)
    >>> prime_advantages(same, same, torch.tensor([1.0, 0.0]), mask, samples=2, beta=0.05)
    tensor([[ 0.8660,  0.8660],
            [-0.8660, -0.8660]])
    """
    rewards = process_rewards(logps, reference, mask, beta)
    returns = returns_to_go(rloo_rewards(rewards, outcomes, mask, samples), mask)
    return whitened(returns, mask, count)


def preferred_rows(
    outcomes: Tensor,
    lengths: Tensor,
    samples: int,
    count: int,
    accuracy: tuple[float, float],
    max_length: int,
) -> Tensor:
    """Return the rows of the ``count`` groups that are learned from, those that pass first.

    As :func:`preferred_groups` chooses; a response of ``max_length - 1``
    tokens or more counts as cut off, as in verl's PRIME recipe.

    Args:
        outcomes: 1 for a right response, 0 for a wrong one, ``[B]``; the rows of a group, the
            ``samples`` responses to one prompt, stand side by side.
        max_length: length at which a response is cut off.

    Raises:
        ValueError: there are fewer than ``count`` groups, or an outcome is not 0 or 1: a grader
            that gives part of a point makes the shares meaningless.

    Four groups of two; the second and the fourth are half right:

    >>> outcomes = torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 1])
    >>> lengths = torch.full((8,), 5)
    >>> preferred_rows(outcomes, lengths, 2, 3, (0.2, 0.8), max_length=10)
    tensor([2, 3, 6, 7, 0, 1])
    >>> lengths[3] = 9
    >>> preferred_rows(outcomes, lengths, 2, 3, (0.2, 0.8), max_length=10)
    tensor([6, 7, 0, 1, 2, 3])
    """
    if len(outcomes) < samples * count or len(outcomes) % samples:
        raise ValueError(
            f"{len(outcomes)} responses: expected at least {count} whole groups of {samples}"
        )
    if bool(((outcomes != 0) & (outcomes != 1)).any()):
        raise ValueError(f"outcomes: expected 0 or 1, found {sorted(set(outcomes.tolist()))[:5]}")
    accuracies = outcomes.double().view(-1, samples).mean(1)
    ended = lengths.view(-1, samples).amax(1) < max_length - 1
    groups = torch.tensor(preferred_groups(accuracies.tolist(), ended.tolist(), count, *accuracy))
    return (groups[:, None] * samples + torch.arange(samples)).flatten()
