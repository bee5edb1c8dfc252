"""Losses on pairs of a chosen and a rejected response to one prompt."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional


class PreferenceLoss(NamedTuple):
    """One value per pair: the loss, and by how much the chosen response's reward is higher."""

    losses: Tensor
    margins: Tensor


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float,
) -> PreferenceLoss:
    """Return the loss of direct preference optimization (DPO; Rafailov et al. 2023, equation 7).

    With the implicit reward ``r(y) = beta * (log pi(y|x) - log pi_ref(y|x))`` the margin is
    ``r(chosen) - r(rejected)`` and the loss ``-log sigmoid(margin)``: log 2 at the start, where the
    policy is the reference.

    Args:
        chosen: log-probability of each pair's chosen response under the policy, shape ``[B]``.
        rejected: the same for the rejected responses.
        reference_chosen: under the reference, the model before finetuning; no gradient.
        reference_rejected: the same for the rejected responses.
        beta: temperature; the larger, the closer the policy stays to the reference.

    Worked by hand: the policy moved 2 nats towards the chosen and 1 nat away from the rejected
    response, so the margin is 0.1 * (2 - (-1)) = 0.3 and the loss log(1 + exp(-0.3)) = 0.5544.

    >>> import torch
    >>> values = (torch.tensor([value]) for value in (-3.0, -5.0, -5.0, -4.0))
    >>> losses, margins = dpo_loss(*values, beta=0.1)
    >>> losses, margins
    (tensor([0.5544]), tensor([0.3000]))
    """
    margins = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    return PreferenceLoss(-functional.logsigmoid(margins), margins)


def dpo_norm_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
    beta: float,
) -> PreferenceLoss:
    """Return the length-normalized DPO loss, ``dpo_norm`` of open-instruct (Tulu 3).

    Every log-probability of :func:`dpo_loss` is divided by its response's number of tokens, so that
    the implicit reward is a mean per token: longer responses earn no larger reward by length.
    The paper's Tulu-3 DPO models were trained with it, at beta 5.

    Args:
        chosen: see :func:`dpo_loss`; summed over tokens.
        rejected: see :func:`dpo_loss`.
        reference_chosen: see :func:`dpo_loss`.
        reference_rejected: see :func:`dpo_loss`.
        chosen_tokens: number of tokens of each chosen response, shape ``[B]``.
        rejected_tokens: the same for the rejected responses.
        beta: temperature.

    Worked by hand: the chosen response (4 tokens) gained 2 nats, the rejected one (2 tokens) lost
    1, so the margin is 1.0 * (2/4 - (-1/2)) = 1 and the loss log(1 + exp(-1)) = 0.3133.

    >>> import torch
    >>> values = (torch.tensor([value]) for value in (-3.0, -5.0, -5.0, -4.0, 4.0, 2.0))
    >>> losses, margins = dpo_norm_loss(*values, beta=1.0)
    >>> losses, margins
    (tensor([0.3133]), tensor([1.]))
    """
    return dpo_loss(
        chosen / chosen_tokens,
        rejected / rejected_tokens,
        reference_chosen / chosen_tokens,
        reference_rejected / rejected_tokens,
        beta,
    )


def preference_accuracy(margins: Tensor) -> float:
    """Return the share of pairs whose chosen response has the higher reward.

    >>> import torch
    >>> preference_accuracy(torch.tensor([0.3, -0.1, 0.0, 2.0]))
    0.5
    """
    return (margins > 0).float().mean().item()
