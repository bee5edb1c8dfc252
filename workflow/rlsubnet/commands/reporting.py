"""Subcommands of the tables and figures: one per item of the paper, the same for all."""

import argparse
from pathlib import Path

from rlsubnet.commands.shared import Subcommands, add_command
from rlsubnet.items import ITEMS

_FILES = (
    "Reads results files only: no checkpoint, no torch. Items of which this scale has no rows "
    "print the paper's values and 'not run at this scale'."
)


def add_commands(subcommands: Subcommands) -> None:
    """Add a subcommand for each item of `ITEMS`."""
    for name, item in ITEMS.items():
        files = " and ".join(f"DIR/{file}" for file in item.files.values())
        parser = add_command(
            subcommands,
            name,
            _run,
            description=f"Write {files}: {item.summary}. {_FILES}",
            example=f"rlsubnet {name} --config config/demo/config.yaml --results results/demo",
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
            help="folder of the results files; the item is written below it",
        )


def _run(options: argparse.Namespace) -> None:
    from rlsubnet.config import load_config, load_scale
    from rlsubnet.data import load_published
    from rlsubnet.report.results import Results
    from rlsubnet.report.write import write_item

    config = load_config(options.config)
    published = load_published()
    paths = write_item(options.command, load_scale(config), Results(options.results), published)
    print("\n".join(str(path) for path in paths))
