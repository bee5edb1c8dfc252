"""Maximum likelihood: pretraining and supervised finetuning (SFT)."""

from torch import Tensor


def cross_entropy(logps: Tensor) -> Tensor:
    """Return the summed cross entropy ``-sum log p(token)`` over the response tokens.

    It is a sum, so that a mean over the tokens of a whole batch does not depend on the parts the
    batch was computed in; divide by the number of tokens.

    Args:
        logps: from :func:`rlsubnet.objectives.logps.token_logps`, 0 outside the response.

    Returns:
        A scalar.

    >>> import torch
    >>> cross_entropy(torch.tensor([[-1.0, -2.0, 0.0], [-0.5, 0.0, 0.0]]))
    tensor(3.5000)
    """
    return -logps.sum()
