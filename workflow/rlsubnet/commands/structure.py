"""Subcommands on the structure of updates: rank, and trajectory along a run."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsubnet.commands._device import chosen_device
from rlsubnet.commands._pair import LOCAL_HELP, add_pair, open_pair
from rlsubnet.commands._parser import add_command
from rlsubnet.threads import MOST_THREADS, bound_linear_algebra, checked_threads

if TYPE_CHECKING:
    from rlsubnet.checkpoints.pair import Pair
    from rlsubnet.checkpoints.structure import MatrixRank

RANK_COLUMNS = [
    "tensor",
    "layer",
    "matrix",
    "rows",
    "cols",
    "rank",
    "max_rank",
    "stable_rank",
    "effective_rank",
    "rank_of_random_control",
]
TRAJECTORY_COLUMNS = [
    "step",
    "sparsity",
    "step_sparsity",
    "updated_outside_final",
    "never",
    "cancelled",
    "subnetwork",
]


def _rank_row(rank: "MatrixRank") -> dict[str, Any]:
    return {
        "tensor": rank.tensor,
        "layer": "" if rank.place.layer is None else rank.place.layer,
        "matrix": rank.place.matrix,
        "rows": rank.shape[0],
        "cols": rank.shape[1],
        "rank": rank.measured.rank,
        "max_rank": rank.max_rank,
        "stable_rank": repr(rank.measured.stable_rank),
        "effective_rank": repr(rank.measured.effective_rank),
        "rank_of_random_control": rank.control,
    }


def _rank_rows(pair: "Pair", seed: int, device: str) -> list[dict[str, Any]]:
    from rlsubnet.checkpoints.differ import tensors_by_part
    from rlsubnet.checkpoints.structure import matrix_ranks

    found = {
        name: list(matrix_ranks(pair, name, seed, device))
        for names in tensors_by_part(pair)
        for name in names
    }
    rows = [_rank_row(rank) for name in pair.shapes for rank in found[name]]
    if not rows:
        raise ValueError(f"{pair.init.path}: no matrix to take a rank of")
    return rows


def run_rank(options: argparse.Namespace) -> None:
    """Print the mean update rank, and write the ranks of all matrices when asked."""
    if options.seed < 0:
        raise ValueError(f"--seed must be 0 or more, found {options.seed}")
    # Before numpy is imported: its linear algebra asks for the number of threads once.
    bound_linear_algebra(checked_threads(options.threads))
    from rlsubnet.files import write_csv
    from rlsubnet.measure.rank import mean_rank_share

    rows = _rank_rows(open_pair(options), options.seed, chosen_device(options.device))
    if options.out:
        write_csv(options.out, rows, RANK_COLUMNS)
    mean = mean_rank_share((row["rank"], row["max_rank"]) for row in rows)
    control = mean_rank_share((row["rank_of_random_control"], row["max_rank"]) for row in rows)
    print(f"mean update rank {mean:.2%} of the maximum over {len(rows)} matrices")
    print(f"random control   {control:.2%} (same number and sizes of changes, random positions)")


def add_saved_steps(parser: argparse.ArgumentParser) -> None:
    """Add SAVED, what :func:`rlsubnet.checkpoints.delta.find_steps` takes."""
    parser.add_argument(
        "saved",
        nargs="+",
        metavar="SAVED",
        help="saved steps: the folder of step files that `rlsubnet train --steps` wrote, delta "
        "files, or full checkpoints; the last number in a name is the step",
    )


def run_trajectory(options: argparse.Namespace) -> None:
    """Classify weights over the saved steps of a run."""
    from rlsubnet.checkpoints.checkpoint import Checkpoint
    from rlsubnet.checkpoints.delta import find_steps, open_steps
    from rlsubnet.checkpoints.structure import measure_trajectory
    from rlsubnet.files import write_csv

    init = Checkpoint(options.init)
    steps = open_steps(init, find_steps(options.saved, options.steps))
    counts = measure_trajectory(init, list(steps.values()))
    rows = [
        {
            "step": step,
            "sparsity": repr(1 - count.subnetwork / count.numel),
            "step_sparsity": repr(1 - count.moved / count.numel),
            "updated_outside_final": repr(count.updated_outside_final / count.numel),
            "never": count.never,
            "cancelled": count.cancelled,
            "subnetwork": count.subnetwork,
        }
        for step, count in zip(steps, counts, strict=True)
    ]
    write_csv(options.out, rows, TRAJECTORY_COLUMNS)
    last = counts[-1]
    for label, number in (
        ("never updated", last.never),
        ("cancelled", last.cancelled),
        ("subnetwork", last.subnetwork),
    ):
        print(f"{label:<14} {number / last.numel:.2%}")


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add rank and trajectory."""
    parser = add_command(
        subcommands,
        "rank",
        run_rank,
        "rank of every update matrix (Table 2) beside a random control",
        "rlsubnet rank models/sft runs/dpo/final --out ranks.csv",
        "Rank of every update matrix as the authors take it: bfloat16 difference, float32\n"
        "singular values, tolerance max(rows, columns) * eps. The integers are those of torch's\n"
        "matrix_rank, which is asked for matrices at the edge of the tolerance alone. Layer norms\n"
        "and vectors do not count. The control moves as many weights by the same amounts at\n"
        "random positions: a rank just below a square matrix's maximum is an artefact of the\n"
        "tolerance when the control has it too.",
    )
    add_pair(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the random control (default: 0)")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of the linear algebra (default: OMP_NUM_THREADS, else all processors, at "
        f"most {MOST_THREADS})",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where large matrices are worked on; auto takes a GPU that is there (default: auto)",
    )
    parser.add_argument("--out", type=Path, metavar="CSV", help="write one row per matrix")

    parser = add_command(
        subcommands,
        "trajectory",
        run_trajectory,
        "classify weights over the saved steps of a run: never updated, cancelled, subnetwork",
        "rlsubnet trajectory models/sft runs/grpo/steps --out trajectory.csv",
        "Classify weights over the saved steps of a run by their bits (Figures 2, 5 and 6).\n"
        "Shares are fractions of all weights; never, cancelled and subnetwork are counts up\n"
        "to that step, so that the last row is the run's.",
    )
    parser.add_argument("init", metavar="INIT", help=f"the start: {LOCAL_HELP}")
    add_saved_steps(parser)
    parser.add_argument("--steps", type=int, nargs="+", help="step numbers, one per saved step")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV", help="one row per step")
