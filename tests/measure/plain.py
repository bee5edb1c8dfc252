"""The counts of an update by their definitions, one comparison at a time."""

from collections.abc import Sequence

import numpy as np

from rlsubnet.measure.sparsity import (
    RULES,
    TOLERANCES,
    UpdateCounts,
    bitwise_changed,
    changed,
    difference_bits,
)


def plain_counts(
    init: np.ndarray, tuned: np.ndarray, tolerances: Sequence[float] = TOLERANCES
) -> UpdateCounts:
    unchanged = {
        (rule, float(atol)): init.size - int(changed(init, tuned, rule, atol).sum())
        for atol in tolerances
        for rule in RULES
    }
    largest = np.uint32(difference_bits(init, tuned).max(initial=0)).view(np.float32)
    differing = int(bitwise_changed(init, tuned).sum())
    return UpdateCounts(init.size, differing, float(largest), unchanged)
