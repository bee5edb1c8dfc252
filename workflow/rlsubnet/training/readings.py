"""Numbers of the metrics that still lie on the device, and reading many of them at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def _total(*values: float) -> float:
    return sum(values, 0.0)


@dataclass(frozen=True)
class Reading:
    """A number that follows from tensors of one element, in double precision.

    Attributes:
        parts: the tensors.
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
