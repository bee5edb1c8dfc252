"""Which kernel does the pass of ``measure.fused``: numpy alone, or compiled by numba."""

import importlib.util
import os

from rlsubnet.measure.fused import Kernel, numpy_kernel

KERNELS = ("auto", "numpy", "numba")
VARIABLE = "RLSUBNET_KERNEL"
# Below this many bytes of both checkpoints, importing numba costs more than it saves.
WORTH_COMPILING = 4 << 30


def choose_kernel(name: str, nbytes: int) -> Kernel:
    """Return a kernel by name; all of them give the same integers and bits.

    Args:
        name: ``numpy``, ``numba``, or ``auto``: numba where it is installed and the checkpoints are
            large enough to repay its import. The environment variable RLSUBNET_KERNEL stands in
            for ``auto``.
        nbytes: stored bytes of both checkpoints.

    Raises:
        ValueError: an unknown name, or numba is asked for and not installed.

    >>> choose_kernel("numpy", 1 << 40).__name__
    'numpy_kernel'
    """
    wish = os.environ.get(VARIABLE, "auto") if name == "auto" else name
    if wish not in KERNELS:
        raise ValueError(f"kernel: expected one of {', '.join(KERNELS)}, found {wish!r}")
    installed = importlib.util.find_spec("numba") is not None
    if wish == "numba" and not installed:
        raise ValueError("kernel numba needs numba: pip install 'rlsubnet[fast]'")
    if wish == "numpy" or not installed or (wish == "auto" and nbytes < WORTH_COMPILING):
        return numpy_kernel
    from rlsubnet.measure.fused_numba import numba_kernel

    return numba_kernel
