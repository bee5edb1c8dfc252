"""What subcommands on two checkpoints share: their arguments, and opening the pair."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlsubnet.checkpoints.compare import Pair

CHECKPOINT_HELP = "Hugging Face folder (sharded or not) or one .safetensors or .bin file"


def open_pair(options: argparse.Namespace) -> "Pair":
    """Return the pair INIT, TUNED; a mismatch raises ValueError."""
    from rlsubnet.checkpoints.compare import pair_checkpoints
    from rlsubnet.checkpoints.store import Checkpoint

    common_rows = getattr(options, "common_rows", ())
    return pair_checkpoints(Checkpoint(options.init), Checkpoint(options.tuned), common_rows)


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
