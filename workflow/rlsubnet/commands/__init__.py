"""Subcommands, grouped by area; each module offers ``add_commands(subcommands)``.

Modules here import only argparse and light helpers at the top: a subcommand imports what it needs
(torch, transformers, matplotlib) when it runs, so that ``--help`` and the differ stay quick.
"""

from rlsubnet.commands import (
    card,
    comparing,
    data,
    deltas,
    evaluate,
    measuring,
    pipeline,
    reporting,
    train,
)

_MEASURING = (measuring, deltas, card)
_REPORTING = (reporting, comparing)
COMMAND_MODULES = (data, train, *_MEASURING, evaluate, *_REPORTING, pipeline)
