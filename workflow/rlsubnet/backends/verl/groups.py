"""PRIME's accuracy filter on the rows of a batch."""

import torch
from torch import Tensor

from rlsubnet.objectives.prime import preferred_groups


def preferred_rows(
    outcomes: Tensor,
    lengths: Tensor,
    samples: int,
    count: int,
    accuracy: tuple[float, float],
    max_length: int,
) -> Tensor:
    """Return the rows of the ``count`` groups that are learned from, those that pass first.

    As :func:`rlsubnet.objectives.prime.preferred_groups` chooses; a response of ``max_length - 1``
    tokens or more counts as cut off, as in verl's PRIME recipe.

    Args:
        outcomes: 1 for a right response, 0 for a wrong one, ``[B]``; the rows of a group, the
            ``samples`` responses to one prompt, stand side by side.
        lengths: tokens of the responses, ``[B]``.
        samples: size of a group.
        count: groups wanted.
        accuracy: least and greatest share of right responses.
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
