"""Subcommands ``check`` and ``plan``: may jobs start from this config, and what would they cost?"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rlsubnet.commands._parser import add_command

if TYPE_CHECKING:
    from rlsubnet.config import Scale


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this area's subcommands."""
    parser = add_command(
        subcommands,
        "check",
        run_check,
        "validate a config and its sheets and say what they plan",
        "rlsubnet check --config config/demo/config.yaml",
        "Validate a config and its three sheets against their schemas and each other, then say "
        "in words what they plan. Sheet paths are relative to the current folder.",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        required=True,
        type=Path,
        metavar="FILE",
        help="config files, later ones laid over earlier ones",
    )

    parser = add_command(
        subcommands,
        "plan",
        run_plan,
        "say what each table and figure costs: runs, GPU hours, disk",
        "rlsubnet plan --scale paper",
        "Say for each table and figure, and for the whole scale, how many runs it needs, how many\n"
        "GPU hours these take at most (time limits times GPUs of the config's `resources`), and\n"
        "how much disk its models, runs and masks fill; then what its largest job fills while it\n"
        "runs. What items share is counted in each.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--scale", metavar="NAME", help="config/NAME/config.yaml in this folder")
    which.add_argument("--config", nargs="+", type=Path, metavar="FILE", help="as for check")


def run_plan(options: argparse.Namespace) -> None:
    """Print what a scale costs."""
    from rlsubnet.config import load_config, load_scale
    from rlsubnet.config.plan import cost_lines, item_costs

    files = options.config or [Path("config", options.scale, "config.yaml")]
    print("\n".join(cost_lines(item_costs(load_scale(load_config(files))))))


def run_check(options: argparse.Namespace) -> None:
    """Print the plan of a scale; a fault in a config or a sheet raises."""
    from rlsubnet.config import load_config, load_scale

    print("\n".join(plan_lines(load_scale(load_config(options.config)))))


def plan_lines(scale: "Scale") -> list[str]:
    """Return what a scale trains, measures and draws, in words, one line each."""
    from rlsubnet.config import ITEMS, item_files, saves_steps

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
        saved = ", saving steps" if saves_steps(scale, run.run) else ""
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
    if any(saves_steps(scale, run) for run in scale.runs):
        step_suites = ", ".join(config["evaluation"]["step_suites"]) or "nothing"
        lines.append(f"saved steps are evaluated on {step_suites}")
    lines.append(f"items with values of this scale: {', '.join(drawn) or 'none'}")
    return lines
