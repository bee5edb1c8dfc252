"""Weight decay in runs with a mask, which no trainer may apply."""

from collections.abc import Mapping
from typing import Any


def check_decay(recipe: Mapping[str, Any], masked: bool, algorithm: str = "") -> None:
    """Check that no weight decay moves the frozen weights of a masked run.

    Raises:
        ValueError: it would.
    """
    if masked and recipe["weight_decay"]:
        raise ValueError(
            f"weight_decay: expected 0 in a run with a mask (it moves frozen weights), "
            f"found {recipe['weight_decay']}"
        )
