"""What a trainer of another project is told, checked before GPUs are used."""

from pathlib import Path
from typing import Any

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.masks import load_mask
from rlsubnet.config.model import OpenInstructRecipe, Row, parse_row


def check_mask_given(run: str, named: str, mask: Path | None) -> None:
    """Check that a mask file is given if and only if the row names a mask.

    Raises:
        ValueError: it is not so.
    """
    if bool(named) != (mask is not None):
        given = "absent" if mask is None else str(mask)
        raise ValueError(f"run {run}: the row's mask is {named!r}, --mask is {given}")


def check_bfloat16(checkpoint: Checkpoint) -> None:
    """Check that rounding to bfloat16, in which trainers save, moves no weight of a start.

    Raises:
        ValueError: a tensor is stored otherwise.
    """
    for name, info in checkpoint.tensors.items():
        if info.dtype != "BF16":
            raise ValueError(
                f"{checkpoint.path}: tensor {name} is stored in {info.dtype}; "
                "training in bfloat16 changes all weights, frozen or not"
            )


def check_mask_fits(checkpoint: Checkpoint, mask: Path) -> None:
    """Check that a mask has the names and shapes of a start.

    Raises:
        ValueError: it does not; lists what differs.
    """
    shapes = {name: info.shape for name, info in checkpoint.tensors.items()}
    load_mask(mask).check_shapes(shapes, str(checkpoint.path))


def open_instruct_row(run: str, text: str) -> Row[OpenInstructRecipe]:
    """Return the row of a run for open-instruct."""
    return parse_row(run, text, "open_instruct")


def verl_row(run: str, text: str) -> dict[str, Any]:
    """Return the row of a run for verl, as plain values."""
    return parse_row(run, text, "verl").as_dict()
