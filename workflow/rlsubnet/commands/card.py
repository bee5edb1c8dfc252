"""Subcommand ``card``: all measurements of a pair on one page."""

import argparse
import sys
from pathlib import Path

from rlsubnet.commands._device import chosen_device
from rlsubnet.commands._pair import add_pair, add_pass_options, open_pair
from rlsubnet.commands._parser import add_command
from rlsubnet.threads import bound_linear_algebra, checked_threads

DESCRIPTION = """\
Write one HTML page about any two checkpoints: sparsity by tolerance, layer and matrix, ranks beside
a random control, norms, magnitudes, what the difference takes to store, the paper's models beside
it, and what to know before quoting a number. The page is one file and loads nothing."""


def run_card(options: argparse.Namespace) -> None:
    """Measure a pair and write its page."""
    if options.seed < 0:
        raise ValueError(f"--seed must be 0 or more, found {options.seed}")
    threads = checked_threads(options.threads)
    # Before numpy is imported: its linear algebra asks for the number of threads once.
    bound_linear_algebra(threads)
    from rlsubnet.card.facts import measure_facts
    from rlsubnet.card.page import card_page
    from rlsubnet.commands._progress import Progress
    from rlsubnet.files import replacing

    pair = open_pair(options)
    progress = Progress(sum(map(pair.nbytes, pair.shapes)), sys.stderr, options.progress)
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
        progress.end()
    with replacing(options.out) as temporary:
        temporary.write_text(card_page(facts), encoding="utf-8")
    print(f"{options.out}: {options.out.stat().st_size / 1000:,.0f} kB, open it in a browser")


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add card."""
    parser = add_command(
        subcommands,
        "card",
        run_card,
        "write one page of HTML about a pair: all measurements, with the paper's beside them",
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
    parser.add_argument("--seed", type=int, default=0, help="of the random control (default: 0)")
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where the ranks of large matrices are taken; auto takes a GPU (default: auto)",
    )
    add_pass_options(parser)
