"""Subcommands ``check``, ``plan``, ``status``, ``resume``: what a config plans, and where it is."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rlsubnet.commands.shared import Subcommands, add_command, add_config_files

if TYPE_CHECKING:
    from rlsubnet.config import Scale


def run_plan(options: argparse.Namespace) -> None:
    """Say for each table and figure, and for the whole scale, how many runs it needs, how many
    GPU hours these take at most (time limits times GPUs of the config's `resources`), and
    how much disk its models, runs and masks fill; then what its largest job fills while it
    runs. What items share is counted in each.

    Example:
      rlsubnet plan --scale paper
    """
    from rlsubnet.config import load_config, load_scale
    from rlsubnet.config.plan import cost_lines, item_costs

    files = options.config or [Path("config", options.scale, "config.yaml")]
    print("\n".join(cost_lines(item_costs(load_scale(load_config(files))))))


def run_check(options: argparse.Namespace) -> None:
    """Validate a config and its three sheets against their schemas and each other, then say in
    words what they plan. Sheet paths are relative to the current folder.

    Example:
      rlsubnet check --config config/demo/config.yaml
    """
    from rlsubnet.config import load_config, load_scale

    print("\n".join(plan_lines(load_scale(load_config(options.config)))))


def plan_lines(scale: "Scale") -> list[str]:
    """Return what a scale trains, measures and draws, in words, one line each."""
    from rlsubnet.config.layout import item_files
    from rlsubnet.items import ITEMS

    config = scale.config
    masked = sum(bool(run.mask) for run in scale.runs.values())
    drawn = [item for item in ITEMS if item_files(scale, item)]
    lines = [
        f"scale {config['scale']}: {len(config['models'])} models, "
        f"{len(config['data'])} data sets, "
        f"{len(config['recipes'])} recipes",
        f"{len(scale.runs)} runs, {masked} of them masked",
    ]
    for run in scale.runs.values():
        where = f" inside the subnetwork of {run.mask_pair}" if run.mask else ""
        if run.has_random_mask:
            where = f" inside a random subnetwork of the size of {run.mask_pair}'s"
        saved = ", saving steps" if scale.saves_steps(run.run) else ""
        lines.append(f"  {run.run}: {run.algorithm} of {run.init} on {run.data}{where}{saved}")
    lines.append(f"{len(scale.pairs)} pairs")
    for pair in scale.pairs.values():
        items = f" for {', '.join(pair.items)}" if pair.items else ""
        lines.append(f"  {pair.pair}: {pair.init} -> {pair.tuned} ({pair.method}){items}")
    lines.append(f"{len(scale.comparisons)} comparisons")
    for comparison in scale.comparisons.values():
        pairs = f"{comparison.pair1} with {comparison.pair2}"
        lines.append(f"  {comparison.comparison}: {pairs} ({comparison.axis})")
    suites = ", ".join(config["evaluation"]["suites"]) or "nothing"
    lines.append(f"every run is evaluated on {suites}")
    if any(scale.saves_steps(run) for run in scale.runs):
        step_suites = ", ".join(config["evaluation"]["step_suites"]) or "nothing"
        lines.append(f"saved steps are evaluated on {step_suites}")
    lines.append(f"items with values of this scale: {', '.join(drawn) or 'none'}")
    return lines


def run_status(options: argparse.Namespace) -> None:
    """Say which tables and figures of a scale are done and what the others wait for, from the files
    that are there, the log of the last Snakemake in this folder and, where it used Slurm, squeue.
    Of failed jobs the last lines of their logs are shown. Changes nothing.

    Example:
      rlsubnet status --config config/paper/config.yaml
    """
    from rlsubnet.config import load_config, load_scale
    from rlsubnet.files import json_text
    from rlsubnet.running.runs import config_files, directors_here, queue_of, runs_here
    from rlsubnet.running.status import Report, all_items, as_json, correct_states, status_lines

    wanted = [str(file) for file in options.config] if options.config else None
    runs = [run for run in runs_here() if wanted in (None, config_files(run.arguments))]
    run = runs[-1] if runs else None
    scale = load_scale(load_config(wanted or config_files(run.arguments if run else [])))
    alive = run is not None and not run.ended and bool(directors_here())
    queue, queue_error = queue_of(run) if run else ({}, "")
    if run is not None:
        correct_states(run, queue, alive)
    report = Report(all_items(scale, run), run, queue, queue_error, alive)
    if options.json:
        print(json_text(as_json(report)), end="")
    else:
        print("\n".join(status_lines(report)))


def run_resume(options: argparse.Namespace) -> None:
    """Go on after Snakemake, or the machine it ran on, was killed. Its Slurm jobs are cancelled (an
    old job must not write beside its successor) and waited for, half-written files removed, the
    folder unlocked; then Snakemake goes on. Trainings continue from their own last saved state.

    Give Snakemake's arguments as for the first call; without any, the last call is repeated.

    Example:
      rlsubnet resume -- --profile slurm --configfile config/paper/config.yaml
    """
    from rlsubnet.running.runs import resume

    status = resume(options.arguments, options.ended_elsewhere)
    if status:
        sys.exit(status)


def add_commands(subcommands: Subcommands) -> None:
    parser = add_command(subcommands, "check", run_check)
    add_config_files(parser, help="config files, later ones laid over earlier ones")

    parser = add_command(subcommands, "plan", run_plan)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--scale", metavar="NAME", help="config/NAME/config.yaml in this folder")
    which.add_argument("--config", nargs="+", type=Path, metavar="FILE", help="as for check")

    parser = add_command(subcommands, "status", run_status, needs=("psutil",))
    where = "config files (default: those of the last run here, else the demo's)"
    add_config_files(parser, required=False, help=where)
    parser.add_argument("--json", action="store_true", help="the same for programs")

    parser = add_command(subcommands, "resume", run_resume, needs=("psutil", "snakemake"))
    parser.add_argument(
        "--ended-elsewhere",
        action="store_true",
        help="the last run was started on another machine, and I know that it has ended",
    )
    parser.add_argument(
        "arguments", nargs="*", metavar="ARGUMENT", help="after --: arguments of snakemake"
    )
