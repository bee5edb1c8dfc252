"""One process, one thread: overlaps of two masks in memory, packed and as booleans, in turn.

usage: python -m benchmarks.overlap_speed REPEATS
Prints JSON: seconds (wall, CPU) of each way, and the bytes of both forms.
"""

import json
import sys
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.timing import in_turn
from rlsubnet.checkpoints.differ import keep_freed_memory
from rlsubnet.checkpoints.structure import MASK_CHUNK
from rlsubnet.measure.kernels import SharedBits, choose_shared_bits
from rlsubnet.measure.overlap import OverlapCounts

NUMEL = 1 << 28
DENSITIES = (0.20, 0.28)


def packed_way(masks: list[np.ndarray], way: SharedBits) -> OverlapCounts:
    """Return the sizes of two packed masks, counted in the pieces of the command."""
    total, step = OverlapCounts(), MASK_CHUNK // 8
    for start in range(0, masks[0].size, step):
        first, second = (mask[start : start + step] for mask in masks)
        total += way(first, second, 8 * first.size, None)[0]
    return total


def boolean_way(masks: list[np.ndarray], count: Callable[[np.ndarray], int]) -> OverlapCounts:
    """Return the sizes of two boolean masks."""
    first, second = masks
    return OverlapCounts(
        first.size, int(count(first)), int(count(second)), int(count(first & second))
    )


def main() -> None:
    """Make two masks, compare what is counted, and time it."""
    keep_freed_memory()
    rng = np.random.default_rng(0)
    booleans = [rng.random(NUMEL, np.float32) < density for density in DENSITIES]
    packed = [np.packbits(mask, bitorder="little") for mask in booleans]
    ways: dict[str, Callable[[], OverlapCounts]] = {
        "booleans, sum": lambda: boolean_way(booleans, np.sum),
        "booleans, count_nonzero": lambda: boolean_way(booleans, np.count_nonzero),
    }
    for kernel in ("numpy", "numba"):
        way = choose_shared_bits(kernel, NUMEL, by_exponent=False)
        ways[kernel] = partial(packed_way, packed, way)
    if len({way() for way in ways.values()}) > 1:
        raise ValueError("the ways do not count alike")
    sizes = {"packed": sum(m.nbytes for m in packed), "booleans": sum(m.nbytes for m in booleans)}
    print(json.dumps({"seconds": in_turn(ways, int(sys.argv[1])), "nbytes": sizes}))


if __name__ == "__main__":
    main()
