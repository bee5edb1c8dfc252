"""Subcommands that train one row of the sheet of runs, each with its own trainer."""

import argparse
from pathlib import Path

from rlsubnet.commands.shared import Subcommands, add_command

NATIVE = """\
Train one run on one device, of all weights or of a subnetwork. The row names the algorithm:
pretrain, sft, rft, dpo, dpo_norm, simpo, kto, orpo, or, on verified responses of its own, grpo,
raft, ppo, prime.

Writes a Hugging Face folder (bfloat16 weights, config, tokenizer, manifest.json) and the metrics of
every optimizer step. A run that was killed starts again from the state in --resume and ends with
the same bits; the state is removed once the run is complete. Progress goes to stderr."""


def _add_train(subcommands: Subcommands) -> None:
    """Add ``train``."""
    parser = add_command(
        subcommands,
        "train",
        run_native,
        "rlsubnet train dpo_sub --row @row.json --init work/demo/runs/sft/final\n"
        "    --data work/demo/data/preferences.jsonl --mask work/demo/masks/dpo.safetensors\n"
        "    --resume work/demo/runs/dpo_sub/resume --out work/demo/runs/dpo_sub/final\n"
        "    --metrics results/demo/metrics/dpo_sub.csv",
        NATIVE,
        needs=("torch", "transformers"),
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


def run_native(options: argparse.Namespace) -> None:
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


OPEN_INSTRUCT = """\
Train one run with DPO by open-instruct under DeepSpeed ZeRO-3, on the GPUs of this machine or of
several, of all weights or of a subnetwork. Its script is run unmodified, from a checkout at the
recipe's commit and by the interpreter of its own environment (envs/open-instruct.yaml).

Writes a Hugging Face folder (bfloat16 weights, config and tokenizer of the start, manifest.json)
and the metrics of every optimizer step. A run that was killed goes on from its last save
(recipe key save_every), unless row, inputs or environment are others: that is refused."""


def _add_open_instruct(subcommands: Subcommands) -> None:
    """Add ``train_open_instruct``."""
    parser = add_command(
        subcommands,
        "train_open_instruct",
        run_open_instruct,
        "rlsubnet train_open_instruct dpo_sub --row @row.json --checkout open-instruct\n"
        "    --init work/paper/models/Llama-3.1-Tulu-3-8B-SFT --data work/paper/data/tulu.jsonl\n"
        "    --mask work/paper/masks/dpo.safetensors\n"
        "    --scratch work/paper/runs/dpo_sub/open_instruct\n"
        "    --out work/paper/runs/dpo_sub/final --metrics results/paper/metrics/dpo_sub.csv",
        OPEN_INSTRUCT,
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


def run_open_instruct(options: argparse.Namespace) -> None:
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


VERL = """\
Train one run with PRIME or GRPO on the GPUs of one node or several, of all weights or of a
subnetwork, by verl 0.6.1 (envs/verl.yaml). Writes a Hugging Face folder (bfloat16 weights, config
and tokenizer of the start, manifest.json), the metrics of every step, and with `checkpoint_every`
in the recipe the models along the run as deltas. verl's saves are merged, packed and deleted while
it trains. A run that was killed goes on from the last save that is whole."""


def _add_verl(subcommands: Subcommands) -> None:
    """Add ``train_verl``."""
    parser = add_command(
        subcommands,
        "train_verl",
        run_verl,
        "rlsubnet train_verl prime_sub --row @row.json --init work/paper/models/Qwen2.5-Math-7B\n"
        "    --data work/paper/data/gsm8k_math.jsonl --mask work/paper/masks/prime.safetensors\n"
        "    --scratch work/paper/runs/prime_sub/verl\n"
        "    --out work/paper/runs/prime_sub/final --metrics results/paper/metrics/prime_sub.csv",
        VERL,
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


def run_verl(options: argparse.Namespace) -> None:
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


def add_commands(subcommands: Subcommands) -> None:
    """Add this area's subcommands."""
    for add in (_add_train, _add_open_instruct, _add_verl):
        add(subcommands)
