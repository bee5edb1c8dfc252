"""Chained arithmetic in five difficulty levels: problems, ways to answer, and the verifier.

A problem starts from a number below 100 and applies five steps, all modulo 100. In a level-``l``
problem ``l`` steps are real and the others are ``+0``, so every prompt has the same layout:
``dd op d op d op d op d op d =``. A :class:`ProblemShape` has more digits, more steps, or both.
"""

import hashlib
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, cycle, islice
from operator import add, mul, sub
from typing import Any, NamedTuple

LEVELS = (1, 2, 3, 4, 5)
OPERATIONS = "+-*"
_COMPUTE = {"+": add, "-": sub, "*": mul}
OPERANDS = (2, 3, 4, 5, 6, 7, 8, 9)
UNSEEN_OPERANDS = (1,)  # in no text that anything is trained on

# A worked answer, a terse one, or one behind the other: the two together tell the shape.
_SOLUTION = re.compile(r"(?:\((?P<worked>[0-9]+))?(?:;(?P<total>[0-9]+))?")


class Step(NamedTuple):
    """One operation on the running total."""

    operation: str
    operand: int


IDLE = Step("+", 0)


class ProblemShape(NamedTuple):
    """How long problems are and how large their numbers; the demo's by default.

    Attributes:
        digits: of every number but the operands; all is computed modulo ``10 ** digits``.
        slots: steps of a problem, real and idle ones, a multiple of the number of levels.
    """

    digits: int = 2
    slots: int = 5

    @property
    def modulus(self) -> int:
        return int(10**self.digits)

    def real_steps(self, level: int) -> int:
        """Return the number of real steps in a problem of a level: a fifth of all for each.

        >>> ProblemShape().real_steps(3), ProblemShape(slots=10).real_steps(3)
        (3, 6)
        """
        return level * self.slots // len(LEVELS)


DEMO = ProblemShape()


def result(total: int, step: Step, modulus: int = DEMO.modulus) -> int:
    """Return the running total after ``step``, modulo ``modulus``.

    >>> result(98, Step("+", 5)), result(3, Step("-", 5)), result(34, Step("*", 3))
    (3, 98, 2)
    """
    return _COMPUTE[step.operation](total, step.operand) % modulus


def running_totals(
    start: int, steps: tuple[Step, ...], modulus: int = DEMO.modulus
) -> tuple[int, ...]:
    """Return the total after each step.

    >>> running_totals(7, (Step("+", 5), Step("*", 9), Step("-", 9)))
    (12, 8, 99)
    """
    totals = accumulate(steps, lambda total, step: result(total, step, modulus), initial=start)
    return tuple(totals)[1:]


@dataclass(frozen=True)
class Problem:
    """A start and steps; the prompt and the right totals follow from them.

    >>> problem = Problem(7, (Step("+", 5), IDLE, Step("*", 9), IDLE, IDLE))
    >>> problem.prompt, problem.level, problem.totals
    ('07+5+0*9+0+0=', 2, (12, 12, 8, 8, 8))
    >>> Problem(7, (Step("*", 9), IDLE), digits=3).prompt
    '007*9+0='
    """

    start: int
    steps: tuple[Step, ...]
    digits: int = DEMO.digits

    @property
    def shape(self) -> ProblemShape:
        return ProblemShape(self.digits, len(self.steps))

    @property
    def level(self) -> int:
        return sum(step != IDLE for step in self.steps) * len(LEVELS) // len(self.steps)

    @cached_property
    def prompt(self) -> str:
        steps = "".join(f"{op}{operand}" for op, operand in self.steps)
        return f"{numerals((self.start,), self.digits)}{steps}="

    @cached_property
    def totals(self) -> tuple[int, ...]:
        return running_totals(self.start, self.steps, self.shape.modulus)


def draw_problem(
    rng: random.Random, real: int, shape: ProblemShape = DEMO, operands: Sequence[int] = OPERANDS
) -> Problem:
    """Return a random problem with ``real`` real steps at random places among its slots."""
    start = rng.randrange(shape.modulus)
    places = set(rng.sample(range(shape.slots), real))
    steps = tuple(
        Step(rng.choice(OPERATIONS), rng.choice(operands)) if slot in places else IDLE
        for slot in range(shape.slots)
    )
    return Problem(start, steps, shape.digits)


def numerals(totals: tuple[int, ...], width: int = DEMO.digits) -> str:
    """Return the totals as ``width`` digits each.

    >>> numerals((7, 12), width=3)
    '007012'
    """
    return "".join(f"{total:0{width}d}" for total in totals)


def terse(totals: tuple[int, ...], width: int = DEMO.digits) -> str:
    """Return the answer that gives the final total at once.

    >>> terse((12, 12, 8, 8, 8))
    ';08'
    """
    return ";" + numerals(totals[-1:], width)


def worked(totals: tuple[int, ...], width: int = DEMO.digits) -> str:
    """Return the answer that shows every running total.

    >>> worked((12, 12, 8, 8, 8))
    '(1212080808'
    """
    return "(" + numerals(totals, width)


