"""One process, one thread: ranks of updates of several shapes by us and by torch, in turn.

usage: python -m benchmarks.rank_speed REPEATS
Prints JSON, per matrix: the ranks found, how, and seconds (wall, CPU) of each way. Updates move a
fifth of the weights by one bfloat16 step.
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
from rlsubnet.measure.formats import to_bfloat16  # noqa: E402
from rlsubnet.measure.rank import numerical_rank, rank_by_torch, update_delta, update_rank  # noqa: E402  # noqa: E402

# Rows, columns and seed: attention, feed-forward and its way back, at the widths of models of
# 0.25B, 1B and 8B. Of the two large ones, the first has a singular value at the tolerance.
CASES = (
    (1024, 1024, 0),
    (2048, 2048, 0),
    (4096, 4096, 0),
    (4096, 4096, 1),
    (5504, 2048, 0),
    (2048, 5504, 0),
)
DENSITY = 0.2
# Beyond, torch takes ten seconds and more: timed once.
LARGE = 2048


def one_step_update(shape: tuple[int, int], seed: int) -> np.ndarray:
    """Return the update of normal weights of which DENSITY moved to a neighbor."""
    rng = np.random.default_rng(seed)
    init = to_bfloat16((0.02 * rng.standard_normal(shape)).astype(np.float32))
    up = np.where(rng.random(shape) < 0.5, init + np.uint16(1), init - np.uint16(1))
    moved = (rng.random(shape) < DENSITY) & ((init & 0x7FFF) != 0)
    return update_delta(init, np.where(moved, up, init))


def measured(rows: int, columns: int, seed: int, repeats: int) -> dict[str, Any]:
    """Return the ranks that the ways find, how, and their seconds; LARGE matrices once, cold."""
    delta, ranks = one_step_update((rows, columns), seed), set()
    how: set[str] = set()

    def ours() -> None:
        found = numerical_rank(delta)
        ranks.add(found.rank)
        how.add(found.how)

    ways: dict[str, Callable[[], object]] = {
        "torch": lambda: ranks.add(rank_by_torch(delta)),
        "rank": ours,
        "rank, stable and effective rank": lambda: ranks.add(update_rank(delta).rank),
    }
    if min(rows, columns) > LARGE:
        seconds = {way: [timed(action)] for way, action in ways.items()}
    else:
        seconds = in_turn(ways, repeats)
    shape = f"{rows}x{columns}"
    return {"shape": shape, "ranks": sorted(ranks), "how": how.pop(), "seconds": seconds}


def main() -> None:
    """Time every matrix."""
    torch.set_num_threads(1)
    print(json.dumps([measured(*case, int(sys.argv[1])) for case in CASES]))


if __name__ == "__main__":
    main()
