"""One process: a pass over a pair and a plain read of the same bytes, in turn.

usage: python -m benchmarks.pass_speed INIT TUNED REPEATS KERNEL
Prints JSON: seconds of wall and CPU of each repetition.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.timing import in_turn
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.differ import diff_tensors
from rlsubnet.checkpoints.formats import CHUNK, read_stored
from rlsubnet.checkpoints.masks import MaskFile
from rlsubnet.checkpoints.pair import Pair, pair_checkpoints
from rlsubnet.measure.kernel import Request
from rlsubnet.threads import default_threads

TOLERANCES = (1e-8, 1e-7, 1e-6, 1e-5)


def plain_read(pair: Pair) -> None:
    """Read all weights in the pieces and with the threads of a pass, and do nothing with them."""
    pieces = [
        (side.tensors[name], start, min(CHUNK, pair.numel(name) - start))
        for name in pair.shapes
        for start in range(0, pair.numel(name), CHUNK)
        for side in (pair.init, pair.tuned)
    ]
    with ThreadPoolExecutor(default_threads()) as pool:
        list(pool.map(lambda piece: read_stored(*piece).size, pieces))


def main() -> None:
    """Time a plain read, the counts, counts and mask, and counts, mask and exponents, in turn."""
    init, tuned, repeats, kernel = sys.argv[1:]
    pair = pair_checkpoints(Checkpoint(init), Checkpoint(tuned))
    with tempfile.TemporaryDirectory(dir=Path(init).parent) as folder:
        mask = MaskFile(Path(folder, "m"), pair.shapes, {}, keep=False)
        passes: dict[str, Callable[[], object]] = {
            "plain read": lambda: plain_read(pair),
            "counts": lambda: diff_tensors(pair, Request(TOLERANCES), kernel=kernel),
            "counts and mask": lambda: diff_tensors(
                pair, Request(TOLERANCES), kernel=kernel, take_mask=mask.write
            ),
            "counts, mask and exponents": lambda: diff_tensors(
                pair, Request(TOLERANCES, by_exponent=True), kernel=kernel, take_mask=mask.write
            ),
        }
        # The first round warms the cache and imports the kernel.
        found = in_turn(passes, int(repeats))
        mask.discard()
    nbytes = sum(map(pair.nbytes, pair.shapes))
    print(json.dumps({"nbytes": nbytes, "seconds": found}))


if __name__ == "__main__":
    main()
