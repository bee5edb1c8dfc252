"""Subcommands of the paper's items, one each; where results were made; two folders of results."""

import argparse
from pathlib import Path

from rlsubnet.columns import MachineRow, names
from rlsubnet.commands.shared import Subcommands, add_command, add_config_files, add_path
from rlsubnet.files import write_csv
from rlsubnet.items import ITEMS

_FILES = (
    "Reads results files only: no checkpoint, no torch. Items of which this scale has no rows "
    "print the paper's values and 'not run at this scale'."
)

# What tables and figures are made with.
_DRAWING = ("pandas", "matplotlib", "scipy")


def add_commands(subcommands: Subcommands) -> None:
    """Add a subcommand for each item of `ITEMS`, then `machines` and `compare`."""
    for name, item in ITEMS.items():
        files = " and ".join(f"DIR/{file}" for file in item.files.values())
        parser = add_command(
            subcommands,
            name,
            run_item,
            description=f"Write {files}: {item.summary}. {_FILES}",
            example=f"rlsubnet {name} --config config/demo/config.yaml --results results/demo",
            needs=_DRAWING,
        )
        add_config_files(parser)
        below = "folder of the results files; the item is written below it"
        add_path(parser, "--results", "DIR", below)

    parser = add_command(subcommands, "machines", run_machines)
    final = "folder `final` of a run"
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help=final)
    add_path(parser, "--out", "FILE", "CSV to write")

    parser = add_command(subcommands, "compare", run_compare, needs=_DRAWING)
    parser.add_argument("results", type=Path, metavar="RESULTS", help="yours")
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help="what they stand beside")
    stem = "write STEM.csv, .md, .tex and .html (default: RESULTS/tables/comparison)"
    add_path(parser, "--out", "STEM", stem, required=False)


def run_item(options: argparse.Namespace) -> None:
    from rlsubnet.config import load_config, load_scale
    from rlsubnet.data import load_published
    from rlsubnet.report.results import Results
    from rlsubnet.report.write import write_item

    config = load_config(options.config)
    published = load_published()
    paths = write_item(options.command, load_scale(config), Results(options.results), published)
    print("\n".join(str(path) for path in paths))


def run_machines(options: argparse.Namespace) -> None:
    """Write where each of several runs was made: CPU or GPU, how it summed, versions and commit,
    from the manifest.json of its model folder. One row per run.

    Example:
      rlsubnet machines work/demo/runs/*/final --out results/demo/machines.csv
    """
    from rlsubnet.machine import machine_rows

    write_csv(options.out, machine_rows(options.folders), names(MachineRow))


def run_compare(options: argparse.Namespace) -> None:
    """Set a results folder beside a reference: every verdict's word, every headline number of the
    tables with both values, the interval that the reference prints and whether yours lies inside,
    and both machines. Reads DIR/tables/*.csv and DIR/machines.csv alone. Another CPU sums in
    another order, so that other digits are to be expected where the words should stay.

    Example:
      rlsubnet compare results/demo results/reference/demo
    """
    from rlsubnet.report.comparison import compare, summary, write_comparison

    frame = compare(options.results, options.reference)
    paths = write_comparison(frame, options.out or options.results / "tables" / "comparison")
    print(f"{options.results} beside {options.reference}:")
    print("\n".join([*summary(frame), f"  whole: {', '.join(map(str, paths))}"]))
