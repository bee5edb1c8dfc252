"""What differs between training on a GPU and on a CPU: how data get there, and what is waited for.

A CPU computes each number before the next line runs. A GPU is handed work and runs behind; every
number that is read makes the program wait for it. So on a GPU a step reads nothing: batches are
sent from pinned memory, sizes are known on the host, and metrics are read many steps at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

# Steps whose metrics a GPU run reads together; also the most that are lost when it is killed.
READ_EVERY = 20

# Attention whose backward pass adds in a fixed order; others are as quick, and differ run by run.
DETERMINISTIC_ATTENTION = (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH)


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


@contextmanager
def attention_on(device: torch.device) -> Iterator[None]:
    """Let a GPU compute attention by kernels that give the same bits each time."""
    with sdpa_kernel(list(DETERMINISTIC_ATTENTION)) if device.type == "cuda" else nullcontext():
        yield
