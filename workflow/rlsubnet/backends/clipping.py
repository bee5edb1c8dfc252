"""What clipping does to a gradient, in PyTorch, FSDP and DeepSpeed alike."""


def clip_factor(norm: float, clip: float) -> float:
    """Return what a gradient of this norm is multiplied with; a clip of 0 is none.

    >>> clip_factor(4.0, 1.0), clip_factor(0.5, 1.0), clip_factor(4.0, 0.0)
    (0.24999993750001562, 1.0, 1.0)
    """
    return min(1.0, clip / (norm + 1e-6)) if clip else 1.0
