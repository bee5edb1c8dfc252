"""Subcommands ``status`` and ``resume``: where a run stands, and going on with it."""

import argparse
import sys
from pathlib import Path

from rlsubnet.commands._parser import add_command

STATUS = """\
Say which tables and figures of a scale are done and what the others wait for, from the files that
are there, the log of the last Snakemake in this folder and, where it used Slurm, squeue. Of failed
jobs the last lines of their logs are shown. Changes nothing."""

RESUME = """\
Go on after Snakemake, or the machine it ran on, was killed. Its Slurm jobs are cancelled (an old
job must not write beside its successor) and waited for, half-written files removed, the folder
unlocked; then Snakemake goes on. Trainings continue from their own last saved state.

Give Snakemake's arguments as for the first call; without any, the last call is repeated."""


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this area's subcommands."""
    parser = add_command(
        subcommands,
        "status",
        run_status,
        "say what is done, running, failed and missing, per table and figure",
        "rlsubnet status --config config/paper/config.yaml",
        STATUS,
    )
    parser.add_argument(
        "--config",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="config files (default: those of the last run here, else the demo's)",
    )
    parser.add_argument("--json", action="store_true", help="the same for programs")

    parser = add_command(
        subcommands,
        "resume",
        run_resume,
        "go on after a killed run: cancel what it left, unlock, continue",
        "rlsubnet resume -- --profile slurm --configfile config/paper/config.yaml",
        RESUME,
    )
    parser.add_argument(
        "--ended-elsewhere",
        action="store_true",
        help="the last run was started on another machine, and I know that it has ended",
    )
    parser.add_argument(
        "arguments", nargs="*", metavar="ARGUMENT", help="after --: what snakemake is told"
    )


def run_status(options: argparse.Namespace) -> None:
    """Print where a scale stands."""
    from rlsubnet.config import load_config, load_scale
    from rlsubnet.files import json_text
    from rlsubnet.running.processes import directors_here
    from rlsubnet.running.resume import config_files
    from rlsubnet.running.slurm import queue_of
    from rlsubnet.running.snakemake_log import runs_here
    from rlsubnet.running.status import Report, all_items, as_json, settle, status_lines

    wanted = [str(file) for file in options.config] if options.config else None
    runs = [run for run in runs_here() if run.jobs]
    runs = [run for run in runs if wanted in (None, config_files(run.arguments))]
    run = runs[-1] if runs else None
    scale = load_scale(load_config(wanted or config_files(run.arguments if run else [])))
    alive = run is not None and not run.ended and bool(directors_here())
    queue, silence = queue_of(run) if run else ({}, "")
    if run is not None:
        settle(run, queue, alive)
    report = Report(all_items(scale, run), run, queue, silence, alive)
    if options.json:
        print(json_text(as_json(report)), end="")
    else:
        print("\n".join(status_lines(report)))


def run_resume(options: argparse.Namespace) -> None:
    """Clear up and go on; ends with Snakemake's status."""
    from rlsubnet.running.resume import resume

    status = resume(options.arguments, options.ended_elsewhere)
    if status:
        sys.exit(status)
