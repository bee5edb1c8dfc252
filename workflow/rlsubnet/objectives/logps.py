"""Log-probabilities that a model gives to tokens and responses, and their sum as SFT's loss."""

from torch import Tensor
from torch.nn import functional


def token_logps(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return log p(target) for every position, 0 where ``mask`` is False.

    Computes ``log softmax(logits)[target]`` in float32, whatever the precision of the logits.

    Args:
        logits: shape ``[B, T, V]``; position t holds the prediction for ``targets[:, t]``.
        targets: token ids, shape ``[B, T]``.
        mask: bool, shape ``[B, T]``; True where the target is part of the response.

    >>> import torch
    >>> logits = torch.tensor([[[0.0, 0.0], [5.0, 5.0]]])
    >>> token_logps(logits, torch.tensor([[0, 1]]), torch.tensor([[True, False]]))
    tensor([[-0.6931,  0.0000]])
    """
    if logits.shape[:-1] != targets.shape or mask.shape != targets.shape:
        raise ValueError(
            f"logits {list(logits.shape)}, targets {list(targets.shape)} and mask "
            f"{list(mask.shape)}: expected [B, T, V], [B, T] and [B, T]"
        )
    logps = -functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), reduction="none"
    )
    # Filled, not multiplied: padding with log p = -inf must not become nan.
    return logps.view_as(targets).masked_fill(~mask, 0.0)


def token_entropies(logits: Tensor, mask: Tensor) -> Tensor:
    """Return the entropy of every predicted token in nats, 0 where ``mask`` is False.

    Computes ``-sum_v p(v) log p(v)`` in float32.

    Args:
        mask: bool, shape ``[B, T]``; True where the predicted token is part of the response.

    >>> import torch
    >>> token_entropies(torch.zeros(1, 2, 4), torch.tensor([[True, False]]))  # log 4
    tensor([[1.3863, 0.0000]])
    """
    logps = logits.float().log_softmax(-1)
    # A token with log p = -inf adds nothing; 0 * -inf would be nan.
    entropies = -(logps.exp() * logps.clamp(min=-1e30)).sum(-1)
    return entropies.masked_fill(~mask, 0.0)


def response_logps(logps: Tensor) -> Tensor:
    """Return ``log p(response | prompt)``: the sum of the token log-probabilities of each row.

    >>> import torch
    >>> response_logps(torch.tensor([[-1.0, -2.0, 0.0], [-0.5, 0.0, 0.0]]))
    tensor([-3.0000, -0.5000])
    """
    return logps.sum(dim=1)


def cross_entropy(logps: Tensor) -> Tensor:
    """Return the summed cross entropy ``-sum log p(token)`` over the response tokens.

    It is a sum, so that a mean over the tokens of a whole batch does not depend on the parts the
    batch was computed in; divide by the number of tokens.

    >>> import torch
    >>> cross_entropy(torch.tensor([[-1.0, -2.0, 0.0], [-0.5, 0.0, 0.0]]))
    tensor(3.5000)
    """
    return -logps.sum()
