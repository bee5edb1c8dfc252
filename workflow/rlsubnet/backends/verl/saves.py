"""A run's saves: when one is due, and which are whole.

A save is a folder of verl's. One that can be resumed from holds all that the next step depends on,
others the policy's weights alone. It counts once it has a marker, written last, and once the log
has its step: verl logs a step after saving it.
"""

from pathlib import Path
from typing import NamedTuple

from rlsubnet.backends import saves as marked

_FOLDER = "global_step_"


class Save(NamedTuple):
    """A save that was finished.

    Attributes:
        folder: where it lies.
        step: counted from 1.
        resumable: whether a run can go on from it.
        last: whether it is of the run's last step.
    """

    folder: Path
    step: int
    resumable: bool
    last: bool


def save_folder(saves: Path, step: int) -> Path:
    """Return where verl saves a step."""
    return saves / f"{_FOLDER}{step}"


def due(step: int, every: int) -> bool:
    """Return whether something is saved after a step; with ``every`` 0 nothing is.

    >>> [step for step in range(1, 9) if due(step, 3)], due(3, 0)
    ([3, 6], False)
    """
    return every > 0 and step % every == 0


def mark_saved(folder: Path, resumable: bool, last: bool) -> None:
    """Mark a save as finished, once all of its files are written."""
    marked.mark_saved(folder, {"resumable": resumable, "last": last})


def finished_saves(saves: Path, logged: int) -> list[Save]:
    """Return the saves that are whole, in the order of their steps.

    Args:
        saves: folder that verl saves into.
        logged: steps in the log.
    """
    found = []
    for folder in filter(marked.is_marked, saves.glob(f"{_FOLDER}*")):
        told, step = marked.read_marker(folder), int(folder.name.removeprefix(_FOLDER))
        if step <= logged:
            found.append(Save(folder, step, told["resumable"], told["last"]))
    return sorted(found, key=lambda save: save.step)
