"""The state a killed run starts again from: one file, complete or absent."""

import errno
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from rlsubnet.files import replacing

STATE = "state.pt"


def save_state(
    folder: Path, belongs_to: Mapping[str, Any], step: int, optimizer: dict[str, Any], rows: list
) -> None:
    """Replace the state in ``folder`` by the one after optimizer step ``step``.

    Args:
        folder: where the state of one run lives.
        belongs_to: what the run follows from (row, digests of inputs, machine); the run that
            resumes must have the same.
        step: optimizer steps done.
        optimizer: masters and moments.
        rows: the metrics so far.

    Raises:
        OSError: the state cannot be written; the one before it is untouched.
    """
    state = {"belongs_to": dict(belongs_to), "step": step, "optimizer": optimizer, "rows": rows}
    with replacing(folder / STATE) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch says so of a full disk, in words of its own
            first_line, free = str(error).partition("\n")[0], shutil.disk_usage(folder).free
            raise OSError(
                f"{folder / STATE}: cannot be written, {free:,} bytes are free: {first_line}"
            ) from error


def load_state(folder: Path, belongs_to: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the state saved in ``folder``, or None if there is none.

    Raises:
        ValueError: the state belongs to another run or other inputs; the message says what
            differs and what to delete.
    """
    file = folder / STATE
    if not file.exists():
        return None
    try:
        # To the CPU: a copy on the device would double what the optimizer holds there.
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        saved = state["belongs_to"]
    except Exception as error:  # torch.load has no error of its own for a damaged file
        # Cut short, it makes torch look for the end of the archive before the file's beginning.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise ValueError(
            f"{file}: damaged, or not a saved state; delete {folder} to start from the beginning"
        ) from error
    check_same_run(file, saved, belongs_to, folder)
    return state


def check_same_run(
    file: Path, saved: Mapping[str, Any], belongs_to: Mapping[str, Any], folder: Path
) -> None:
    """Check that a state belongs to the run that is to go on from it.

    Args:
        file: that says what it belongs to, for the message.
        saved: what that is.
        belongs_to: what it must be.
        folder: to delete where the run is to start over, for the message.

    Raises:
        ValueError: they differ; the message says in what.
    """
    before, now = dict(_values(saved)), dict(_values(belongs_to))
    differing = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r}"
        for key in sorted(before | now)
        if before.get(key) != now.get(key)
    ]
    if differing:
        raise ValueError(
            f"{file}: saved by another run: {'; '.join(differing)}; "
            f"delete {folder} to start from the beginning"
        )


def _values(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, each with the names on its way.

    >>> dict(_values({"seed": 1, "recipe": {"lr": 0.5}}))
    {'seed': 1, 'recipe.lr': 0.5}
    """
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _values(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def remove_state(folder: Path) -> None:
    """Remove the folder of a run that is complete."""
    if folder.exists():
        shutil.rmtree(folder)
