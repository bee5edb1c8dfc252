"""Seconds of a call inside a process."""

import time
from collections.abc import Callable, Mapping

Seconds = dict[str, list[tuple[float, float]]]


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of wall and of CPU that a call took."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu


def in_turn(actions: Mapping[str, Callable[[], object]], repeats: int) -> Seconds:
    """Return (wall, CPU) of every action, ``repeats`` times, after a round that warms up."""
    found: Seconds = {name: [] for name in actions}
    for repetition in range(repeats + 1):
        for name, action in actions.items():
            seconds = timed(action)
            if repetition:
                found[name].append(seconds)
    return found
