"""What happens to weights along a run: never updated, cancelled, subnetwork (section 6, Figure 2).

A weight is updated at a saved step when its bits differ from the start; steps that were not saved
are invisible. Counts of pieces add up, so that a run is measured tensor by tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlsubnet.measure.sparsity import Sums, bitwise_changed


@dataclass(frozen=True)
class StepCounts(Sums):
    """Counts at one saved step.

    ``never + cancelled + subnetwork == numel``; at the last step they are the shares of Figure 2.

    Attributes:
        never: equal to the start at this and every earlier saved step.
        cancelled: updated at an earlier saved step, equal to the start again now.
        subnetwork: different from the start now.
        moved: different from the saved step before (the start, for the first one).
        updated_outside_final: different from the start now, but not at the last step (Figure 6).
    """

    numel: int = 0
    never: int = 0
    cancelled: int = 0
    subnetwork: int = 0
    moved: int = 0
    updated_outside_final: int = 0


def trajectory_counts(init: np.ndarray, steps: Sequence[np.ndarray]) -> list[StepCounts]:
    """Return the counts of every saved step of some weights; the last step is the final model.

    A weight that goes 0, 1, 0 is cancelled, one that goes 0, 1, 2 is in the subnetwork:

    >>> start = np.array([0, 0, 0], np.float32)
    >>> saved = [np.array([1, 1, 0], np.float32), np.array([0, 2, 0], np.float32)]
    >>> trajectory_counts(start, saved)[-1]
    StepCounts(numel=3, never=1, cancelled=1, subnetwork=1, moved=2, updated_outside_final=0)
    """
    if not steps:
        raise ValueError("a trajectory needs at least one saved step")
    for number, step in enumerate(steps, start=1):
        if (step.shape, step.dtype) != (init.shape, init.dtype):
            raise ValueError(
                f"saved step {number}: expected {init.dtype} {list(init.shape)}, "
                f"found {step.dtype} {list(step.shape)}"
            )
    final = bitwise_changed(init, steps[-1])
    ever = np.zeros(init.shape, np.bool_)
    previous, counts = init, []
    for step in steps:
        now = bitwise_changed(init, step)
        ever |= now
        touched, differing = int(ever.sum()), int(now.sum())
        counts.append(
            StepCounts(
                numel=init.size,
                never=init.size - touched,
                cancelled=touched - differing,
                subnetwork=differing,
                moved=int(bitwise_changed(previous, step).sum()),
                updated_outside_final=int((now & ~final).sum()),
            )
        )
        previous = step
    return counts
