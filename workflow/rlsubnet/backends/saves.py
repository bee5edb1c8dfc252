"""A trainer's save: a folder that counts once it has a marker, written last, that lists its files.

Standard library only: trainers call it from inside their own environments.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlsubnet.files import read_object, write_json

MARKER = "saved.json"


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def mark_saved(folder: Path, told: Mapping[str, Any]) -> None:
    """Mark a save as whole, once all of its files are written.

    Args:
        folder: the save.
        told: what is to be known of it, beside the sizes of its files; plain values.
    """
    write_json(folder / MARKER, {**told, "bytes": _sizes(folder)})


def is_marked(folder: Path) -> bool:
    """Return whether a save was finished."""
    return (folder / MARKER).is_file()


def read_marker(folder: Path) -> dict[str, Any]:
    """Return what was told when a save was marked."""
    return read_object("a save's marker", f"@{folder / MARKER}")


def check_whole(folder: Path, scratch: Path) -> None:
    """Check that each file of a marked save has the size it was written with.

    Args:
        folder: the save.
        scratch: to delete where the run is to start over, for the message.

    Raises:
        ValueError: one has not; the message names it.
    """
    found = _sizes(folder)
    for name, size in sorted(read_marker(folder)["bytes"].items()):
        if found.get(name) != size:
            there = f"{found[name]} bytes" if name in found else "none"
            raise ValueError(
                f"{folder / name}: damaged: {size} bytes were saved, found {there}; "
                f"delete {scratch} to start from the beginning"
            )


def remove_save(folder: Path) -> None:
    """Remove a save; interrupted, it no longer counts as one."""
    (folder / MARKER).unlink(missing_ok=True)
    shutil.rmtree(folder)
