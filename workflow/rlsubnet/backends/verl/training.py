"""One run by verl: what is checked, started, kept meanwhile, gone on from and collected."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rlsubnet.backends.processes import (
    find_python,
    is_marked,
    link_package,
    remove,
    run_checked,
    run_to_end,
)
from rlsubnet.backends.trainers import check_start, take_up
from rlsubnet.backends.verl.command import Places, check_prompts, command, read_report
from rlsubnet.backends.verl.saves import (
    Save,
    check_rotary,
    due,
    finished_saves,
    logged_steps,
    merge_step,
    read_metrics,
)
from rlsubnet.checkpoints.delta import STEP_FILES, step_file, step_number
from rlsubnet.checkpoints.delta_pack import pack
from rlsubnet.checkpoints.sources import FileSource
from rlsubnet.config.layout import RunFiles
from rlsubnet.config.model import Row, VerlRecipe
from rlsubnet.files import replacing
from rlsubnet.training.runlog import ONLINE_METRICS


@dataclass(frozen=True)
class Keeper:
    """Merges, packs and deletes what verl saves, while it trains.

    The disk holds the newest save, the newest that can be resumed from, and the one under way. At
    7.6e9 weights these are 30 GB each, or 91 (PRIME: 183) where they can be resumed from; a merged
    model is 15 GB and a delta about 1.5 GB.
    """

    places: Places
    every: int  # steps between two models that are kept; 0: the last alone
    merge: Callable[[Path, Path], None]

    def keep_finished(self) -> None:
        """Pack every finished save but the newest; delete those that are no longer needed."""
        finished = self._finished()
        needed = [save for save in finished if save.resumable][-1:]
        for save in finished[:-1]:
            merged = self.places.scratch / "merged"
            if due(save.step, self.every) and self._pack(save, merged):
                shutil.rmtree(merged)
            if save not in needed:
                remove(save.folder)

    def finish(self, out: Path) -> int:
        """Merge the last save, which must be of the last step, into ``out`` and return its step."""
        self.keep_finished()
        finished = self._finished()
        if not (finished and finished[-1].last):
            raise ValueError(f"{self.places.saves}: verl ended well and did not save its last step")
        if not self._pack(finished[-1], out):
            self.merge(finished[-1].actor, out)
        self._check_steps(finished[-1].step)
        return finished[-1].step

    def _check_steps(self, last: int) -> None:
        if not self.every:
            return
        expected = [step for step in range(1, last + 1) if due(step, self.every) or step == last]
        names = map(step_file, expected)
        if missing := [name for name in names if not (self.places.steps / name).exists()]:
            raise ValueError(
                f"{self.places.steps}: saved steps are missing: {', '.join(missing)}; "
                f"delete {self.places.scratch} to start from the beginning"
            )

    def _finished(self) -> list[Save]:
        return finished_saves(self.places.saves, logged_steps(self.places.log))

    def _pack(self, save: Save, merged: Path) -> bool:
        """Merge a save and write its delta; return whether that was still to be done."""
        delta = self.places.steps / step_file(save.step)
        if not self.every or delta.exists():
            return False
        self.merge(save.actor, merged)
        pack(FileSource(self.places.init), FileSource(merged), delta)
        return True


def environment(row: Row[VerlRecipe], places: Places) -> dict[str, str]:
    """Return the variables of verl and of the processes that Ray starts for it."""
    path = os.pathsep.join(filter(None, (str(places.package), os.environ.get("PYTHONPATH"))))
    return {
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONUNBUFFERED": "1",
        "HYDRA_FULL_ERROR": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Prompts as read before lie here: those of this run alone.
        "HF_HOME": str(places.scratch / "huggingface"),
        # Whatever is not here is an error, never a download.
        "HF_HUB_OFFLINE": "1",
        "VERL_FILE_LOGGER_PATH": str(places.log),
        "WANDB_MODE": row.wandb["mode"],
        "WANDB_DIR": str(places.scratch.parent),
    }


class Verl:
    """Trains one run by verl: see :class:`rlsubnet.backends.trainers.Trainer`."""

    columns = ONLINE_METRICS

    def __init__(
        self,
        row: Row[VerlRecipe],
        files: RunFiles,
        python: str = "",
        nodes: int = 1,
        threads: int | None = None,
    ) -> None:
        assert files.init is not None, "the sheets were checked for it"
        self._row, self._data, self._threads = row, files.data.absolute(), threads
        self._python = find_python(python, "VERL_PYTHON")
        mask = None if files.mask is None else files.mask.absolute()
        self.places = Places(files.init.absolute(), files.scratch.absolute(), mask, nodes)

    def check(self) -> None:
        check_start(self.places.init, self.places.mask)
        check_rotary(self.places.init)
        check_prompts(self._data, self._row)

    def environment(self) -> dict[str, Any]:
        """Return device and versions of verl's environment, in which this package is then found."""
        link_package(self.places.package)
        self._variables = environment(self._row, self.places)
        return read_report(self._python, self._variables)

    def train(self, belongs_to: Mapping[str, Any], lock: int) -> list[dict[str, Any]]:
        """Train, and keep what is saved meanwhile; verl's output goes where ours goes."""
        run, places = self._row.run, self.places
        save = resume_or_start(places, belongs_to)
        words = [str(self._python), "-m", "rlsubnet.backends.verl.command"]
        words += [str(self._data), str(places.prompts)]
        run_checked(words, f"{self._data}: writing it as Parquet", self._variables)
        self._keeper = Keeper(places, self._row.recipe.checkpoint_every, self._merge)
        if save is not None:
            print(f"{run}: resumed after step {save.step}", file=sys.stderr, flush=True)
        if save is None or not save.last:
            places = places._replace(resumed=save and save.folder)
            run_to_end(
                command(self._row, places, str(self._python), self._threads),
                f"run {run}: verl",
                self._variables,
                self._keeper.keep_finished,
                cwd=places.scratch,
                pass_fds=[lock],
            )
        return read_metrics(places.log, self._row.recipe)

    def _merge(self, actor: Path, out: Path) -> None:
        merge_step(actor, self.places.init, out, self._python, self._variables)

    def collect(self, folder: Path) -> dict[str, Any]:
        """Make the folder of the last save; the save stays until all is written."""
        return {"steps": self._keeper.finish(folder)}


def resume_or_start(places: Places, belongs_to: Mapping[str, Any]) -> Save | None:
    """Return the save that a run goes on from, None where it begins; nothing else is left.

    What came after that save is removed: it will come again. So is all that was half written.
    """
    saves = finished_saves(places.saves, logged_steps(places.log))
    while saves and not (saves[-1].resumable or saves[-1].last):
        saves.pop()
    kept = (places.saves.name, places.steps.name, places.log.name, places.package.name)
    if not take_up(places.scratch, [save.folder for save in saves], belongs_to, kept):
        return None
    _remove_after(places, saves[-1].step)
    return saves[-1]


def _remove_after(places: Places, step: int) -> None:
    """Remove what a run left of the steps after ``step``, and saves that were not finished.

    verl's own note of its newest save goes, too: it may be empty, which verl does not read.
    """
    for path in places.saves.iterdir():
        if not is_marked(path) or step_number(path) > step:
            remove(path)
    for path in places.steps.glob("*"):
        if not path.match(STEP_FILES) or step_number(path) > step:
            path.unlink()
    with places.log.open("rb") as stream, replacing(places.log) as temporary:
        temporary.write_bytes(b"".join(islice(stream, step)))
