"""Which kernel does the work: numpy alone, or loops compiled by numba."""

import importlib.util
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from rlsubnet.measure.kernel import Kernel, numpy_kernel

if TYPE_CHECKING:
    from rlsubnet.measure.overlap import OverlapCounts

KERNELS = ("auto", "numpy", "numba")
VARIABLE = "RLSUBNET_KERNEL"
# Below this many bytes of both checkpoints, importing numba costs more than it saves.
WORTH_COMPILING = 4 << 30
# With fewer weights by exponent, likewise.
WORTH_SHARING = 1 << 29
# (first, second, numel, weights before finetuning or None) -> sizes, and by exponent if known.
SharedBits = Callable[
    [np.ndarray, np.ndarray, int, np.ndarray | None], tuple["OverlapCounts", np.ndarray | None]
]


def wants_numba(name: str, worthwhile: bool) -> bool:
    """Return whether compiled loops do the work.

    ``auto`` takes numba where it is installed and ``worthwhile`` says that there is enough to do to
    repay its import. The environment variable RLSUBNET_KERNEL stands in for ``auto``.

    >>> wants_numba("numpy", worthwhile=True)
    False
    """
    wish = os.environ.get(VARIABLE, "auto") if name == "auto" else name
    if wish not in KERNELS:
        raise ValueError(f"kernel: expected one of {', '.join(KERNELS)}, found {wish!r}")
    installed = importlib.util.find_spec("numba") is not None
    if wish == "numba" and not installed:
        from rlsubnet.extras import how_to_install

        raise ValueError(f"kernel numba needs numba; {how_to_install('numba')}")
    return wish == "numba" or (wish == "auto" and installed and worthwhile)


def choose_kernel(name: str, nbytes: int) -> Kernel:
    """Return a kernel; all of them give the same integers and bits.

    ``nbytes`` are the stored bytes of both checkpoints.
    """
    if not wants_numba(name, worthwhile=nbytes >= WORTH_COMPILING):
        return numpy_kernel
    from rlsubnet.measure.kernel_numba import numba_kernel

    return numba_kernel


def choose_shared_bits(kernel: str, numel: int, by_exponent: bool) -> SharedBits:
    """Return what counts ``numel`` weights; both ways give the same integers.

    By exponent numpy is slow, and only at that.
    """
    from rlsubnet.measure.overlap import numpy_shared_bits

    if not wants_numba(kernel, worthwhile=by_exponent and numel >= WORTH_SHARING):
        return numpy_shared_bits
    from rlsubnet.measure.kernel_numba import numba_shared_bits

    return numba_shared_bits