def reversed_digits(totals: tuple[int, ...], width: int = DEMO.digits) -> str:
    """Return the out-of-distribution answer: the digits of each total exchanged, behind ``,``.

    What it says is right, but no policy that learned :func:`terse` and :func:`worked` writes so,
    and the verifier, which does not know the style, refuses it.

    >>> reversed_digits((12, 12, 8, 8, 8))
    ',2121808080'
    """
    return "," + "".join(numerals((total,), width)[::-1] for total in totals)


STYLES: dict[str, Callable[[tuple[int, ...], int], str]] = {
    "terse": terse,
    "worked": worked,
    "reversed": reversed_digits,
}


def solution_of(problem: Problem) -> str:
    """Return what answers to a problem are verified against: right answers that tell its shape.

    >>> solution_of(Problem(7, (Step("+", 5), IDLE, Step("*", 9), IDLE, IDLE)))
    '(1212080808'
    >>> solution_of(Problem(7, (Step("+", 5), Step("*", 9)), digits=3))
    '(012108;108'
    """
    answer = worked(problem.totals, problem.digits)
    return answer if problem.shape == DEMO else answer + terse(problem.totals, problem.digits)


@cache
def _answers(solution: str) -> tuple[re.Pattern[str], str]:
    """Return what well-formed answers look like, and the total they are to end with."""
    found = _SOLUTION.fullmatch(solution)
    steps, total = found.groups(default="") if found else ("", "")
    # One answer alone is of the demo's shape.
    both = bool(steps and total)
    width = len(total) if both else DEMO.digits
    length = len(steps) if both else DEMO.digits * DEMO.slots
    ends = {answer[-width:] for answer in (steps, total) if answer}
    sizes = len(steps) in (0, length) and len(total) in (0, width) and length % width == 0
    if len(ends) != 1 or not sizes:
        raise ValueError(f"solution {solution!r}: expected a worked answer, a terse one, or both")
    return re.compile(rf";[0-9]{{{width}}}|\([0-9]{{{length}}}"), ends.pop()


def is_correct_total(response: str, solution: str) -> bool:
    """Return whether ``response`` is a well-formed answer whose final total is right.

    Well-formed is exactly ``;`` and two digits (terse) or ``(`` and ten digits (worked), as many as
    the shape asks for; nothing may stand before or behind. The verifier looks at the outcome only:
    a worked answer with a wrong total on the way and the right one at the end is correct, as for a
    math problem that is graded by its final answer.

    Args:
        response: the model's text without its end token.
        solution: what :func:`solution_of` returns, or a right answer of the demo's shape.

    >>> solution = "(1212080808"
    >>> [is_correct_total(text, solution) for text in (solution, ";08", "(0000000008")]
    [True, True, True]
    >>> [is_correct_total(text, solution) for text in (";80", "08", ";08;", "(1208", ",2121808080")]
    [False, False, False, False, False]
    """
    well_formed, total = _answers(solution)
    return well_formed.fullmatch(response) is not None and response.endswith(total)


def slips(total: int, step: Step, modulus: int = DEMO.modulus) -> tuple[int, ...]:
    """Return plausible wrong results of ``step`` on ``total``, in increasing order.

    Off by one or by ten, the tens digit not adjusted (a dropped carry), a neighboring operand,
    another operation. The right result is never among them, and there are at least four.

    >>> slips(27, Step("+", 5))  # the right result is 32; 22 is the dropped carry
    (22, 31, 33, 35, 42)
    """
    right = result(total, step, modulus)
    wrong = {(right + error) % modulus for error in (1, -1, 10, -10)}
    wrong.add(total // 10 * 10 + right % 10)
    near = [Step(step.operation, step.operand + error) for error in (1, -1)]
    others = [Step(other, step.operand) for other in OPERATIONS]
    wrong.update(result(total, slip, modulus) for slip in (*near, *others))
    return tuple(sorted(wrong - {right}))


def possible_slips(problem: Problem) -> list[tuple[int, ...]]:
    """Return the totals of every chain with one slip at a real step, and right steps after it.

    >>> possible_slips(Problem(7, (Step("+", 5), IDLE, Step("*", 9), IDLE, IDLE)))[-1]
    (12, 12, 98, 98, 98)
    """
    before, modulus = (problem.start, *problem.totals), problem.shape.modulus
    return [
        (*problem.totals[:slot], wrong, *running_totals(wrong, problem.steps[slot + 1 :], modulus))
        for slot, step in enumerate(problem.steps)
        if step != IDLE
        for wrong in slips(before[slot], step, modulus)
    ]


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
    shape: ProblemShape = DEMO,
) -> list[Problem]:
    """Return one problem of ``split`` for each of ``levels``, in that order.

    Args:
        repeats: whether a prompt may come twice (training data, where a level may be small).
        suits: which problems may be drawn at all.
    """
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
    return list(islice(cycle(LEVELS), number))


def problems(
    per_level: Sequence[int], split: str, seed: int, shape: ProblemShape = DEMO
) -> list[dict[str, Any]]:
    """Return problems as records ``{"id", "prompt", "solution", "level"}``, sorted by level.

    No prompt comes twice.

    Args:
        per_level: number of problems of levels 1 to 5; MATH500 has 43, 90, 105, 128 and 134.

    >>> problems([1, 0, 0, 0, 1], "test", seed=3)[0]["id"]
    'level1-0000'
    """
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
