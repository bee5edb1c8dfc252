"""Which kernel does the work: numpy alone, or loops compiled by numba."""

import importlib.util
import os

from rlsubnet.extras import how_to_install
from rlsubnet.measure.fused import Kernel, numpy_kernel

KERNELS = ("auto", "numpy", "numba")
VARIABLE = "RLSUBNET_KERNEL"
# Below this many bytes of both checkpoints, importing numba costs more than it saves.
WORTH_COMPILING = 4 << 30


def wants_numba(name: str, worthwhile: bool) -> bool:
    """Return whether compiled loops do the work.

    Args:
        name: ``numpy``, ``numba``, or ``auto``: numba where it is installed and repays its import.
            The environment variable RLSUBNET_KERNEL stands in for ``auto``.
        worthwhile: whether there is enough to do for that.

    Raises:
        ValueError: an unknown name, or numba is asked for and not installed.

    >>> wants_numba("numpy", worthwhile=True)
    False
    """
    wish = os.environ.get(VARIABLE, "auto") if name == "auto" else name
    if wish not in KERNELS:
        raise ValueError(f"kernel: expected one of {', '.join(KERNELS)}, found {wish!r}")
    installed = importlib.util.find_spec("numba") is not None
    if wish == "numba" and not installed:
        raise ValueError(f"kernel numba needs numba; {how_to_install('numba')}")
    return wish == "numba" or (wish == "auto" and installed and worthwhile)


def choose_kernel(name: str, nbytes: int) -> Kernel:
    """Return a kernel by name; all of them give the same integers and bits.

    Args:
        name: see ``wants_numba``.
        nbytes: stored bytes of both checkpoints.

    >>> choose_kernel("numpy", 1 << 40).__name__
    'numpy_kernel'
    """
    if not wants_numba(name, worthwhile=nbytes >= WORTH_COMPILING):
        return numpy_kernel
    from rlsubnet.measure.fused_numba import numba_kernel

    return numba_kernel
