"""All figures of one run, in one process."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.figure import Figure
from benchmarks.gpu.sampling import rollout_figures, vllm_figures
from benchmarks.gpu.size import Size
from benchmarks.gpu.training import (
    compiled_figures,
    grpo_figures,
    make_bench,
    offline_figures,
)
from benchmarks.gpu.trl_steps import is_installed, trl_figures
from benchmarks.gpu.weights import diff_figures, rank_figures
from rlsubnet.evaluation.loading import deterministic


def figures(size: Size, device: torch.device, folder: Path, repeats: int) -> Iterator[Figure]:
    """Yield all figures, with kernels that give the same bits each time, as runs are trained."""
    with deterministic(device):
        yield from rank_figures(size, device, repeats)
        bench = make_bench(size, device)
        yield from diff_figures(bench, repeats)
        yield from rollout_figures(bench, repeats)
        yield from offline_figures(bench, folder, repeats)
        yield from grpo_figures(bench, repeats)
        if device.type == "cuda":  # compiling for a CPU takes a minute
            yield from compiled_figures(bench, repeats)
    if is_installed():
        yield from trl_figures(bench, repeats)
    if find_spec("vllm") is not None:
        yield from vllm_figures(bench, repeats)
