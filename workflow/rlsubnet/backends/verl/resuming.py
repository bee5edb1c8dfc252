"""Where a run goes on that was killed: its newest whole save, and what belongs to it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlsubnet.backends.processes import LOCK, STAYING, link_package
from rlsubnet.backends.saves import check_whole, is_marked, remove_save
from rlsubnet.backends.verl.metrics import keep_steps, logged_steps
from rlsubnet.backends.verl.overrides import Places
from rlsubnet.backends.verl.saves import Save, finished_saves
from rlsubnet.checkpoints.saved_steps import STEP_FILES, step_number
from rlsubnet.files import read_object, write_json
from rlsubnet.training.resume import check_same_run


def what_bits_depend_on(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row without what changes no bit of the result: logging and saving.

    >>> what_bits_depend_on({"run": "r", "wandb": {}, "recipe": {"lr": 1e-6, "save_every": 20}})
    {'run': 'r', 'recipe': {'lr': 1e-06}}
    """
    recipe = {key: value for key, value in row["recipe"].items() if key != "save_every"}
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
