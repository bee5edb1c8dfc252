"""The paper's measures on tensors where they are, on a GPU or not; results stay there, too.

The same numbers as :mod:`rlsubnet.measure.sparsity`, :mod:`rlsubnet.measure.overlap` and
:mod:`rlsubnet.measure.rank` compute of arrays. Nothing here makes the program wait for the device,
so that a training step can count what it changed; ``.item()`` of a result does, and a rank: its
decomposition tells only on the device whether it converged.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from rlsubnet.measure.numerical_rank import EPS32
from rlsubnet.measure.sparsity import TABLE_TOLERANCE, exact_threshold, official_threshold


def _check_shapes(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"shapes differ: {list(first.shape)} and {list(second.shape)}")


def changed_weights(
    init: Tensor, tuned: Tensor, rule: str = "official", atol: float = TABLE_TOLERANCE
) -> Tensor:
    """Return where an update changed a weight, bool, as :func:`rlsubnet.measure.sparsity.changed`.

    Args:
        init: weights before finetuning, bfloat16, or float32 that hold bfloat16 values.
        tuned: weights after finetuning, of the same shape.
        rule: ``bitwise``, ``official`` or ``exact``.
        atol: tolerance in weight units; plays no part under ``bitwise``.

    Raises:
        ValueError: the shapes differ, or an unknown rule.

    >>> init = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    >>> changed_weights(init, torch.tensor([1.5, 2.0], dtype=torch.bfloat16))
    tensor([ True, False])
    """
    _check_shapes(init, tuned)
    if rule == "bitwise":
        return init.bfloat16().view(torch.int16) != tuned.bfloat16().view(torch.int16)
    if rule not in ("official", "exact"):
        raise ValueError(f"unknown rule {rule!r}; expected bitwise, official or exact")
    threshold = official_threshold(atol) if rule == "official" else exact_threshold(atol)
    # Numbers that are not negative are ordered like their bits, NaN above all.
    bits = (tuned.float() - init.float()).abs().view(torch.int32)
    return bits > threshold


class ChangedCount(NamedTuple):
    """How many weights of a model changed, int64 on the device, and of how many."""

    changed: Tensor
    numel: int

    def sparsity(self) -> Tensor:
        """Return the share of unchanged weights, float64, on the device."""
        return 1 - self.changed.double() / self.numel


def count_changed(
    init: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    rule: str = "official",
    atol: float = TABLE_TOLERANCE,
) -> ChangedCount:
    """Return how many weights of all tensors changed; one pass over both models' memory.

    Raises:
        ValueError: the two do not have the same names and shapes; names one that differs.

    >>> init = {"w": torch.zeros(4), "v": torch.ones(4)}
    >>> count = count_changed(init, {**init, "w": torch.tensor([0.0, 0.0, 0.0, 1.0])})
    >>> count.changed.item(), count.sparsity().item()
    (1, 0.875)
    """
    if differing := sorted(set(init) ^ set(tuned)):
        raise ValueError(f"tensor {differing[0]}: in one of the two models only")
    counts = []
    for name, before in init.items():
        try:
            counts.append(changed_weights(before, tuned[name], rule, atol).count_nonzero())
        except ValueError as error:
            raise ValueError(f"tensor {name}: {error}") from error
    if not counts:
        raise ValueError("no tensor to count in")
    return ChangedCount(torch.stack(counts).sum(), sum(part.numel() for part in init.values()))


def overlap_counts(mask1: Tensor, mask2: Tensor) -> Tensor:
    """Return the sizes of two masks and of what they share, int64, ``[3]``.

    ``o1 = shared / size1`` and ``o2 = shared / size2`` (section 5).

    >>> overlap_counts(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
    tensor([2, 2, 1])
    """
    _check_shapes(mask1, mask2)
    return torch.stack([part.count_nonzero() for part in (mask1, mask2, mask1 & mask2)])


def update_rank(init: Tensor, tuned: Tensor) -> Tensor:
    """Return the rank of an update matrix, int64, as :func:`rlsubnet.measure.rank.update_rank`.

    The number of singular values of the bfloat16 difference above
    ``max(rows, columns) * eps(float32) * largest``, from a float32 decomposition.

    Raises:
        ValueError: the shapes differ, or are none of a matrix.

    >>> update_rank(torch.zeros(3, 3), torch.diag(torch.tensor([3.0, 4.0, 0.0])))
    tensor(2)
    """
    _check_shapes(init, tuned)
    if init.ndim != 2:
        raise ValueError(f"a rank needs a matrix, found shape {list(init.shape)}")
    delta = (tuned.bfloat16() - init.bfloat16()).float()
    singular = torch.linalg.svdvals(delta)
    return (singular > max(delta.shape) * EPS32 * singular[0]).count_nonzero()
