"""Chained arithmetic in five difficulty levels: problems, ways to answer, and the verifier.

A problem starts from a number below 100 and applies five steps, all modulo 100. In a level-``l``
problem ``l`` steps are real and the others are ``+0``, so every prompt has the same layout:
``dd op d op d op d op d op d =``.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

MODULUS = 100
SLOTS = 5
LEVELS = (1, 2, 3, 4, 5)
OPERATIONS = "+-*"
OPERANDS = (2, 3, 4, 5, 6, 7, 8, 9)
UNSEEN_OPERANDS = (1,)  # in no text that anything is trained on

_WELL_FORMED = re.compile(rf";[0-9]{{2}}|\([0-9]{{{2 * SLOTS}}}")


class Step(NamedTuple):
    """One operation on the running total."""

    operation: str
    operand: int


IDLE = Step("+", 0)


def result(total: int, step: Step) -> int:
    """Return the running total after ``step``, modulo 100.

    >>> result(98, Step("+", 5)), result(3, Step("-", 5)), result(34, Step("*", 3))
    (3, 98, 2)
    """
    if step.operation == "+":
        return (total + step.operand) % MODULUS
    if step.operation == "-":
        return (total - step.operand) % MODULUS
    if step.operation == "*":
        return (total * step.operand) % MODULUS
    raise ValueError(f"operation {step.operation!r}: expected one of {OPERATIONS!r}")


def running_totals(start: int, steps: tuple[Step, ...]) -> tuple[int, ...]:
    """Return the total after each step.

    >>> running_totals(7, (Step("+", 5), Step("*", 9), Step("-", 9)))
    (12, 8, 99)
    """
    totals = []
    total = start
    for step in steps:
        total = result(total, step)
        totals.append(total)
    return tuple(totals)


@dataclass(frozen=True)
class Problem:
    """A start and steps; the prompt and the right totals follow from them.

    >>> problem = Problem(7, (Step("+", 5), IDLE, Step("*", 9), IDLE, IDLE))
    >>> problem.prompt, problem.level, problem.totals
    ('07+5+0*9+0+0=', 2, (12, 12, 8, 8, 8))
    """

    start: int
    steps: tuple[Step, ...]

    @property
    def level(self) -> int:
        """Return the number of real steps."""
        return sum(step != IDLE for step in self.steps)

    @property
    def prompt(self) -> str:
        """Return the text that a model is asked to continue."""
        return f"{self.start:02d}{''.join(f'{op}{operand}' for op, operand in self.steps)}="

    @cached_property
    def totals(self) -> tuple[int, ...]:
        """Return the right running totals, one per step."""
        return running_totals(self.start, self.steps)


def draw_problem(
    rng: random.Random, level: int, slots: int = SLOTS, operands: Sequence[int] = OPERANDS
) -> Problem:
    """Return a random problem with ``level`` real steps at random places among ``slots``.

    Raises:
        ValueError: ``level`` is not between 1 and ``slots``.
    """
    if not 1 <= level <= slots:
        raise ValueError(f"level {level}: expected 1 to {slots}")
    start = rng.randrange(MODULUS)
    real = set(rng.sample(range(slots), level))
    steps = tuple(
        Step(rng.choice(OPERATIONS), rng.choice(operands)) if slot in real else IDLE
        for slot in range(slots)
    )
    return Problem(start, steps)


def digits(totals: tuple[int, ...]) -> str:
    """Return the totals as two digits each.

    >>> digits((7, 12))
    '0712'
    """
    return "".join(f"{total:02d}" for total in totals)


def terse(totals: tuple[int, ...]) -> str:
    """Return the answer that gives the final total at once.

    >>> terse((12, 12, 8, 8, 8))
    ';08'
    """
    return ";" + digits(totals[-1:])


def worked(totals: tuple[int, ...]) -> str:
    """Return the answer that shows every running total.

    >>> worked((12, 12, 8, 8, 8))
    '(1212080808'
    """
    return "(" + digits(totals)


def reversed_digits(totals: tuple[int, ...]) -> str:
    """Return the out-of-distribution answer: the digits of each total exchanged, behind ``,``.

    What it says is right, but no policy that learned :func:`terse` and :func:`worked` writes so,
    and the verifier, which does not know the style, refuses it.

    >>> reversed_digits((12, 12, 8, 8, 8))
    ',2121808080'
    """
    return "," + "".join(f"{total:02d}"[::-1] for total in totals)


STYLES: dict[str, Callable[[tuple[int, ...]], str]] = {
    "terse": terse,
    "worked": worked,
    "reversed": reversed_digits,
}


def is_correct(response: str, solution: str) -> bool:
    """Return whether ``response`` is a well-formed answer whose final total is right.

    Well-formed is exactly ``;`` and two digits (terse) or ``(`` and ten digits (worked); nothing
    may stand before or behind. The verifier looks at the outcome only: a worked answer with a
    wrong total on the way and the right one at the end is correct, as for a math problem that is
    graded by its final answer.

    Args:
        response: the model's text without its end token.
        solution: a right answer in the terse or worked style.

    >>> solution = "(1212080808"
    >>> [is_correct(text, solution) for text in (solution, ";08", "(0000000008")]
    [True, True, True]
    >>> [is_correct(text, solution) for text in (";80", "08", ";08;", "(1208", ",2121808080")]
    [False, False, False, False, False]
    """
    if not _WELL_FORMED.fullmatch(solution):
        raise ValueError(f"solution {solution!r}: expected a terse or worked answer")
    return _WELL_FORMED.fullmatch(response) is not None and response[-2:] == solution[-2:]


def slips(total: int, step: Step) -> tuple[int, ...]:
    """Return plausible wrong results of ``step`` on ``total``, in increasing order.

    Off by one or by ten, the tens digit not adjusted (a dropped carry), a neighboring operand,
    another operation. The right result is never among them, and there are at least four.

    >>> slips(27, Step("+", 5))  # the right result is 32; 22 is the dropped carry
    (22, 31, 33, 35, 42)
    """
    right = result(total, step)
    wrong = {(right + error) % MODULUS for error in (1, -1, 10, -10)}
    wrong.add(total // 10 * 10 + right % 10)
    wrong.update(result(total, Step(step.operation, step.operand + error)) for error in (1, -1))
    wrong.update(result(total, Step(other, step.operand)) for other in OPERATIONS)
    return tuple(sorted(wrong - {right}))


def with_slip(problem: Problem, slot: int, wrong: int) -> tuple[int, ...]:
    """Return the totals of someone who gets ``wrong`` at ``slot`` and then goes on rightly.

    >>> with_slip(Problem(7, (Step("+", 5), IDLE, Step("*", 9), IDLE, IDLE)), 2, 18)
    (12, 12, 18, 18, 18)
    """
    return (
        *problem.totals[:slot],
        wrong,
        *running_totals(wrong, problem.steps[slot + 1 :]),
    )


def possible_slips(problem: Problem) -> list[tuple[int, ...]]:
    """Return the totals of every chain with one slip at a real step; all differ from each other."""
    before = (problem.start, *problem.totals)
    return [
        with_slip(problem, slot, wrong)
        for slot, step in enumerate(problem.steps)
        if step != IDLE
        for wrong in slips(before[slot], step)
    ]
