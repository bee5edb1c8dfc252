"""A run's saves: when one is due, which are whole, and that nothing of them is missing.

A save is a folder of :data:`SAVES`. One that can be resumed from holds all that the next step
depends on, others the policy's weights alone. It counts once it has a marker, written last, which
lists its files, and once the log has its step: verl logs a step after saving it.
"""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from rlsubnet.files import write_json

MARKER = "saved.json"
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


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def mark_saved(folder: Path, resumable: bool, last: bool) -> None:
    """Mark a save as finished, once all of its files are written."""
    told = {"resumable": resumable, "last": last, "bytes": _sizes(folder)}
    write_json(folder / MARKER, told)


def finished_saves(saves: Path, logged: int) -> list[Save]:
    """Return the saves that are whole, in the order of their steps.

    Args:
        saves: folder that verl saves into.
        logged: steps in the log.
    """
    found = []
    for marker in saves.glob(f"{_FOLDER}*/{MARKER}"):
        told, step = json.loads(marker.read_text()), int(marker.parent.name[len(_FOLDER) :])
        if step <= logged:
            found.append(Save(marker.parent, step, told["resumable"], told["last"]))
    return sorted(found, key=lambda save: save.step)


def check_save(save: Save) -> None:
    """Check that the files of a save are those that were written, by name and size.

    Raises:
        ValueError: they are not; the message names the first that differs.
    """
    written = json.loads((save.folder / MARKER).read_text())["bytes"]
    found = _sizes(save.folder)
    for name in sorted(set(written) | set(found)):
        if written.get(name) != found.get(name):
            raise ValueError(
                f"{save.folder / name}: damaged: {written.get(name)} bytes were saved, "
                f"found {found.get(name)}"
            )


def remove_save(folder: Path) -> None:
    """Remove a save; interrupted, it no longer counts as one."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder)
