"""One training run from files to files, whichever trainer its row names."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rlsubnet.backends.processes import LOCK, PACKAGE, STAYING, alone_in, check_whole, remove
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.masks import Mask
from rlsubnet.config.layout import RunFiles
from rlsubnet.config.model import Row
from rlsubnet.files import read_object, replacing, sha256, write_csv, write_json
from rlsubnet.training.journal import check_same_run
from rlsubnet.training.runlog import git_commit

# In a run's own folder: what the saves beside it follow from.
BELONGS_TO = "belongs_to.json"


class Trainer(Protocol):
    """What trains one run: a part of this package, or a program of another project.

    :func:`run_training` calls each of these once, in this order; before any of them it knows
    nothing of the run but its row and files.
    """

    @property
    def columns(self) -> Sequence[str]:
        """Return the columns of the metrics."""

    def check(self) -> None:
        """Raise ValueError where the run cannot become what was asked for."""

    def environment(self) -> dict[str, Any]:
        """Return what the result follows from besides row and inputs, as far as it is known."""

    def train(self, belongs_to: Mapping[str, Any], lock: int) -> list[dict[str, Any]]:
        """Train, or go on from what a killed run left, and return the metrics of every step.

        ``belongs_to`` is row, digests of inputs and environment: those of a killed run must be
        these. A program that is started here inherits the descriptor ``lock``, so that the run's
        own folder is its for as long as it lives.
        """

    def collect(self, folder: Path) -> dict[str, Any]:
        """Make ``folder``, the trained model, and return what the manifest says of it besides."""


def run_training(row: Row[Any], files: RunFiles, trainer: Trainer) -> None:
    """Train one run; what it writes is complete or absent. A run that was killed goes on."""
    trainer.check()
    inputs = {
        "init": None if files.init is None else Checkpoint(files.init).digest(),
        "data": sha256(files.data),
        "mask": None if files.mask is None else sha256(files.mask),
    }
    with alone_in(files.scratch) as lock:
        environment = trainer.environment()
        belongs_to = {**row.bits_follow_from(), "inputs_sha256": inputs, **environment}
        rows = trainer.train(belongs_to, lock)
        with replacing(files.model) as folder:
            found = {**environment, **trainer.collect(folder)}
            origin = {"row": row.as_dict(), "inputs_sha256": inputs, "git_commit": git_commit()}
            write_json(folder / "manifest.json", {**origin, **found})
        write_csv(files.metrics, rows, trainer.columns)
        if files.steps is not None:
            link_copy(files.scratch / "steps", files.steps)
        remove(files.scratch)


def check_start(init: Path, mask: Path | None) -> None:
    """Check that a start is in bfloat16, in which other trainers save, and that a mask fits it."""
    start = Checkpoint(init)
    for name, info in start.tensors.items():
        if info.dtype != "BF16":
            raise ValueError(
                f"{init}: tensor {name} is stored in {info.dtype}; "
                "training in bfloat16 changes all weights, frozen or not"
            )
    if mask is not None:
        shapes = {name: info.shape for name, info in start.tensors.items()}
        Mask(mask).check_shapes(shapes, str(init))


def take_up(
    scratch: Path, saves: Iterable[Path], belongs_to: Mapping[str, Any], kept: Iterable[str]
) -> bool:
    """Leave in a run's own folder what it goes on from, and return whether there is any.

    Saves of another run, or damaged ones, are refused: the error says what to delete.
    """
    file, wanted = scratch / BELONGS_TO, json.loads(json.dumps(belongs_to))
    saves = list(saves) if file.exists() else []
    names = {LOCK, STAYING, PACKAGE}
    if saves:
        saved = read_object("a killed run", f"@{file}")
        check_same_run(file, saved, wanted, scratch)
        for save in saves:
            check_whole(save, scratch)
        names |= set(kept)
    for path in scratch.iterdir():
        if path.name not in names:
            remove(path)
    write_json(file, wanted)
    return bool(saves)


def link_copy(folder: Path, target: Path) -> None:
    """Give the files of ``folder`` second names in ``target``; on another file system, copies."""
    with replacing(target) as temporary:
        shutil.copytree(folder, temporary, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
