"""What subcommands on two checkpoints share: their arguments, and opening the pair."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlsubnet.threads import MOST_THREADS, checked_threads

if TYPE_CHECKING:
    from rlsubnet.checkpoints.pair import Pair
    from rlsubnet.measure.kernel import Counts, Request

LOCAL_HELP = "Hugging Face folder (sharded or not) or one .safetensors or .bin file"
CHECKPOINT_HELP = f"{LOCAL_HELP}, or hf:organization/name@revision, read shard by shard"


def open_pair(options: argparse.Namespace) -> "Pair":
    """Return the pair INIT, TUNED; a mismatch raises ValueError."""
    from rlsubnet.checkpoints.checkpoint import Checkpoint, open_source
    from rlsubnet.checkpoints.pair import pair_checkpoints

    common_rows = getattr(options, "common_rows", ())
    return pair_checkpoints(
        Checkpoint(open_source(options.init)), Checkpoint(open_source(options.tuned)), common_rows
    )


def add_pair(parser: argparse.ArgumentParser, common_rows: bool = True) -> None:
    """Add INIT and TUNED, and ``--common-rows`` unless the command forbids resized tensors."""
    parser.add_argument("init", metavar="INIT", help=f"before finetuning: {CHECKPOINT_HELP}")
    parser.add_argument("tuned", metavar="TUNED", help="after finetuning: the same kinds")
    if common_rows:
        parser.add_argument(
            "--common-rows",
            nargs="+",
            action="extend",
            default=[],
            metavar="NAME",
            help="tensors whose number of rows may differ (a resized vocabulary): their common "
            "first rows are compared, and the summary says so",
        )


def add_kernel(parser: argparse.ArgumentParser) -> None:
    """Add ``--kernel``, which changes no number."""
    parser.add_argument(
        "--kernel",
        choices=("auto", "numpy", "numba"),
        default="auto",
        help="numba: compiled loops (extra fast); auto takes them where they are installed and "
        "worth their import; all give the same integers (default: auto)",
    )


def add_pass_options(parser: argparse.ArgumentParser) -> None:
    """Add how a pass over a pair is done; none of it changes a number."""
    add_kernel(parser)
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads that read and count (default: OMP_NUM_THREADS, else all processors, at most "
        f"{MOST_THREADS})",
    )
    parser.add_argument(
        "--progress",
        action="store_true",
        help="show throughput and time left on stderr (always on in a terminal)",
    )


def measure(
    pair: "Pair",
    request: "Request",
    options: argparse.Namespace,
    result: Path | None,
    mask: Path | None,
) -> "dict[str, Counts]":
    """Measure a pair as the options of ``add_pass_options`` tell."""
    from rlsubnet.checkpoints.differ import measure_update
    from rlsubnet.commands._progress import Progress

    threads = checked_threads(options.threads)
    progress = Progress(sum(map(pair.nbytes, pair.shapes)), sys.stderr, options.progress)
    try:
        return measure_update(
            pair,
            request,
            result,
            mask,
            kernel=options.kernel,
            threads=threads,
            progress=progress,
        )
    finally:
        progress.end()
