"""One GPU at half a billion weights; ``python -m benchmarks.gpu`` is the same, with its name."""

from pathlib import Path

import torch

from benchmarks.figure import Figure, Unavailable
from benchmarks.gpu.everything import figures as figures_of
from benchmarks.gpu.size import HALF_BILLION


def figures(folder: Path, repeats: int) -> list[Figure]:
    """Return all figures of a GPU.

    Raises:
        Unavailable: there is none.
    """
    if not torch.cuda.is_available():
        raise Unavailable("needs a GPU; `python -m benchmarks.gpu --miniature` runs without")
    return list(figures_of(HALF_BILLION, torch.device("cuda"), folder, repeats))
