"""One run from files to files: what ``rlsubnet train_open_instruct`` does."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlsubnet.backends.open_instruct.command import (
    AUTO_CLIP,
    DEEPSPEED_CONFIG,
    SCRIPT,
    Places,
    command,
    deepspeed_config,
    environment,
)
from rlsubnet.backends.open_instruct.launcher import REPORT, STEPS
from rlsubnet.backends.open_instruct.saving import SCRIPT_MARKER, complete_saves
from rlsubnet.backends.processes import (
    LOCK,
    alone_in,
    check_whole,
    link_package,
    read_marker,
    started,
)
from rlsubnet.backends.rows import check_bfloat16, check_mask_fits, check_mask_given
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.pair import export_trained
from rlsubnet.config.model import OpenInstructRecipe, Row
from rlsubnet.files import (
    iterate_jsonl,
    read_jsonl,
    read_object,
    replacing,
    sha256,
    write_csv,
    write_json,
)
from rlsubnet.tasks.rows import check_messages
from rlsubnet.training.journal import check_same_run
from rlsubnet.training.runlog import METRICS, git_commit, metrics_row


def output_folder(row: Row[OpenInstructRecipe], places: Places) -> Path:
    """Return the folder that the script writes saves and weights to, as the launcher names it."""
    return places.output / f"{row.run}__{row.seed}"


def _leave_only(kept: Path) -> None:
    """Remove what lies beside a file or folder."""
    for path in list(kept.parent.iterdir()):
        if path == kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def go_on_or_begin(row: Row[OpenInstructRecipe], places: Places, inputs: Mapping[str, Any]) -> int:
    """Return the step after which a run goes on, 0 where it begins; its folder then holds no more.

    A save that was not finished is removed; without a finished one, so is all that was left.

    Args:
        row: the run.
        places: where everything lies.
        inputs: digests of start, data and mask.

    Raises:
        ValueError: what was left is another run's, or a file of the save is damaged; the message
            says what to delete.
    """
    belongs_to = json.loads(json.dumps({**row.bits_follow_from(), "inputs_sha256": inputs}))
    # With another seed the folder had another name: found as well, and then refused.
    saves = [save for folder in places.output.glob("*") for save in complete_saves(folder)]
    if not saves:
        _leave_only(places.scratch / LOCK)
        write_json(places.belongs_to, belongs_to)
        return 0
    file, save = places.belongs_to, saves[-1]
    check_same_run(file, read_object("a killed run", f"@{file}"), belongs_to, places.scratch)
    check_whole(save, places.scratch)
    _leave_only(save.parent)
    _leave_only(save)
    for folder in (places.records, places.package):
        if folder.exists():
            shutil.rmtree(folder)
    # A process killed between the two markers has not written the script's own.
    (save / SCRIPT_MARKER).touch()
    return int(read_marker(save)["step"])


def find_checkout(option: Path | None) -> Path:
    """Return the absolute folder of open-instruct: the option, else ``$OPEN_INSTRUCT_DIR``.

    Raises:
        ValueError: neither is set, or there is no training script.
    """
    named = option or Path(os.environ.get("OPEN_INSTRUCT_DIR", ""))
    if named == Path():
        raise ValueError(
            "no checkout of open-instruct: set backends.open_instruct.checkout in the config, "
            "or the environment variable OPEN_INSTRUCT_DIR"
        )
    if not (named / SCRIPT).is_file():
        raise ValueError(f"{named}: not a checkout of open-instruct, there is no {SCRIPT}")
    return named.resolve()


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(f"{checkout}: git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def check_checkout(checkout: Path, commit: str) -> None:
    """Check that a checkout is at a commit and its code is unmodified.

    Raises:
        ValueError: it is not; says how to get there.
    """
    if (found := _git(checkout, "rev-parse", "HEAD")) != commit:
        raise ValueError(
            f"{checkout}: expected commit {commit}, found {found}; run git checkout {commit} "
            "there, or name another one in the recipe's key commit"
        )
    code = ("--", "open_instruct", "configs")
    if changed := _git(checkout, "status", "--porcelain", "--untracked-files=no", *code):
        raise ValueError(f"{checkout}: files differ from commit {commit}: {changed.split()[1::2]}")


def check_start(row: Row[OpenInstructRecipe], init: Path, mask: Path | None) -> None:
    """Check that a run can start and, masked, that its result can be compared with its start.

    Raises:
        ValueError: mask and row contradict each other, ``init`` is no folder, or a masked run
            would start from weights that bfloat16 changes, or that the mask does not fit.
    """
    check_mask_given(row.run, row.mask, mask)
    if not (init / "config.json").is_file():
        raise ValueError(f"run {row.run}, --init: {init} has no config.json")
    if mask is not None:
        checkpoint = Checkpoint(init)
        check_bfloat16(checkpoint)
        check_mask_fits(checkpoint, mask)


def check_pairs(data: Path, batch_size: int) -> None:
    """Check that there is one batch of pairs, so that no GPU waits for nothing.

    Raises:
        ValueError: naming the line of the file, or the number of pairs.
    """
    first = list(itertools.islice(iterate_jsonl(data), batch_size))
    if len(first) < batch_size:
        raise ValueError(f"{data}: {len(first)} pairs, expected a batch of {batch_size}")
    for number, record in enumerate(first, start=1):
        for side in ("chosen", "rejected"):
            check_messages(record.get(side), f"{data}, line {number}, {side}")


def prepare(row: Row[OpenInstructRecipe], places: Places) -> None:
    """Make in the run's own folder what the command needs."""
    places.records.mkdir(parents=True)
    link_package(places.package)
    if row.recipe.clip != AUTO_CLIP:
        template = read_object(
            "DeepSpeed's configuration", f"@{places.checkout / DEEPSPEED_CONFIG}"
        )
        write_json(places.deepspeed_config(row.recipe), deepspeed_config(template, row.recipe.clip))


