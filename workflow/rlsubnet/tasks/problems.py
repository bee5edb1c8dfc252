"""Problems with a verifiable solution, by level: the stand-in for MATH500."""

import random
from collections.abc import Sequence
from typing import Any

from rlsubnet.tasks.arithmetic import DEMO, LEVELS, Shape, check_shape, solution_of
from rlsubnet.tasks.splits import draw_problems


def problems(
    per_level: Sequence[int],
    split: str,
    seed: int,
    digits: int = DEMO.digits,
    slots: int = DEMO.slots,
) -> list[dict[str, Any]]:
    """Return problems as records ``{"id", "prompt", "solution", "level"}``, sorted by level.

    Args:
        per_level: number of problems of levels 1 to 5; MATH500 has 43, 90, 105, 128 and 134.
        split: split of the prompts; no prompt comes twice.
        seed: seed of the prompts.
        digits: digits of the numbers, see :class:`rlsubnet.tasks.arithmetic.Shape`.
        slots: steps of a problem.

    >>> problems([1, 0, 0, 0, 1], "test", seed=3)[0]["id"]
    'level1-0000'
    """
    if len(per_level) != len(LEVELS) or min(per_level) < 0 or sum(per_level) == 0:
        raise ValueError(
            f"per_level: expected {len(LEVELS)} counts that are not all 0, found {list(per_level)}"
        )
    shape = Shape(digits, slots)
    check_shape(shape)
    levels = [level for level, count in zip(LEVELS, per_level, strict=True) for _ in range(count)]
    drawn = draw_problems(random.Random(seed), levels, split, shape=shape)
    numbers = [number for count in per_level for number in range(count)]
    return [
        {
            "id": f"level{problem.level}-{number:04d}",
            "prompt": problem.prompt,
            "solution": solution_of(problem),
            "level": problem.level,
        }
        for problem, number in zip(drawn, numbers, strict=True)
    ]
