"""One process, one thread: ranks of updates of several shapes by us and by torch, in turn.

usage: python -m benchmarks.rank_speed REPEATS
Prints JSON, per shape: the ranks found, and seconds (wall, CPU) of each way. Updates move a fifth
of the weights by one bfloat16 step.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from rlsubnet.threads import bound_linear_algebra

bound_linear_algebra(1)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.timing import in_turn, timed  # noqa: E402
from rlsubnet.measure.bfloat16 import to_bfloat16  # noqa: E402
from rlsubnet.measure.numerical_rank import numerical_rank, rank_by_torch  # noqa: E402
from rlsubnet.measure.rank import update_delta, update_rank  # noqa: E402

# Attention, feed-forward and its way back, at the widths of models of 0.25B, 1B and 8B.
SHAPES = ((1024, 1024), (2048, 2048), (4096, 4096), (5504, 2048), (2048, 5504))
DENSITY = 0.2
# Beyond, torch takes ten seconds and more: timed once.
LARGE = 2048


def one_step_update(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Return the update of normal weights of which DENSITY moved to a neighbor."""
    rng = np.random.default_rng(seed)
    init = to_bfloat16((0.02 * rng.standard_normal(shape)).astype(np.float32))
    up = np.where(rng.random(shape) < 0.5, init + np.uint16(1), init - np.uint16(1))
    moved = (rng.random(shape) < DENSITY) & ((init & 0x7FFF) != 0)
    return update_delta(init, np.where(moved, up, init))


def measured(shape: tuple[int, int], repeats: int) -> dict[str, Any]:
    """Return the ranks that the ways find, and their seconds; of LARGE matrices without warming."""
    delta, ranks = one_step_update(shape), set()
    ways: dict[str, Callable[[], object]] = {
        "torch": lambda: ranks.add(rank_by_torch(delta)),
        "rank": lambda: ranks.add(numerical_rank(delta).rank),
        "rank, stable and effective rank": lambda: ranks.add(update_rank(delta).rank),
    }
    if min(shape) > LARGE:
        seconds = {way: [timed(action)] for way, action in ways.items()}
    else:
        seconds = in_turn(ways, repeats)
    return {"ranks": sorted(ranks), "seconds": seconds}


def main() -> None:
    """Time every shape."""
    torch.set_num_threads(1)
    repeats = int(sys.argv[1])
    print(json.dumps({f"{m}x{n}": measured((m, n), repeats) for m, n in SHAPES}))


if __name__ == "__main__":
    main()
