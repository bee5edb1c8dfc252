"""Seconds of work on a device, and how figures are made of them."""

import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.figure import Figure, spread
from benchmarks.gpu.size import Size, peak_of

Action = Callable[[], object]


def wait(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(action: Action, device: torch.device, times: int = 1) -> float:
    """Return the seconds that a call takes, of ``times`` calls in a row."""
    wait(device)
    begin = time.perf_counter()
    for _ in range(times):
        action()
    wait(device)
    return (time.perf_counter() - begin) / times


def in_turn(
    actions: Sequence[Action], device: torch.device, repeats: int, times: int = 1
) -> list[list[float]]:
    """Return the seconds of each action, repetition by repetition; a first one warms up.

    The actions take turns, so that a machine that slows down slows all of them.
    """
    rounds = [[seconds(action, device, times) for action in actions] for _ in range(repeats + 1)][
        1:
    ]
    return [list(found) for found in zip(*rounds, strict=True)]


def speed(
    what: str,
    size: Size,
    device: torch.device,
    tokens: int,
    flops: float,
    times: Sequence[float],
    goal: float | None = None,
) -> list[Figure]:
    """Return tokens a second of a step, and the share of the device's peak where that is known.

    Args:
        what: the step.
        size: of the model.
        device: that it ran on.
        tokens: of a step, prompts included.
        flops: that a step cannot do without.
        times: seconds of a step, one per repetition.
        goal: share of the peak in per cent; holds for a GPU.
    """
    detail = f"{spread([1e3 * t for t in times], 'ms')} a step of {tokens} tokens"
    found = [
        Figure(f"{what}, {size.name}", tuple(tokens / t for t in times), "tokens/s", detail=detail)
    ]
    if (known := peak_of(device)) is not None:
        name, peak = known
        shares = tuple(100 * flops / t / peak for t in times)
        detail = f"{flops / 1e12:.1f} TFLOP a step; {name}: {peak / 1e12:.0f} TFLOP/s"
        found.append(Figure(f"{what}, {size.name}, MFU", shares, "%", goal, detail=detail))
    return found
