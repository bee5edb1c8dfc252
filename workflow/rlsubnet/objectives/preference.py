"""Losses on pairs of a chosen and a rejected response to one prompt.

All tensors are ``[B]``, one value per pair; log-probabilities are sums over a response's tokens.
"""

from typing import NamedTuple

import torch
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


def simpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
    beta: float,
    gamma: float,
) -> PreferenceLoss:
    """Return the loss of simple preference optimization (SimPO; Meng et al. 2024, equation 6).

    The reward is the mean log-probability of a response's tokens,
    ``r(y) = beta / |y| * log pi(y|x)``, without a reference. The margin ``r(chosen) - r(rejected)``
    is to exceed ``gamma``: the loss is ``-log sigmoid(margin - gamma)``.

    Args:
        beta: scale of the reward, 2.0 to 10 in the SimPO paper.
        gamma: target margin, in units of the reward; the SimPO paper tunes ``gamma / beta``.

    Returns:
        Losses, and the margins before ``gamma`` is taken off.

    Worked by hand: means per token -2/4 and -3/2, so the margin is 2 * (-0.5 + 1.5) = 2 and the
    loss log(1 + exp(-(2 - 0.5))) = 0.2014.

    >>> import torch
    >>> values = (torch.tensor([value]) for value in (-2.0, -3.0, 4.0, 2.0))
    >>> losses, margins = simpo_loss(*values, beta=2.0, gamma=0.5)
    >>> losses, margins
    (tensor([0.2014]), tensor([2.]))
    """
    margins = beta * (chosen / chosen_tokens - rejected / rejected_tokens)
    return PreferenceLoss(-functional.logsigmoid(margins - gamma), margins)


def kto_reference_point(mismatched: Tensor, reference_mismatched: Tensor) -> Tensor:
    """Return KTO's reference point z_0, an estimate in nats of ``KL(pi || pi_ref)``; no gradient.

    Computes ``max(0, mean(log pi(y'|x) - log pi_ref(y'|x)))`` over responses y' to *other* prompts
    (Ethayarajh et al. 2024, section 4), as the authors' code and TRL do. Responses to the prompts
    themselves would serve no better: they are samples of the reference, under which the mean
    log-ratio is ``-KL(pi_ref || pi)``, never above 0. Mismatched ones are no samples of the policy
    either: z_0 is a biased baseline, often 0, and no measurement of the divergence.

    Args:
        mismatched: log-probabilities of the mismatched responses under the policy, any shape.
        reference_mismatched: the same under the reference.

    >>> import torch
    >>> kto_reference_point(torch.tensor([-4.0, -3.0]), torch.tensor([-6.0, -2.0]))
    tensor(0.5000)
    >>> kto_reference_point(torch.tensor([-7.0, -3.0]), torch.tensor([-6.0, -2.0]))
    tensor(0.)
    """
    return (mismatched - reference_mismatched).mean().clamp(min=0).detach()


def kto_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    reference_point: Tensor,
    beta: float,
) -> PreferenceLoss:
    """Return the loss of Kahneman-Tversky optimization (KTO; Ethayarajh et al. 2024, section 4).

    KTO takes single responses, desirable or not; here a pair brings one of each. With the log-ratio
    ``h(y) = log pi(y|x) - log pi_ref(y|x)`` a desirable response costs
    ``1 - sigmoid(beta * (h - z_0))``, an undesirable one ``1 - sigmoid(beta * (z_0 - h))``.
    Both kinds are equally many, so their weights lambda_D and lambda_U are 1.

    Args:
        reference_point: z_0 of the whole batch, a scalar: :func:`kto_reference_point`.

    Returns:
        The mean of each pair's two losses, 0.5 at the start; the margins are those of DPO.

    Worked by hand: log-ratios 2 and -1 with z_0 = 1, so the losses are 1 - sigmoid(0.5 * (2 - 1))
    = 0.3775 and 1 - sigmoid(0.5 * (1 + 1)) = 0.2689, and the margin is 0.5 * (2 - (-1)).

    >>> import torch
    >>> values = (torch.tensor([value]) for value in (-3.0, -5.0, -5.0, -4.0))
    >>> losses, margins = kto_loss(*values, torch.tensor(1.0), beta=0.5)
    >>> losses, margins
    (tensor([0.3232]), tensor([1.5000]))
    """
    desirable = chosen - reference_chosen
    undesirable = rejected - reference_rejected
    losses = (
        # 1 - sigmoid(x) = sigmoid(-x)
        torch.sigmoid(beta * (reference_point - desirable))
        + torch.sigmoid(beta * (undesirable - reference_point))
    ) / 2
    return PreferenceLoss(losses, beta * (desirable - undesirable))


def log_odds(logps: Tensor) -> Tensor:
    """Return ``log(p / (1 - p))`` of probabilities given as logarithms.

    >>> import torch
    >>> log_odds(torch.tensor([0.5, 0.8]).log())  # odds 1 and 4
    tensor([0.0000, 1.3863])
    """
    # A mean log-probability may round to 0, where the odds are infinite and the gradient nan.
    logps = logps.clamp(max=-torch.finfo(logps.dtype).eps)
    return logps - torch.log(-torch.expm1(logps))


def orpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    chosen_tokens: Tensor,
    rejected_tokens: Tensor,
    odds_weight: float,
) -> PreferenceLoss:
    """Return the loss of odds-ratio preference optimization (ORPO; Hong et al. 2024, equation 6).

    ``L_SFT + lambda * L_OR``: the mean negative log-likelihood of the chosen response's tokens, and
    ``L_OR = -log sigmoid(log odds(chosen) - log odds(rejected))`` (equation 7), with
    ``odds = P / (1 - P)`` of ``P = exp(mean log-probability per token)``. There is no reference.

    Args:
        odds_weight: lambda, 0.1 in the ORPO paper's Mistral models.

    Returns:
        Losses; the margins are the log odds ratios.

    Worked by hand: P = 1/2 (two tokens) and 1/5 (one token), odds 1 and 1/4, odds ratio 4. The
    loss is log 2 + 0.1 * log(1 + 1/4) = 0.6931 + 0.0223.

    >>> import torch
    >>> values = (torch.tensor([value]) for value in (-1.3862944, -1.6094379, 2.0, 1.0))
    >>> losses, margins = orpo_loss(*values, odds_weight=0.1)
    >>> losses, margins
    (tensor([0.7155]), tensor([1.3863]))
    """
    mean_chosen, mean_rejected = chosen / chosen_tokens, rejected / rejected_tokens
    margins = log_odds(mean_chosen) - log_odds(mean_rejected)
    return PreferenceLoss(-mean_chosen - odds_weight * functional.logsigmoid(margins), margins)
