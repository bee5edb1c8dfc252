"""Subcommand ``card``: all measurements of a pair on one page."""

import argparse
from pathlib import Path

from rlsubnet.commands.shared import (
    Subcommands,
    add_command,
    add_pair,
    add_pass_options,
    add_seed,
    check_seed,
    chosen_device,
    open_pair,
    progress_bar,
)
from rlsubnet.threads import bound_linear_algebra, checked_threads

DESCRIPTION = """\
Write one HTML page about any two checkpoints: sparsity by tolerance, layer and matrix, ranks beside
a random control, norms, magnitudes, what the difference takes to store, the paper's models beside
it, and what to know before quoting a number. The page is one file and loads nothing."""


def run_card(options: argparse.Namespace) -> None:
    """Measure a pair and write its page."""
    check_seed(options)
    threads = checked_threads(options.threads)
    # Before numpy is imported: its linear algebra asks for the number of threads once.
    bound_linear_algebra(threads)
    from rlsubnet.card.facts import measure_facts
    from rlsubnet.card.page import card_page
    from rlsubnet.files import replacing

    pair = open_pair(options)
    progress = progress_bar(pair, options.progress)
    try:
        facts = measure_facts(
            pair,
            ranks=not options.no_rank,
            seed=options.seed,
            kernel=options.kernel,
            threads=threads,
            device="cpu" if options.no_rank else chosen_device(options.device),
            take_progress=progress.add,
        )
    finally:
        progress.close()
    with replacing(options.out) as temporary:
        temporary.write_text(card_page(facts), encoding="utf-8")
    print(f"{options.out}: {options.out.stat().st_size / 1000:,.0f} kB, open it in a browser")


def add_commands(subcommands: Subcommands) -> None:
    """Add card."""
    parser = add_command(
        subcommands,
        "card",
        run_card,
        "rlsubnet card models/sft runs/dpo/final --out card.html",
        DESCRIPTION,
    )
    add_pair(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="HTML", help="page to write")
    parser.add_argument(
        "--no-rank",
        action="store_true",
        help="leave ranks out, by far the longest part of large models",
    )
    add_seed(parser, "the random control")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where the ranks of large matrices are taken; auto takes a GPU (default: auto)",
    )
    add_pass_options(parser)
