"""Subcommand ``train``: one row of the sheet of runs, by the trainer that it names."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlsubnet.commands.shared import Subcommands, add_command, add_config, add_device, read_scale

if TYPE_CHECKING:
    from rlsubnet.backends.trainers import Trainer
    from rlsubnet.config.layout import RunFiles
    from rlsubnet.config.model import Row


def add_commands(subcommands: Subcommands) -> None:
    parser = add_command(subcommands, "train", run_train, needs=("torch", "transformers"))
    # Not `run`: that is the function of the subcommand.
    parser.add_argument("name", metavar="RUN", help="name of the run, a row of the sheet")
    add_config(parser)
    add_device(parser, "of the native trainer")
    cpus = "CPUs that verl may use; by default all of the machine"
    parser.add_argument("--threads", type=int, metavar="N", help=cpus)


def run_train(options: argparse.Namespace) -> None:
    """Train one run, of all weights or of a subnetwork. Everything follows from the sheets: the
    algorithm, its hyperparameters, and where the run reads and writes. Its recipe's key `backend`
    names the trainer: `native`, this package's own, on one device; `open_instruct` or `verl`, other
    projects' programs, on the GPUs of this machine or of the several nodes of a Slurm job, each run
    by the interpreter of its own environment (config key `backends`, or $OPEN_INSTRUCT_DIR,
    $OPEN_INSTRUCT_PYTHON and $VERL_PYTHON).

    Writes work/runs/RUN/final, a Hugging Face folder (bfloat16 weights, config, tokenizer,
    manifest.json), and results/metrics/RUN.csv, a row for every optimizer step; with
    checkpoint_every also work/runs/RUN/steps, the models along the run as deltas (see `rlsubnet
    delta`). A run that was killed starts again from its last saved state and ends with the same
    bits; if row, inputs or environment are others, that is refused. Progress goes to stderr.

    Example:
      rlsubnet train dpo_sub --config config/demo/config.yaml
    """
    from rlsubnet.config.errors import unknown_name

    scale = read_scale(options)  # before torch is loaded: a fault in the sheets fails at once
    if options.name not in scale.runs:
        raise ValueError(unknown_name("run", options.name, scale.runs))

    from rlsubnet.backends.trainers import run_training
    from rlsubnet.config.layout import run_files

    row, files = scale.row(options.name), run_files(scale, options.name)
    trainer = trainer_of(row, files, scale.config, options.device, options.threads)
    run_training(row, files, trainer)


def trainer_of(
    row: "Row[Any]",
    files: "RunFiles",
    config: Mapping[str, Any],
    device: str = "auto",
    threads: int | None = None,
) -> "Trainer":
    if row.backend == "native":
        from rlsubnet.training.run import NativeTrainer

        return NativeTrainer(row, files, device)
    nodes = config["resources"][f"train_{row.backend}"]["nodes"]
    installed = config["backends"][row.backend]
    if row.backend == "open_instruct":
        from rlsubnet.backends.open_instruct.training import OpenInstruct

        return OpenInstruct(row, files, installed["checkout"], installed["python"], nodes)
    from rlsubnet.backends.verl.training import Verl

    return Verl(row, files, installed["python"], nodes, threads)
