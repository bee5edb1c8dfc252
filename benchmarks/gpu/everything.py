"""All figures of one run, in one process."""

from pathlib import Path

import torch

from benchmarks.figure import Figure
from benchmarks.gpu.sampling import rollout_figures
from benchmarks.gpu.size import Size
from benchmarks.gpu.training import grpo_figures, make_bench, offline_figures
from benchmarks.gpu.trl_steps import is_installed, trl_figures
from benchmarks.gpu.weights import diff_figures, rank_figures
from rlsubnet.training.run import deterministic


def figures(size: Size, device: torch.device, folder: Path, repeats: int) -> list[Figure]:
    """Return all figures, with kernels that give the same bits each time, as runs are trained."""
    with deterministic(device):
        found = rank_figures(size, device, repeats)
        bench = make_bench(size, device)
        found += diff_figures(bench, repeats)
        found += rollout_figures(bench, repeats)
        found += offline_figures(bench, folder, repeats)
        found += grpo_figures(bench, repeats)
    if is_installed():
        found += trl_figures(bench, repeats)
    return found
