"""Seconds of work on a device, and how figures are made of them."""

import time
from collections.abc import Callable, Sequence
from functools import cache
from statistics import median

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


@cache
def product_rate(device: torch.device, edge: int = 8192) -> float:
    """Return the operations a second of a large bfloat16 product, the most that a step can have."""
    noise = torch.Generator(device).manual_seed(0)
    factors = torch.randn(2, edge, edge, generator=noise, device=device).bfloat16()
    (times,) = in_turn([lambda: factors[0] @ factors[1]], device, repeats=5, times=10)
    return 2 * edge**3 / median(times)


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

    Beside it the share of what a product reaches on this device, which no data sheet says.

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
        product = product_rate(device)
        detail = (
            f"{flops / 1e12:.1f} TFLOP a step; {name}: {peak / 1e12:.0f} TFLOP/s; "
            f"{spread([share * peak / product for share in shares], '%')} of a product's "
            f"{product / 1e12:.0f} TFLOP/s, measured"
        )
        found.append(Figure(f"{what}, {size.name}, MFU", shares, "%", goal, detail=detail))
    return found
