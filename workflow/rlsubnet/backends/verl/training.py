"""One run on verl from files to files: what ``rlsubnet train_verl`` does."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlsubnet.backends.processes import alone_in, run_checked, started
from rlsubnet.backends.rows import check_bfloat16, check_mask_fits, check_mask_given
from rlsubnet.backends.verl import prompts
from rlsubnet.backends.verl.checkpoints import check_rotary, merge_step
from rlsubnet.backends.verl.keeper import Keeper
from rlsubnet.backends.verl.metrics import read_metrics
from rlsubnet.backends.verl.overrides import Places, command
from rlsubnet.backends.verl.report import read_report
from rlsubnet.backends.verl.resuming import find_package, go_on_or_begin, what_bits_depend_on
from rlsubnet.checkpoints.delta_source import StoredWeights
from rlsubnet.checkpoints.store import Checkpoint
from rlsubnet.files import replacing, sha256, write_csv, write_json
from rlsubnet.training.runlog import ONLINE_METRICS, git_commit

# Seconds between two looks at what verl has saved.
INTERVAL = 5.0


class Outputs(NamedTuple):
    """What a run leaves; each is complete or absent.

    Attributes:
        model: Hugging Face folder of the last step, with ``manifest.json``.
        metrics: CSV file, one row a step.
        steps: folder of the models saved along the run, as deltas against its start, or None.
    """

    model: Path
    metrics: Path
    steps: Path | None = None


def check_start(row: Mapping[str, Any], init: Path, mask: Path | None) -> Checkpoint:
    """Return the checkpoint that a run starts from, once it is known that verl can train it.

    Raises:
        ValueError: mask and row contradict each other, weights are not bfloat16, so that verl's
            saves would differ from them everywhere, transformers 4 would read the config
            otherwise, or the mask does not fit.
    """
    check_mask_given(row["run"], row["mask"], mask)
    start = Checkpoint(init)
    check_bfloat16(start)
    check_rotary(init)
    if mask is not None:
        check_mask_fits(start, mask)
    return start


def environment(row: Mapping[str, Any], places: Places) -> dict[str, str]:
    """Return the variables that verl, and the processes that Ray starts for it, need besides."""
    path = os.pathsep.join(filter(None, (str(places.package), os.environ.get("PYTHONPATH"))))
    wandb = row["wandb"]["mode"]
    return {
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "HYDRA_FULL_ERROR": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Prompts as read before lie here: those of this run alone.
        "HF_HOME": str(places.scratch / "huggingface"),
        # Whatever is not here is an error, never a download.
        "HF_HUB_OFFLINE": "1",
        "VERL_FILE_LOGGER_PATH": str(places.log),
        "WANDB_MODE": wandb,
        "WANDB_DIR": str(places.scratch.parent),
    }


def run_verl(
    row: Mapping[str, Any],
    places: Places,
    python: Path,
    threads: int | None,
    keeper: Keeper,
    lock: int,
) -> None:
    """Train, and keep what is saved meanwhile; verl's output goes where ours goes.

    Args:
        row: of the run.
        places: where everything lies.
        python: interpreter of verl's environment.
        threads: CPUs that Ray may count on; None is all of the machine.
        keeper: looks after the saves.
        lock: from :func:`rlsubnet.backends.processes.alone_in`.

    Raises:
        ValueError: it ended with an error.
    """
    words = command(row, places, str(python), threads)
    with started(words, places.scratch, environment(row, places), [lock]) as process:
        status = None
        while status is None:
            keeper.keep_finished()
            try:
                status = process.wait(INTERVAL)
            except subprocess.TimeoutExpired:
                continue
    if status:
        raise ValueError(f"run {row['run']}: verl ended with status {status}; its words are above")


def run_training(
    row: Mapping[str, Any],
    places: Places,
    data: Path,
    python: Path,
    outputs: Outputs,
    threads: int | None = None,
) -> None:
    """Train one run on the GPUs of one node or several; a run that was killed goes on.

    Args:
        row: from :func:`rlsubnet.backends.verl.row.parse_row`.
        places: where everything lies; what a killed run left in ``places.scratch`` is used, and the
            folder is gone at the end.
        data: prompts, JSON lines.
        python: interpreter of verl's environment.
        outputs: what to write.
        threads: CPUs that Ray may count on; None is all of the machine.

    Raises:
        ValueError: the row, a file, verl's environment or their combination is wrong, or the
            training failed; the message names it.
    """
    run, every = row["run"], row["recipe"]["checkpoint_every"]
    if bool(every) != (outputs.steps is not None):
        raise ValueError(f"run {run}: checkpoint_every is {every}, --steps is {outputs.steps}")
    start = check_start(row, places.init, places.mask)
    prompts.check_prompts(data, row)
    inputs = {
        "init": start.digest(),
        "data": sha256(data),
        "mask": None if places.mask is None else sha256(places.mask),
    }
    with alone_in(places.scratch) as lock:
        find_package(places)
        variables = environment(row, places)
        report = read_report(python, variables)
        belongs_to = {**what_bits_depend_on(row), "inputs_sha256": inputs, **report}
        save = go_on_or_begin(places, belongs_to)
        words = [str(python), "-m", prompts.__name__, str(data), str(places.prompts)]
        run_checked(words, variables, f"{data}: writing it as Parquet")

        def merge(actor: Path, out: Path) -> None:
            merge_step(actor, places.init, out, python, variables)

        deltas = None if outputs.steps is None else places.steps
        keeper = Keeper(StoredWeights(places.init), places.saves, places.log, deltas, every, merge)
        if save is not None:
            print(f"{run}: resumed after step {save.step}", file=sys.stderr, flush=True)
        if save is None or not save.last:
            started_from = places._replace(resumed=None if save is None else save.folder)
            run_verl(row, started_from, python, threads, keeper, lock)
        rows = read_metrics(places.log, row["recipe"])
        final = places.scratch / "final"
        last = keeper.finish(final)
        if last != len(rows):
            raise ValueError(f"run {run}: verl made {len(rows)} steps, its last save is {last}")
        write_json(final / "manifest.json", manifest(row, inputs, last, report))
        # All stays here until everything is there: an error on the way, such as a full disk, costs
        # no training.
        write_csv(outputs.metrics, rows, ONLINE_METRICS)
        if deltas is not None and outputs.steps is not None:
            place(deltas, outputs.steps)
        place(final, outputs.model)
        places.belongs_to.unlink()
        shutil.rmtree(places.scratch)


def place(folder: Path, target: Path) -> None:
    """Give the files of ``folder`` second names in ``target``; on another file system, copies."""
    with replacing(target) as temporary:
        shutil.copytree(folder, temporary, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def manifest(
    row: Mapping[str, Any], inputs: Mapping[str, str | None], steps: int, report: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a checkpoint was made from."""
    return {
        "row": dict(row),
        "steps": steps,
        "inputs_sha256": dict(inputs),
        "git_commit": git_commit(),
        **report,
    }
