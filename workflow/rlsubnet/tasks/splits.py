"""Train, preference, dev and test prompts, kept apart by a hash of the calculation at every level.

A calculation of few steps can be written as several prompts, with its ``+0`` steps at other places;
all of them fall into one split, so that no split can be answered from another by heart.
"""

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence

from rlsubnet.tasks.arithmetic import DEMO, LEVELS, OPERANDS, Problem, Shape, draw_problem
from rlsubnet.tasks.checks import check_name

SHARES = {"test": 0.15, "dev": 0.10, "preference": 0.30, "train": 0.45}

# A level-1 prompt is one of 12,000; after so many draws without a new one, hardly any is left.
_PATIENCE = 100_000


def calculation(prompt: str) -> str:
    """Return what a prompt asks to compute: itself without its idle steps.

    >>> calculation("07+5+0*9+0+0="), calculation("07+0+5+0+0*9=")
    ('07+5*9=', '07+5*9=')
    """
    return prompt.replace("+0", "")


def split_of(prompt: str) -> str:
    """Return the one split that ``prompt`` belongs to, whatever its level.

    The first 8 bytes of the SHA-256 of its calculation, read as a fraction in [0, 1), fall into one
    of four intervals with the lengths ``SHARES``.

    >>> [split_of(f"{start:02d}+5+0*9+0+0=") for start in range(4)]
    ['test', 'preference', 'train', 'dev']
    """
    digest = hashlib.sha256(calculation(prompt).encode("utf-8")).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    bound = 0.0
    for split, share in SHARES.items():
        bound += share
        if fraction < bound:
            return split
    return "train"


def draw_problems(
    rng: random.Random,
    levels: Iterable[int],
    split: str,
    *,
    repeats: bool = False,
    operands: Sequence[int] = OPERANDS,
    suits: Callable[[Problem], bool] = lambda problem: True,
    shape: Shape = DEMO,
) -> list[Problem]:
    """Return one problem of ``split`` for each of ``levels``, in that order.

    Args:
        rng: source of the draws.
        levels: difficulty levels, for example ``[1] * 43 + [2] * 90``.
        split: name of the split.
        repeats: whether a prompt may come twice (training data, where a level may be small).
        operands: operands of the real steps.
        suits: which problems may be drawn at all.
        shape: of the problems.

    Raises:
        ValueError: unknown split, or no new prompt of a level is left in it.
    """
    check_name("split", split, SHARES)
    problems: list[Problem] = []
    seen: set[str] = set()
    for level in levels:
        for _ in range(_PATIENCE):
            problem = draw_problem(rng, shape.real_steps(level), shape, operands)
            new = repeats or problem.prompt not in seen
            if new and suits(problem) and split_of(problem.prompt) == split:
                break
        else:
            raise ValueError(
                f"split {split}: no new level-{level} prompt found after {len(problems)} prompts; "
                "ask for fewer"
            )
        seen.add(problem.prompt)
        problems.append(problem)
    return problems


def every_level(number: int) -> list[int]:
    """Return ``number`` levels that take turns.

    >>> every_level(7)
    [1, 2, 3, 4, 5, 1, 2]
    """
    return [LEVELS[index % len(LEVELS)] for index in range(number)]
