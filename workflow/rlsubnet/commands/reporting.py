"""Subcommands of the tables and figures: one per item of the paper, the same for all."""

import argparse
from pathlib import Path

from rlsubnet.commands._parser import add_command

# item -> what it shows; here, because the help must not import pandas.
ITEMS = {
    "table1": "update sparsity by algorithm, beside the paper's",
    "table2": "mean rank of update matrices and of a random control",
    "table3": "accuracy of full and subnetwork finetuning, with paired tests",
    "table4": "overlap of subnetworks and what chance would give",
    "table5": "update sparsity of SFT and RL, in and out of distribution",
    "table6": "update sparsity at each tolerance",
    "section4": "weights that full and subnetwork finetuning share",
    "section6": "sparsity with and without KL and clipping, and along a run",
    "gains": "accuracy of every run against its start, beside its sparsity",
    "verdicts": "each claim of the paper: what it says, what this scale shows, which word fits",
    "fig1": "update density of SFT against RL",
    "fig2": "weights never updated, cancelled, in the subnetwork",
    "fig3": "update sparsity by layer and matrix",
    "fig4": "training loss of full and subnetwork finetuning",
    "fig5": "update sparsity of saved steps",
    "fig6": "updates outside the final subnetwork over training",
    "fig7": "sparsity of saved steps and of consecutive ones",
}
_FILES = (
    "Reads waist files only: no checkpoint, no torch. Items of which this scale has no rows print "
)
_FILES += "the paper's values and 'not run at this scale'."


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add a subcommand for each item of `ITEMS`."""
    for item, summary in ITEMS.items():
        folder, suffixes = (
            ("figures", "png,pdf") if item.startswith("fig") else ("tables", "csv,md,tex")
        )
        more = " Also DIR/tables/verdicts.html and DIR/verdicts.csv." if item == "verdicts" else ""
        parser = add_command(
            subcommands,
            item,
            _run,
            summary=summary,
            description=f"Write DIR/{folder}/{item}.{{{suffixes}}}: {summary}. {_FILES}{more}",
            example=f"rlsubnet {item} --config config/demo/config.yaml --results results/demo",
            needs=("pandas", "matplotlib", "scipy"),
        )
        parser.add_argument(
            "--config",
            nargs="+",
            type=Path,
            required=True,
            metavar="FILE",
            help="config of the scale; later files are laid over earlier ones",
        )
        parser.add_argument(
            "--results",
            type=Path,
            required=True,
            metavar="DIR",
            help="folder of the waist files; the item is written below it",
        )


def _run(options: argparse.Namespace) -> None:
    from rlsubnet.config import load_config, load_scale
    from rlsubnet.data import load_published
    from rlsubnet.report.items import write_item
    from rlsubnet.report.results import Results

    config = load_config(options.config)
    published = load_published()
    paths = write_item(options.command, load_scale(config), Results(options.results), published)
    print("\n".join(str(path) for path in paths))
