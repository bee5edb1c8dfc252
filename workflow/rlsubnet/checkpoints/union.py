"""The union of masks: the weights that were ever updated (Figure 6)."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path

import numpy as np

from rlsubnet.checkpoints.mask_file import MaskFile
from rlsubnet.checkpoints.masks import Mask
from rlsubnet.checkpoints.overlap import pair_masks
from rlsubnet.measure.overlap import popcount


def _common(masks: Sequence[Mask], key: str) -> str:
    """Return what all masks tell alike, else nothing."""
    values = {mask.metadata.get(key, "") for mask in masks}
    return values.pop() if len(values) == 1 else ""


def unite_masks(masks: Sequence[Mask], path: Path | str) -> tuple[int, list[int]]:
    """Write the union of masks of one start, a piece at a time.

    Its metadata: ``rule`` and ``atol`` where all masks have them in common, ``init_sha256``, and
    the number of masks as ``union_of``.

    Args:
        masks: at least one.
        path: where the union appears once it is complete.

    Returns:
        How many weights were ever updated, and how many each mask holds.

    Raises:
        ValueError: the masks are of different parameters or starts, or damaged.
    """
    first = masks[0]
    for other in masks[1:]:
        pair_masks(first, other)
    told = {key: _common(masks, key) for key in ("rule", "atol", "init_sha256")}
    metadata = {key: value for key, value in told.items() if value} | {"union_of": str(len(masks))}
    shapes = {name: first.shape(name) for name in first.names}
    file = MaskFile(Path(path), shapes, metadata, keep=False)
    ever, sizes = 0, [0] * len(masks)
    try:
        for name in shapes:
            start = 0
            for pieces in zip(*(mask.read_packed_chunks(name) for mask in masks), strict=True):
                united = reduce(np.bitwise_or, pieces)
                file.write(name, start, united)
                ever += popcount(united)
                sizes = [size + popcount(p) for size, p in zip(sizes, pieces, strict=True)]
                start += 8 * united.size
        file.finish({})
    except BaseException:
        file.discard()
        raise
    return ever, sizes
