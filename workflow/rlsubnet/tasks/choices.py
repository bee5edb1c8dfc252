"""Five multiple-choice tasks, labeled by their generator: the stand-ins for Table 3(a).

A model is scored by the log-likelihood per token that it gives to each choice as the continuation
of the prompt, so the position of the right one does not matter; it is shuffled nevertheless. All
choices of an item have the same number of tokens under the character tokenizer.

A policy that can show its work makes no mistake in a step that it has practiced, so the three tasks
about steps use an operand that no training text contains; the two about totals ask for the result
at once, which is hard from two steps on.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, NamedTuple

from rlsubnet.suites import MADE_UP_CHOICES
from rlsubnet.tasks.arithmetic import (
    DEMO,
    IDLE,
    OPERANDS,
    UNSEEN_OPERANDS,
    Problem,
    Shape,
    Step,
    digits,
    draw_problems,
    possible_slips,
    result,
    slips,
    worked,
)


class ChoiceItem(NamedTuple):
    """A question, its right continuation and all plausible wrong ones."""

    prompt: str
    right: str
    wrong: tuple[str, ...]


def _one_total(prompt: str, total: int, step: Step, shape: Shape) -> ChoiceItem:
    wrong = tuple(digits((slip,), shape.digits) for slip in slips(total, step, shape.modulus))
    return ChoiceItem(prompt, digits((result(total, step, shape.modulus),), shape.digits), wrong)


def worked_chain(problem: Problem) -> ChoiceItem:
    """Return the question which worked answer is right; the wrong ones contain one slip each."""
    wrong = tuple(worked(totals, problem.digits) for totals in possible_slips(problem))
    return ChoiceItem(problem.prompt, worked(problem.totals, problem.digits), wrong)


def last_step(problem: Problem) -> ChoiceItem:
    """Return the question for the last total, given the right totals before it."""
    prompt = f"{problem.prompt}{worked(problem.totals[:-1], problem.digits)}"
    return _one_total(prompt, problem.totals[-2], problem.steps[-1], problem.shape)


def first_step(problem: Problem) -> ChoiceItem:
    """Return the question for the first total of a worked answer."""
    return _one_total(f"{problem.prompt}(", problem.start, problem.steps[0], problem.shape)


def final_total(problem: Problem) -> ChoiceItem:
    """Return the question for the final total at once, after ``;``.

    The wrong choices are the final totals of chains with one slip, so far as they are wrong.
    """
    finals = {totals[-1] for totals in possible_slips(problem)} - {problem.totals[-1]}
    wrong = tuple(digits((total,), problem.digits) for total in sorted(finals))
    return ChoiceItem(f"{problem.prompt};", digits(problem.totals[-1:], problem.digits), wrong)


@dataclass(frozen=True)
class ChoiceTask:
    """How the items of a task are made, and of which problems."""

    item: Callable[[Problem], ChoiceItem]
    levels: tuple[int, ...]
    operands: tuple[int, ...] = OPERANDS
    suits: Callable[[Problem], bool] = lambda problem: True


CHOICE_TASKS = {
    "worked_chain": ChoiceTask(worked_chain, (2, 3, 4), UNSEEN_OPERANDS),
    "last_step": ChoiceTask(
        last_step, (2, 3, 4), UNSEEN_OPERANDS, lambda problem: problem.steps[-1] != IDLE
    ),
    "first_step": ChoiceTask(
        first_step, (2, 3, 4), UNSEEN_OPERANDS, lambda problem: problem.steps[0] != IDLE
    ),
    "long_total": ChoiceTask(final_total, (3, 4, 5)),
    "short_total": ChoiceTask(final_total, (2,)),
}


def choices(
    per_task: int,
    split: str,
    seed: int,
    digits: int = DEMO.digits,
    slots: int = DEMO.slots,
) -> list[dict[str, Any]]:
    """Return items as records ``{"task", "id", "prompt", "choices", "label"}``.

    Args:
        split: split of the problem that an item asks about.
        seed: seed of problems, wrong choices and order; each task has its own stream.
    """
    shape = Shape(digits, slots)
    records: list[dict[str, Any]] = []
    for name, facts in MADE_UP_CHOICES.items():
        task = CHOICE_TASKS[name]
        rng = random.Random(f"{seed} {name}")
        levels = islice(cycle(task.levels), per_task)
        problems = draw_problems(
            rng, levels, split, operands=task.operands, suits=task.suits, shape=shape
        )
        for number, problem in enumerate(problems):
            records.append(_record(name, number, task.item(problem), facts.choices, rng))
    return records


def _record(
    task: str, number: int, item: ChoiceItem, size: int, rng: random.Random
) -> dict[str, Any]:
    """Return ``item`` with ``size`` shuffled choices, of which one is right."""
    shuffled = [item.right, *rng.sample(item.wrong, size - 1)]
    rng.shuffle(shuffled)
    return {
        "task": task,
        "id": f"{task}-{number:04d}",
        "prompt": item.prompt,
        "choices": shuffled,
        "label": shuffled.index(item.right),
    }
