"""What differs on a GPU: how data get there, what is waited for, how changed weights are counted.

A CPU computes each number before the next line runs. A GPU is handed work and runs behind; every
number that is read makes the program wait for it. So on a GPU a step reads nothing: batches are
sent from pinned memory, sizes are known on the host, and metrics are read many steps at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from rlsubnet.measure.sparsity import TABLE_TOLERANCE, official_threshold

# Steps whose metrics a GPU run reads together; also the most that are lost when it is killed.
READ_EVERY = 20


def read_every(device: torch.device) -> int:
    """Return how many steps' metrics are read together."""
    return READ_EVERY if device.type == "cuda" else 1


def to_device(values: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on the device; the program does not wait for the copy."""
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    # In one piece: of a view with gaps torch makes a copy that is not pinned, and waits for it.
    return tensor.contiguous().pin_memory().to(device, non_blocking=True)


def _total(*values: float) -> float:
    return sum(values, 0.0)


@dataclass(frozen=True)
class Reading:
    """A number that follows from tensors of one element, in double precision.

    Attributes:
        compute: from their values to the number; their sum if nothing else is said.
    """

    parts: tuple[Tensor, ...]
    compute: Callable[..., float] = _total

    def value(self) -> float:
        """Return the number; waits for the device.

        >>> Reading((torch.tensor(1.0), torch.tensor(2.0)), lambda a, b: a / b).value()
        0.5
        """
        return float(self.compute(*(part.item() for part in self.parts)))


def mean(parts: Sequence[Tensor], weight: float) -> Reading:
    """Return the sum of the tensors divided by ``weight``.

    >>> mean([torch.tensor(1.0), torch.tensor(2.0)], weight=6).value()
    0.5
    """
    return Reading(tuple(parts), lambda *values: _total(*values) / weight)


def read(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with every :class:`Reading` in them replaced by its number.

    The values of all of them are copied at once, so that the device is waited for once.

    >>> read([{"step": 1, "loss": mean([torch.tensor(3.0)], weight=2)}])
    [{'step': 1, 'loss': 1.5}]
    """
    parts = [
        part
        for row in rows
        for value in row.values()
        if isinstance(value, Reading)
        for part in value.parts
    ]
    # float32 numbers and counts below 2^53 are exact in double precision.
    values = iter(torch.stack([part.double() for part in parts]).tolist() if parts else ())
    return [
        {
            key: float(value.compute(*(next(values) for _ in value.parts)))
            if isinstance(value, Reading)
            else value
            for key, value in row.items()
        }
        for row in rows
    ]


# Bits of the largest difference of two weights that the tables do not count as a change.
UNCHANGED = official_threshold(TABLE_TOLERANCE)
# Weights that one program of the kernel counts.
CHUNK = 1 << 16


def count_changed(pairs: Sequence[tuple[Tensor, Tensor]], threshold: int = UNCHANGED) -> Tensor:
    """Return how many weights an update changed, int64 on the device.

    Of bfloat16 weights on a GPU by one kernel, which reads both models once
    (:mod:`rlsubnet.training.count_kernel`), where torch brought triton along.

    Args:
        pairs: tensors before and after, bfloat16, or float32 that hold bfloat16 values.
        threshold: bits of the largest float32 difference that is no change.

    >>> count_changed([(torch.zeros(4), torch.tensor([0.0, 0.0, 0.0, 1.0]))]).item()
    1
    """
    if find_spec("triton") and all(_kernel_fits(one) for pair in pairs for one in pair):
        return _count_by_kernel(pairs, threshold)
    # Numbers that are not negative are ordered like their bits, NaN above all.
    differences = ((after.float() - before.float()).abs() for before, after in pairs)
    counts = [(size.view(torch.int32) > threshold).count_nonzero() for size in differences]
    return torch.stack(counts).sum()


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
    from rlsubnet.training.count_kernel import chunk_counts

    table = chunks([(a.data_ptr(), b.data_ptr(), a.numel()) for a, b in pairs])
    counts = chunk_counts(to_device(table, pairs[0][0].device), threshold)
    return counts.sum(dtype=torch.int64)


class ChangedWeights:
    """Counts how many weights differ from where a run started; keeps the start, 2 bytes each."""

    def __init__(self, model: Module) -> None:
        self._pairs: list[tuple[Tensor, Tensor]] = [
            (weight.detach().to(torch.bfloat16, copy=True), weight) for weight in model.parameters()
        ]
        self._numel = sum(start.numel() for start, _ in self._pairs)

    @torch.no_grad()
    def sparsity(self) -> Reading:
        """Return the share of weights that are as they were, by the tables' rule and tolerance."""
        return Reading((count_changed(self._pairs),), lambda changed: 1 - changed / self._numel)
