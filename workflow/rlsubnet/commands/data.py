"""Subcommand ``data``: one data set of the config."""

import argparse
from pathlib import Path

from rlsubnet.commands._parser import add_command

EXAMPLE = """rlsubnet data arith500 \\
      --spec '{"kind": "problems", "per_level": [9, 9, 9, 9, 9], "split": "test", "seed": 999}' \\
      --out work/demo/data/arith500.jsonl"""


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this area's subcommands."""
    parser = add_command(
        subcommands,
        "data",
        run_data,
        "make one data set, as JSON lines",
        EXAMPLE,
        "Make one data set of the config, one JSON object a line. Everything follows from the seed "
        "in the specification; prompts of different splits never coincide.",
    )
    parser.add_argument("name", metavar="NAME", help="name of the data set")
    parser.add_argument(
        "--spec",
        required=True,
        metavar="JSON",
        help="its entry in the config's data: as JSON, or @FILE",
    )
    parser.add_argument(
        "--policy",
        type=Path,
        metavar="DIR",
        help="model folder whose samples are needed (kinds preferences, rejection_samples)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="JSON-lines file")


def run_data(options: argparse.Namespace) -> None:
    """Make the data set and write it."""
    from rlsubnet.files import read_object, sha256, write_jsonl
    from rlsubnet.tasks.datasets import build

    records, summary = build(options.name, read_object("--spec", options.spec), options.policy)
    write_jsonl(options.out, records)
    print(f"{summary}, sha256 {sha256(options.out)[:12]}")
