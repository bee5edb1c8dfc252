"""Subcommand ``delta``: a tuned checkpoint as a sparse change of its init, lossless."""

import argparse
import json
from pathlib import Path

from rlsubnet.commands._pair import CHECKPOINT_HELP
from rlsubnet.commands._parser import add_command

DESCRIPTION = """\
Store a tuned checkpoint as what differs from its init: which weights changed, and by how many steps
of their type. Lossless: every file of the tuned folder comes back byte by byte. Checked by digest:
each block is decoded again while it is packed, and a delta opens with its own init alone. At 77 %
sparsity it is about a tenth of a bfloat16 checkpoint. Memory does not grow with the model."""


def _add_out(parser: argparse.ArgumentParser, what: str) -> None:
    """Add OUT, the last path or --out as the other commands have it."""
    parser.add_argument("place", nargs="?", type=Path, metavar="OUT", help=what)
    parser.add_argument("--out", type=Path, metavar="OUT", help="the same")


def _out(options: argparse.Namespace) -> Path:
    """Return OUT.

    Raises:
        ValueError: it is missing, or given twice.
    """
    given = [path for path in (options.place, options.out) if path is not None]
    if len(given) != 1:
        raise ValueError(f"expected one OUT, found {len(given)}: {', '.join(map(str, given))}")
    return Path(given[0])


def run_pack(options: argparse.Namespace) -> None:
    """Write the delta of a pair and say how large it is."""
    from rlsubnet.checkpoints.checkpoint import open_source
    from rlsubnet.checkpoints.delta_file import Delta
    from rlsubnet.checkpoints.delta_pack import pack
    from rlsubnet.commands._delta_summary import notes, size_line

    out = _out(options)
    pack(open_source(options.init), open_source(options.tuned), out)
    delta = Delta(out)
    print(size_line(delta))
    for line in notes(delta):
        print(f"note: {line}")


def run_unpack(options: argparse.Namespace) -> None:
    """Write the tuned checkpoint as a Hugging Face folder."""
    from rlsubnet.checkpoints.checkpoint import open_source
    from rlsubnet.checkpoints.delta import unpack

    unpack(open_source(options.init), options.delta, _out(options))


def run_show(options: argparse.Namespace) -> None:
    """Print what a delta holds: by layer, matrix kind and tensor, and its files."""
    from rlsubnet.checkpoints.delta_file import Delta
    from rlsubnet.commands._delta_summary import as_json, summary

    delta = Delta(options.delta)
    delta.check_data()
    print(json.dumps(as_json(delta), indent=2) if options.json else summary(delta))


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add delta and its three actions."""
    parser = add_command(
        subcommands,
        "delta",
        run_show,
        "store a tuned checkpoint as its sparse, lossless difference from init",
        "rlsubnet delta pack models/sft runs/dpo/final dpo.delta\n"
        "  rlsubnet delta show dpo.delta\n"
        "  rlsubnet delta unpack models/sft dpo.delta dpo",
        DESCRIPTION,
    )
    actions = parser.add_subparsers(
        required=True, metavar="ACTION", help="pack, unpack or show; each has its own --help"
    )

    pack = add_command(
        actions,
        "pack",
        run_pack,
        "write the delta of a pair of checkpoints",
        "rlsubnet delta pack models/sft runs/dpo/final dpo.delta",
    )
    pack.add_argument("init", metavar="INIT", help=f"before finetuning: {CHECKPOINT_HELP}")
    pack.add_argument("tuned", metavar="TUNED", help="after finetuning: the same kinds")
    _add_out(pack, "delta to write")

    unpack = add_command(
        actions,
        "unpack",
        run_unpack,
        "write init + delta as a Hugging Face folder",
        "rlsubnet delta unpack models/sft dpo.delta dpo",
        "Write init + delta as the Hugging Face folder that was packed: the same files with the\n"
        "same bytes, compared by digest. Init may be laid out in other shards than it was.",
    )
    unpack.add_argument("init", metavar="INIT", help=f"before finetuning: {CHECKPOINT_HELP}")
    unpack.add_argument("delta", metavar="DELTA", help="what `rlsubnet delta pack` wrote")
    _add_out(unpack, "folder to make")

    show = add_command(
        actions,
        "show",
        run_show,
        "print which share of each tensor changed, and the size beside a full copy",
        "rlsubnet delta show dpo.delta",
    )
    show.add_argument("delta", metavar="DELTA", help="what `rlsubnet delta pack` wrote")
    show.add_argument("--json", action="store_true", help="print all of it as JSON")
