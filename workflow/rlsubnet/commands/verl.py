"""Subcommand ``train_verl``: one row of the sheet of runs, trained by verl."""

import argparse
from pathlib import Path

from rlsubnet.commands._parser import add_command

DESCRIPTION = """\
Train one run with PRIME or GRPO on the GPUs of one node or several, of all weights or of a
subnetwork, by verl 0.6.1 (envs/verl.yaml). Writes a Hugging Face folder (bfloat16 weights, config
and tokenizer of the start, manifest.json), the metrics of every step, and with `checkpoint_every`
in the recipe the models along the run as deltas. verl's saves are merged, packed and deleted while
it trains. A run that was killed goes on from the last save that is whole."""


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``train_verl``."""
    parser = add_command(
        subcommands,
        "train_verl",
        run_train_verl,
        "train one run with verl: PRIME or GRPO on several GPUs",
        "rlsubnet train_verl prime_sub --row @row.json --init work/paper/models/Qwen2.5-Math-7B\n"
        "    --data work/paper/data/gsm8k_math.jsonl --mask work/paper/masks/prime.safetensors\n"
        "    --scratch work/paper/runs/prime_sub/verl\n"
        "    --out work/paper/runs/prime_sub/final --metrics results/paper/metrics/prime_sub.csv",
        DESCRIPTION,
    )
    # Not `run`: that is the function of the subcommand.
    parser.add_argument("name", metavar="RUN", help="name of the run, as in the row")
    parser.add_argument(
        "--row", required=True, metavar="JSON", help="the resolved row, or @FILE that holds it"
    )
    parser.add_argument(
        "--init", type=Path, required=True, metavar="DIR", help="folder to start from"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="prompts, JSON lines"
    )
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="train only the weights in this mask"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="model folder to write"
    )
    parser.add_argument(
        "--metrics", type=Path, required=True, metavar="FILE", help="CSV file to write"
    )
    parser.add_argument(
        "--steps", type=Path, metavar="DIR", help="folder of the models saved along the run"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of this run alone; a run that was killed goes on from what it saved there; "
        "removed at the end",
    )
    parser.add_argument(
        "--python",
        type=Path,
        metavar="FILE",
        help="interpreter of verl's environment (default: $VERL_PYTHON, else the one that runs "
        "this)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPUs to use; by default all of the machine"
    )
    parser.add_argument(
        "--nodes",
        type=int,
        default=1,
        metavar="N",
        help="of the Slurm job that this runs in; they share the recipe's processes (default: 1)",
    )


def run_train_verl(options: argparse.Namespace) -> None:
    """Train and write the model and its metrics."""
    from rlsubnet.backends.rows import verl_row

    row = verl_row(options.name, options.row)  # before anything slow: a bad row fails at once
    from rlsubnet.backends.processes import find_python
    from rlsubnet.backends.verl.command import Places
    from rlsubnet.backends.verl.training import Outputs, run_training

    places = Places(
        init=options.init.absolute(),
        scratch=options.scratch.absolute(),
        mask=None if options.mask is None else options.mask.absolute(),
        nodes=options.nodes,
    )
    run_training(
        row,
        places,
        options.data.absolute(),
        find_python(options.python, "VERL_PYTHON"),
        Outputs(options.out, options.metrics, options.steps),
        options.threads,
    )
