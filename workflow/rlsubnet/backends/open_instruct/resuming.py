"""Whether a run begins or goes on from what a killed one left, decided before it is started."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlsubnet.backends.open_instruct.command import Places
from rlsubnet.backends.open_instruct.row import Row
from rlsubnet.backends.open_instruct.saving import SCRIPT_MARKER, complete_saves
from rlsubnet.backends.processes import LOCK
from rlsubnet.backends.saves import check_whole, read_marker
from rlsubnet.files import read_object, write_json
from rlsubnet.training.resume import check_same_run


def output_folder(row: Row, places: Places) -> Path:
    """Return the folder that the script writes saves and weights to, as the launcher names it."""
    return places.output / f"{row.run}__{row.seed}"


def what_bits_depend_on(row: Row) -> dict[str, Any]:
    """Return the row without what changes no bit of the result: logging and saving."""
    values = row.as_dict()
    del values["wandb"], values["recipe"]["save_every"]
    return values


def _leave_only(kept: Path) -> None:
    """Remove what lies beside a file or folder."""
    for path in list(kept.parent.iterdir()):
        if path == kept:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def go_on_or_begin(row: Row, places: Places, inputs: Mapping[str, Any]) -> int:
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
    belongs_to = json.loads(json.dumps({**what_bits_depend_on(row), "inputs_sha256": inputs}))
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
