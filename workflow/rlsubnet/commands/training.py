"""Subcommand ``train``: one row of the sheet of runs."""

import argparse
from pathlib import Path

from rlsubnet.commands._parser import add_command

DESCRIPTION = """\
Train one run on one device, of all weights or of a subnetwork. The row names the algorithm:
pretrain, sft, rft, dpo, dpo_norm, simpo, kto, orpo, or, on verified responses of its own, grpo,
raft, ppo, prime.

Writes a Hugging Face folder (bfloat16 weights, config, tokenizer, manifest.json) and the metrics of
every optimizer step. A run that was killed starts again from the state in --resume and ends with
the same bits; the state is removed once the run is complete. Progress goes to stderr."""


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add ``train``."""
    parser = add_command(
        subcommands,
        "train",
        run_train,
        "train one run: full, or with a mask only a subnetwork",
        "rlsubnet train dpo_sub --row @row.json --init work/demo/runs/sft/final\n"
        "    --data work/demo/data/preferences.jsonl --mask work/demo/masks/dpo.safetensors\n"
        "    --resume work/demo/runs/dpo_sub/resume --out work/demo/runs/dpo_sub/final\n"
        "    --metrics results/demo/metrics/dpo_sub.csv",
        DESCRIPTION,
    )
    # Not `run`: that is the function of the subcommand.
    parser.add_argument("name", metavar="RUN", help="name of the run, as in the row")
    parser.add_argument(
        "--row",
        required=True,
        metavar="JSON",
        help="the resolved row: run, algorithm, init, data, recipe, seed, mask, architecture, "
        "wandb; or @FILE that holds it",
    )
    parser.add_argument(
        "--init", type=Path, metavar="DIR", help="folder to start from; absent for pretraining"
    )
    parser.add_argument(
        "--data", type=Path, required=True, metavar="FILE", help="JSON-lines file to learn from"
    )
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="train only the weights in this mask"
    )
    parser.add_argument(
        "--resume", type=Path, required=True, metavar="DIR", help="where the state is saved"
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="model folder to write"
    )
    parser.add_argument(
        "--metrics", type=Path, required=True, metavar="FILE", help="CSV file to write"
    )
    parser.add_argument(
        "--steps",
        type=Path,
        metavar="DIR",
        help="folder to write of the models saved along the run, if the recipe has "
        "checkpoint_every: deltas against --init (see `rlsubnet delta`)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto takes the GPU if there is one (default)",
    )


def run_train(options: argparse.Namespace) -> None:
    """Train and write the model and its metrics."""
    from rlsubnet.config.model import parse_row

    row = parse_row(options.name, options.row)  # before torch is loaded: a bad row fails at once
    from rlsubnet.training.run import run_training

    run_training(
        row,
        data=options.data,
        resume=options.resume,
        out=options.out,
        metrics=options.metrics,
        init=options.init,
        mask=options.mask,
        steps=options.steps,
        device=options.device,
    )
