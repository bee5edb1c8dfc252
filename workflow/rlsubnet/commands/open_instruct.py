"""Subcommand ``train_open_instruct``: one row of the sheet of runs, by open-instruct."""

import argparse
from pathlib import Path

from rlsubnet.commands._parser import add_command

DESCRIPTION = """\
Train one run with DPO by open-instruct under DeepSpeed ZeRO-3, on the GPUs of this machine or of
several, of all weights or of a subnetwork. Its script is run unmodified, from a checkout at the
recipe's commit and by the interpreter of its own environment (envs/open-instruct.yaml).

Writes a Hugging Face folder (bfloat16 weights, config and tokenizer of the start, manifest.json)
and the metrics of every optimizer step. A run that was killed goes on from its last save
(recipe key save_every), unless row, inputs or environment are others: that is refused."""


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``train_open_instruct``."""
    parser = add_command(
        subcommands,
        "train_open_instruct",
        run_train,
        "train one run by open-instruct: DPO on several GPUs, full or only a subnetwork",
        "rlsubnet train_open_instruct dpo_sub --row @row.json --checkout open-instruct\n"
        "    --init work/paper/models/Llama-3.1-Tulu-3-8B-SFT --data work/paper/data/tulu.jsonl\n"
        "    --mask work/paper/masks/dpo.safetensors\n"
        "    --scratch work/paper/runs/dpo_sub/open_instruct\n"
        "    --out work/paper/runs/dpo_sub/final --metrics results/paper/metrics/dpo_sub.csv",
        DESCRIPTION,
    )
    # Not `run`: that is the function of the subcommand.
    parser.add_argument("name", metavar="RUN", help="name of the run, as in the row")
    parser.add_argument(
        "--row",
        required=True,
        metavar="JSON",
        help="the resolved row: run, backend, algorithm, init, data, recipe, seed, mask, "
        "architecture, wandb; or @FILE that holds it",
    )
    parser.add_argument(
        "--checkout",
        type=Path,
        metavar="DIR",
        help="clone of open-instruct at the recipe's commit (default: $OPEN_INSTRUCT_DIR)",
    )
    parser.add_argument(
        "--python",
        type=Path,
        metavar="FILE",
        help="interpreter of open-instruct's environment (default: $OPEN_INSTRUCT_PYTHON, else "
        "the one that runs this)",
    )
    parser.add_argument(
        "--init", type=Path, required=True, metavar="DIR", help="folder to start from"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="JSON lines of chosen, rejected"
    )
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="train only the weights in this mask"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of this run alone, with the saves that a killed run goes on from; removed at "
        "the end",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="model folder to write"
    )
    parser.add_argument(
        "--metrics", type=Path, required=True, metavar="FILE", help="CSV file to write"
    )
    parser.add_argument(
        "--nodes",
        type=int,
        default=1,
        metavar="N",
        help="of the Slurm job that this runs in; they share the recipe's processes (default: 1)",
    )


def run_train(options: argparse.Namespace) -> None:
    """Train and write the model and its metrics."""
    from rlsubnet.backends.rows import open_instruct_row

    row = open_instruct_row(options.name, options.row)
    from rlsubnet.backends.open_instruct.command import Places
    from rlsubnet.backends.open_instruct.training import find_checkout, run_training
    from rlsubnet.backends.processes import find_python

    places = Places(
        checkout=find_checkout(options.checkout),
        python=find_python(options.python, "OPEN_INSTRUCT_PYTHON"),
        init=options.init.absolute(),
        data=options.data.absolute(),
        scratch=options.scratch.absolute(),
        mask=None if options.mask is None else options.mask.absolute(),
        nodes=options.nodes,
    )
    run_training(row, places, options.out, options.metrics)
