"""What differs on a GPU: how data get there, what is waited for, how changed weights are counted.

A CPU computes each number before the next line runs. A GPU is handed work and runs behind; every
number that is read makes the program wait for it. So on a GPU a step reads nothing: batches are
sent from pinned memory, sizes are known on the host, and metrics are read many steps at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from rlsubnet.measure.sparsity import TABLE_TOLERANCE, exact_threshold, official_threshold

# Steps whose metrics a GPU run reads together; also the most that are lost when it is killed.
READ_EVERY = 20


def read_every(device: torch.device) -> int:
    """Return how many steps' metrics are read together.

    >>> read_every(torch.device("cpu")), read_every(torch.device("cuda"))
    (1, 20)
    """
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


# Weights that one program of the kernel counts.
CHUNK = 1 << 16


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

    >>> init = torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    >>> changed_weights(init, torch.tensor([1.5, 2.0], dtype=torch.bfloat16))
    tensor([ True, False])
    """
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
        return 1 - self.changed.double() / self.numel


def count_changed(
    init: Mapping[str, Tensor],
    tuned: Mapping[str, Tensor],
    rule: str = "official",
    atol: float = TABLE_TOLERANCE,
) -> ChangedCount:
    """Return how many weights of all tensors changed.

    Of bfloat16 weights on a GPU by one kernel, which reads both models once
    (:mod:`rlsubnet.training.count_kernel`), where torch brought triton along.

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
    for name, (before, after) in pairs.items():
        if before.shape != after.shape:
            shapes = f"{list(before.shape)} and {list(after.shape)}"
            raise ValueError(f"tensor {name}: shapes differ: {shapes}")
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
    from rlsubnet.training.count_kernel import chunk_counts

    device = pairs[0][0].device
    table = torch.from_numpy(chunks([(a.data_ptr(), b.data_ptr(), a.numel()) for a, b in pairs]))
    if device.type == "cuda":
        table = table.pin_memory().to(device, non_blocking=True)
    return chunk_counts(table, threshold).sum(dtype=torch.int64)


class ChangedWeights:
    """Counts how many weights differ from where a run started, where the weights are.

    Keeps the start, 2 bytes a weight; a count reads both models once.
    """

    def __init__(self, model: Module) -> None:
        self._parameters = dict(model.named_parameters())
        self._start = {
            name: parameter.detach().to(torch.bfloat16, copy=True)
            for name, parameter in self._parameters.items()
        }

    @torch.no_grad()
    def sparsity(self) -> Reading:
        """Return the share of weights that are as they were, by the tables' rule and tolerance."""
        now: dict[str, Tensor] = dict(self._parameters)
        return Reading((count_changed(self._start, now).sparsity(),))
