"""Where linear algebra is done: on the processor or on a GPU."""

from pathlib import Path

# There as soon as a driver is; importing torch to look for a GPU takes longer than a small model.
DRIVER = Path("/dev/nvidiactl")


def chosen_device(wish: str) -> str:
    """Return ``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ValueError: cuda is asked for, and torch finds none.
    """
    if wish == "cpu" or (wish == "auto" and not DRIVER.exists()):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wish == "cuda":
        raise ValueError("--device cuda: torch finds no GPU here")
    return "cpu"
