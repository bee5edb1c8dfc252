"""Measures on weights that are on the device: counting changes, and ranks."""

import torch

from benchmarks.figure import Figure, ratio
from benchmarks.gpu.clock import in_turn
from benchmarks.gpu.size import Size
from benchmarks.gpu.training import Bench
from rlsubnet.measure.rank import update_rank
from rlsubnet.training.device import count_changed


def diff_figures(bench: Bench, repeats: int) -> list[Figure]:
    """Return the bytes of both models a second while changes are counted, beside a copy."""
    init = [parameter.detach() for parameter in bench.model.parameters()]
    # Not equal ones: zeros cost a GPU less power, and so less time, than other numbers.
    tuned = [
        (weight.float() + 2e-5 * torch.randn_like(weight, dtype=torch.float32)).bfloat16()
        for weight in init
    ]
    pairs = list(zip(init, tuned, strict=True))
    nbytes = 2 * sum(weight.nbytes for weight in init)
    source = torch.cat([weight.flatten() for weight in init])
    target = torch.empty_like(source)
    # A copy reads one model and writes one: as many bytes as a count reads.
    times = in_turn(
        [lambda: count_changed(pairs), lambda: target.copy_(source)],
        bench.device,
        repeats,
        bench.size.steps,
    )
    counting, copying = ([nbytes / t / 1e9 for t in found] for found in times)
    return [
        ratio(
            f"counting changed weights beside a copy of as many bytes, {bench.size.name}",
            counting,
            copying,
            "GB/s",
            ("count", "copy"),
            more_is_better=True,
        )
    ]


def rank_figures(size: Size, device: torch.device, repeats: int) -> list[Figure]:
    """Return the time of a rank beside torch.linalg.matrix_rank, and whether they differ.

    A rank as ``rlsubnet rank`` takes it, from an update in the host's memory, with its stable and
    effective rank; torch's from one on the device.
    """
    noise = torch.Generator().manual_seed(1)
    init = (0.02 * torch.randn(size.matrix, generator=noise)).bfloat16()
    tuned = (init.float() + 2e-5 * torch.randn(size.matrix, generator=noise)).bfloat16()
    delta = (tuned - init).float()
    array, there = delta.numpy(), delta.to(device)
    ours, theirs = in_turn(
        [lambda: update_rank(array, device.type), lambda: torch.linalg.matrix_rank(there)],
        device,
        repeats,
    )
    rows, columns = size.matrix
    what = f"rank of an update of {rows} x {columns}"
    wrong = abs(update_rank(array, device.type).rank - int(torch.linalg.matrix_rank(there)))
    return [
        ratio(
            f"{what} beside torch.linalg.matrix_rank",
            [1e3 * t for t in ours],
            [1e3 * t for t in theirs],
            "ms",
            ("rlsubnet", "torch"),
        ),
        Figure(f"{what}: difference of the two", (float(wrong),), "", 0, at_least=False),
    ]
