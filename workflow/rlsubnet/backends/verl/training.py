"""One run on verl from files to files: what ``rlsubnet train_verl`` does."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rlsubnet.backends.processes import (
    LOCK,
    STAYING,
    alone_in,
    check_whole,
    is_marked,
    link_package,
    remove_save,
    run_checked,
    started,
)
from rlsubnet.backends.rows import check_bfloat16, check_mask_fits, check_mask_given
from rlsubnet.backends.verl.command import Places, check_prompts, command, read_report
from rlsubnet.backends.verl.saves import (
    Save,
    check_rotary,
    due,
    finished_saves,
    keep_steps,
    logged_steps,
    merge_step,
    read_metrics,
)
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta import STEP_FILES, step_file, step_number
from rlsubnet.checkpoints.delta_pack import pack
from rlsubnet.checkpoints.sources import LocalFiles
from rlsubnet.config.model import VerlRecipe
from rlsubnet.files import read_object, replacing, sha256, write_csv, write_json
from rlsubnet.training.journal import check_same_run
from rlsubnet.training.runlog import ONLINE_METRICS, git_commit

# Writes a save's actor folder as a Hugging Face folder.
Merge = Callable[[Path, Path], None]


class Keeper:
    """Merges, packs and deletes what verl saves, while it trains.

    The disk holds the newest save, the newest that can be resumed from, and the one under way. At
    7.6e9 weights these are 30 GB each, or 91 (PRIME: 183) where they can be resumed from; a merged
    model is 15 GB and a delta about 1.5 GB.

    Args:
        init: what the run started from.
        saves: folder that verl saves into.
        log: steps that verl has logged.
        steps: folder of the deltas, or None where only the last step is wanted.
        every: steps between two deltas; the last step is one, too.
        merge: writes one save as a model folder.
    """

    def __init__(
        self,
        init: LocalFiles,
        saves: Path,
        log: Path,
        steps: Path | None,
        every: int,
        merge: Merge,
    ) -> None:
        self._init, self._saves, self._log = init, saves, log
        self._steps, self._every, self._merge = steps, every, merge

    def keep_finished(self) -> None:
        """Pack every finished save but the newest; delete those that are no longer needed."""
        finished = self._finished()
        needed = [save for save in finished if save.resumable][-1:]
        for save in finished[:-1]:
            merged = self._saves.parent / "merged"
            if due(save.step, self._every) and self._pack(save, merged):
                shutil.rmtree(merged)
            if save not in needed:
                remove_save(save.folder)

    def finish(self, out: Path) -> int:
        """Merge the last save into ``out`` and return its step; the save stays.

        Raises:
            ValueError: verl did not save the last step, or a delta is missing.
        """
        self.keep_finished()
        finished = self._finished()
        if not (finished and finished[-1].last):
            raise ValueError(f"{self._saves}: verl ended well and did not save its last step")
        if not self._pack(finished[-1], out):
            self._merge(actor_folder(finished[-1]), out)
        self._check_steps(finished[-1].step)
        return finished[-1].step

    def _check_steps(self, last: int) -> None:
        if self._steps is None:
            return
        expected = [step for step in range(1, last + 1) if due(step, self._every) or step == last]
        names = map(step_file, expected)
        if missing := [name for name in names if not (self._steps / name).exists()]:
            raise ValueError(
                f"{self._steps}: saved steps are missing: {', '.join(missing)}; "
                f"delete {self._saves.parent} to start from the beginning"
            )

    def _finished(self) -> list[Save]:
        return finished_saves(self._saves, logged_steps(self._log))

    def _pack(self, save: Save, merged: Path) -> bool:
        """Merge a save and write its delta; return whether that was still to be done."""
        if self._steps is None or (self._steps / step_file(save.step)).exists():
            return False
        self._merge(actor_folder(save), merged)
        pack(self._init, LocalFiles(merged), self._steps / step_file(save.step))
        return True


def actor_folder(save: Save) -> Path:
    """Return where the policy's files of a save lie."""
    return save.folder / "actor"


def what_bits_depend_on(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row without what changes no bit of the result: logging and saving.

    >>> what_bits_depend_on({"run": "r", "wandb": {}, "recipe": {"lr": 1e-6, "save_every": 20}})
    {'run': 'r', 'recipe': {'lr': 1e-06}}
    """
    marks = VerlRecipe.marked("changes")
    recipe = {k: v for k, v in row["recipe"].items() if marks.get(k) != "nothing"}
    return {**{key: row[key] for key in row if key != "wandb"}, "recipe": recipe}


def find_package(places: Places) -> None:
    """Let this package be found in the run's own folder."""
    _remove(places.package)
    link_package(places.package)


def go_on_or_begin(places: Places, belongs_to: Mapping[str, Any]) -> Save | None:
    """Return the save that a run goes on from, None where it begins; nothing else is left.

    What came after that save is removed: it will come again. So is all that was half written.

    Args:
        places: where everything lies; the package is linked already.
        belongs_to: what the run follows from (row, digests of inputs, versions): the run that was
            killed must have the same.

    Raises:
        ValueError: the saves belong to another run or other inputs, or one of them is damaged; the
            message says what differs and what to delete.
    """
    saves: list[Save] = []
    if places.belongs_to.exists():
        saves = finished_saves(places.saves, logged_steps(places.log))
    while saves and not (saves[-1].resumable or saves[-1].last):
        saves.pop()
    newest = saves[-1] if saves else None
    kept = {places.package, places.scratch / LOCK, places.scratch / STAYING}
    if newest is not None:
        saved = read_object("a killed run", f"@{places.belongs_to}")
        check_same_run(places.belongs_to, saved, belongs_to, places.scratch)
        for save in saves:
            check_whole(save.folder, places.scratch)
        kept |= {places.saves, places.steps, places.log, places.belongs_to}
        _remove_after(places, newest.step)
    for path in places.scratch.iterdir():
        if path not in kept:
            _remove(path)
    write_json(places.belongs_to, belongs_to)
    return newest


def _remove_after(places: Places, step: int) -> None:
    """Remove what a run left of the steps after ``step``, and saves that were not finished.

    verl's own note of its newest save goes, too: it may be empty, which verl does not read.
    """
    for path in places.saves.iterdir():
        if not path.is_dir():
            path.unlink()
        elif not is_marked(path) or step_number(path) > step:
            remove_save(path)
    for path in places.steps.glob("*"):
        if not path.match(STEP_FILES) or step_number(path) > step:
            path.unlink()
    keep_steps(places.log, step)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# Seconds between two looks at what verl has saved.
INTERVAL = 5.0
# What verl's interpreter runs to write prompts.
COMMAND = "rlsubnet.backends.verl.command"


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
        row: from :func:`rlsubnet.backends.rows.verl_row`.
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
    check_prompts(data, row)
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
        words = [str(python), "-m", COMMAND, str(data), str(places.prompts)]
        run_checked(words, variables, f"{data}: writing it as Parquet")

        def merge(actor: Path, out: Path) -> None:
            merge_step(actor, places.init, out, python, variables)

        deltas = None if outputs.steps is None else places.steps
        keeper = Keeper(LocalFiles(places.init), places.saves, places.log, deltas, every, merge)
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
