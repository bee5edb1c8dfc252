"""The paper's measures on tensors where they are, on a GPU or not; results stay there, too.

The same numbers as :mod:`rlsubnet.measure.sparsity` and :mod:`rlsubnet.measure.overlap` compute of
arrays. Nothing here makes the program wait for the device, so that a training step can count what
it changed; ``.item()`` of a result does.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlsubnet.measure.sparsity import TABLE_TOLERANCE, exact_threshold, official_threshold

# Weights that one program of the kernel counts.
CHUNK = 1 << 16


def _check_shapes(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(f"shapes differ: {list(first.shape)} and {list(second.shape)}")


def _threshold(rule: str, atol: float) -> int:
    if rule not in ("official", "exact"):
        raise ValueError(f"unknown rule {rule!r}; expected bitwise, official or exact")
    return official_threshold(atol) if rule == "official" else exact_threshold(atol)


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
    threshold = _threshold(rule, atol)
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
    """Return how many weights of all tensors changed.

    Of bfloat16 weights on a GPU by one kernel, which reads both models once
    (:mod:`rlsubnet.measure.count_kernel`), where torch brought triton along.

    Raises:
        ValueError: the two do not have the same names and shapes; names one that differs.

    >>> init = {"w": torch.zeros(4), "v": torch.ones(4)}
    >>> count = count_changed(init, {**init, "w": torch.tensor([0.0, 0.0, 0.0, 1.0])})
    >>> count.changed.item(), count.sparsity().item()
    (1, 0.875)
    """
    if differing := sorted(set(init) ^ set(tuned)):
        raise ValueError(f"tensor {differing[0]}: in one of the two models only")
    if not init:
        raise ValueError("no tensor to count in")
    pairs = {name: (before, tuned[name]) for name, before in init.items()}
    for name, pair in pairs.items():
        try:
            _check_shapes(*pair)
        except ValueError as error:
            raise ValueError(f"tensor {name}: {error}") from error
    alike = all(_kernel_fits(one) for pair in pairs.values() for one in pair)
    if rule != "bitwise" and alike and find_spec("triton"):
        changed = _count_by_kernel(list(pairs.values()), _threshold(rule, atol))
    else:
        counts = [changed_weights(*pair, rule, atol).count_nonzero() for pair in pairs.values()]
        changed = torch.stack(counts).sum()
    return ChangedCount(changed, sum(part.numel() for part in init.values()))


def _kernel_fits(tensor: Tensor) -> bool:
    # Threads load 16 bytes at once.
    aligned = tensor.is_cuda and tensor.is_contiguous() and tensor.data_ptr() % 16 == 0
    return aligned and tensor.dtype == torch.bfloat16


def chunks(places: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Return what each program of the kernel counts: rows as given, of at most CHUNK weights.

    Args:
        places: address of a tensor in either model, in bytes, and its number of weights of 2 bytes.

    A tensor of two chunks and one of five weights:

    >>> chunks([(0, 400_000, CHUNK + 1), (800_000, 900_000, 5)]).tolist()
    [[0, 400000, 65536], [131072, 531072, 1], [800000, 900000, 5]]
    """
    rows = []
    for init, tuned, numel in places:
        starts = np.arange(0, numel, CHUNK, dtype=np.int64)
        sizes = np.minimum(numel - starts, CHUNK)
        rows.append(np.stack([init + 2 * starts, tuned + 2 * starts, sizes], axis=1))
    return np.concatenate(rows)


def _count_by_kernel(pairs: Sequence[tuple[Tensor, Tensor]], threshold: int) -> Tensor:
    from rlsubnet.measure.count_kernel import chunk_counts

    device = pairs[0][0].device
    table = torch.from_numpy(chunks([(a.data_ptr(), b.data_ptr(), a.numel()) for a, b in pairs]))
    if device.type == "cuda":
        table = table.pin_memory().to(device, non_blocking=True)
    return chunk_counts(table, threshold).sum(dtype=torch.int64)


def overlap_counts(mask1: Tensor, mask2: Tensor) -> Tensor:
    """Return the sizes of two masks and of what they share, int64, ``[3]``.

    ``o1 = shared / size1`` and ``o2 = shared / size2`` (section 5).

    >>> overlap_counts(torch.tensor([True, True, False]), torch.tensor([True, False, True]))
    tensor([2, 2, 1])
    """
    _check_shapes(mask1, mask2)
    return torch.stack([part.count_nonzero() for part in (mask1, mask2, mask1 & mask2)])
