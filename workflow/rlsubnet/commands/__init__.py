"""Subcommands, grouped by area; each module offers ``add_commands(subcommands)``.

Modules here import only argparse and light helpers at the top: a subcommand imports what it needs
(torch, transformers, matplotlib) when it runs, so that ``--help`` and the differ stay quick.
"""

from rlsubnet.commands import (
    card,
    comparing,
    data,
    deltas,
    downloading,
    evaluating,
    measuring,
    olmes,
    open_instruct,
    pipeline,
    published,
    reporting,
    training,
    verl,
)

_PREPARING = (downloading, data, published)
_TRAINING = (training, open_instruct, verl)
_EVALUATING = (evaluating, olmes)
_MEASURING = (measuring, deltas, card)
_REPORTING = (reporting, comparing)
COMMAND_MODULES = (*_PREPARING, *_TRAINING, *_MEASURING, *_EVALUATING, *_REPORTING, pipeline)