def run_command(row: Row[OpenInstructRecipe], places: Places, lock: int) -> None:
    """Run the training; its output goes where ours goes.

    Args:
        row: the run.
        places: where everything lies.
        lock: from :func:`rlsubnet.backends.processes.alone_in`.

    Raises:
        ValueError: it ended with an error.
    """
    words, variables = command(row, places), environment(row, places)
    with started(words, places.checkout, variables, [lock]) as process:
        status = process.wait()
    if status:
        raise ValueError(
            f"run {row.run}: open-instruct ended with status {status}; its words are above"
        )


def find_output(row: Row[OpenInstructRecipe], places: Places) -> Path:
    """Return the folder of the trained weights.

    Raises:
        ValueError: there is none.
    """
    folder = output_folder(row, places)
    if not folder.is_dir():
        raise ValueError(f"{folder}: open-instruct ended well and wrote no weights there")
    return folder


def read_metrics(records: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return rows of the metrics, and the launcher's report.

    Raises:
        ValueError: a step is missing: the records are not those of a whole run.
    """
    report = read_object("the launcher's report", f"@{records / REPORT}")
    lines = read_jsonl(records / STEPS)
    steps = [line["step"] for line in lines]
    if steps != list(range(1, report["steps"] + 1)):
        raise ValueError(
            f"{records / STEPS}: expected steps 1 to {report['steps']}, found {len(steps)}, "
            f"the last {steps[-1:] or 'none'}"
        )
    return [metrics_row(METRICS, **line) for line in lines], report


def manifest(
    row: Row[OpenInstructRecipe], inputs: Mapping[str, Any], report: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a checkpoint was made from; the commit of open-instruct is the recipe's."""
    return {
        "row": row.as_dict(),
        "batch_size": row.recipe.batch_size,
        "inputs_sha256": dict(inputs),
        "git_commit": git_commit(),
        **report,
    }


def run_training(row: Row[OpenInstructRecipe], places: Places, out: Path, metrics: Path) -> None:
    """Train one run; ``out`` and ``metrics`` are complete or absent. A run that was killed goes on.

    Args:
        row: the run.
        places: where everything lies; what a killed run left in ``places.scratch`` is used, and the
            folder is gone at the end.
        out: Hugging Face folder to write, with ``manifest.json``.
        metrics: CSV file to write.

    Raises:
        ValueError: the row, a file, the checkout or their combination is wrong, or the training
            failed; the message names it.
    """
    check_checkout(places.checkout, row.recipe.commit)
    check_start(row, places.init, places.mask)
    check_pairs(places.data, row.recipe.batch_size)
    inputs = {
        "init": Checkpoint(places.init).digest(),
        "data": sha256(places.data),
        "mask": None if places.mask is None else sha256(places.mask),
    }
    with alone_in(places.scratch) as lock:
        if step := go_on_or_begin(row, places, inputs):
            print(f"{row.run}: resumed after step {step}", file=sys.stderr, flush=True)
        prepare(row, places)
        run_command(row, places, lock)
        rows, report = read_metrics(places.records)
        with replacing(out) as folder:
            folder.mkdir()
            export_trained(places.init, find_output(row, places), folder)
            write_json(folder / "manifest.json", manifest(row, inputs, report))
        write_csv(metrics, rows, METRICS)
        shutil.rmtree(places.scratch)
