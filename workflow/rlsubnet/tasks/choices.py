"""Five multiple-choice tasks, labeled by their generator: the stand-ins for Table 3(a).

A model is scored by the log-likelihood per token that it gives to each choice as the continuation
of the prompt, so the position of the right one does not matter; it is shuffled nevertheless. All
choices of an item have the same number of tokens under the character tokenizer.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlsubnet.tasks.arithmetic import (
    IDLE,
    MODULUS,
    OPERANDS,
    OPERATIONS,
    Problem,
    Step,
    digits,
    possible_slips,
    result,
    slips,
    worked,
)
from rlsubnet.tasks.checks import check_count, check_name
from rlsubnet.tasks.splits import SHARES, draw_problems, every_level, split_of
from rlsubnet.tasks.texts import fact_prompt


class Item(NamedTuple):
    """A question, its right continuation and all plausible wrong ones."""

    prompt: str
    right: str
    wrong: tuple[str, ...]


def _two_digits(prompt: str, total: int, step: Step) -> Item:
    wrong = tuple(digits((slip,)) for slip in slips(total, step))
    return Item(prompt, digits((result(total, step),)), wrong)


def worked_chain(problem: Problem) -> Item:
    """Return the question which worked answer is right; the wrong ones contain one slip each."""
    wrong = tuple(worked(totals) for totals in possible_slips(problem))
    return Item(problem.prompt, worked(problem.totals), wrong)


def last_step(problem: Problem) -> Item:
    """Return the question for the last total, given the right totals before it."""
    prompt = f"{problem.prompt}{worked(problem.totals[:-1])}"
    return _two_digits(prompt, problem.totals[-2], problem.steps[-1])


def first_step(problem: Problem) -> Item:
    """Return the question for the first total of a worked answer."""
    return _two_digits(f"{problem.prompt}(", problem.start, problem.steps[0])


def final_total(problem: Problem) -> Item:
    """Return the question for the final total at once, after ``;``.

    The wrong choices are the final totals of chains with one slip, so far as they are wrong.
    """
    finals = {totals[-1] for totals in possible_slips(problem)} - {problem.totals[-1]}
    wrong = tuple(digits((total,)) for total in sorted(finals))
    return Item(f"{problem.prompt};", digits(problem.totals[-1:]), wrong)


def _about_problems(
    make: Callable[[Problem], Item], real_slot: int | None = None
) -> Callable[[random.Random, int, str], Iterator[Item]]:
    """Return a source of items about problems, whose step ``real_slot`` (if given) is not idle."""

    def items(rng: random.Random, number: int, split: str) -> Iterator[Item]:
        def suits(problem: Problem) -> bool:
            return real_slot is None or problem.steps[real_slot] != IDLE

        yield from map(make, draw_problems(rng, every_level(number), split, suits=suits))

    return items


def _facts(rng: random.Random, number: int, split: str) -> Iterator[Item]:
    """Yield questions for one-step facts that the base text never contains."""
    facts = [
        (total, Step(operation, operand))
        for total in range(MODULUS)
        for operation in OPERATIONS
        for operand in OPERANDS
        if split_of(fact_prompt(total, Step(operation, operand))) == split
    ]
    if number > len(facts):
        raise ValueError(f"split {split} holds {len(facts)} facts, {number} were asked for")
    for total, step in rng.sample(facts, number):
        yield _two_digits(fact_prompt(total, step), total, step)


@dataclass(frozen=True)
class ChoiceTask:
    """How many choices an item has, which task of Table 3(a) it stands for, and its items."""

    choices: int
    stands_for: str
    items: Callable[[random.Random, int, str], Iterator[Item]]

    @property
    def chance(self) -> float:
        """Return the accuracy of guessing."""
        return 1 / self.choices


CHOICE_TASKS = {
    "worked_chain": ChoiceTask(5, "LSAT-AR", _about_problems(worked_chain)),
    "last_step": ChoiceTask(5, "LSAT-LR", _about_problems(last_step, real_slot=-1)),
    "first_step": ChoiceTask(4, "LogiQA-en", _about_problems(first_step, real_slot=0)),
    "final_total": ChoiceTask(4, "GPQA", _about_problems(final_total)),
    "fact": ChoiceTask(5, "MMLU-Pro-Math", _facts),
}


def choices(per_task: int, split: str, seed: int) -> list[dict[str, Any]]:
    """Return items as records ``{"task", "id", "prompt", "choices", "label"}``.

    Args:
        per_task: number of items of each task.
        split: split of the problem that an item asks about.
        seed: seed of problems, wrong choices and order; each task has its own stream.
    """
    check_count("per_task", per_task)
    check_name("split", split, SHARES)
    records = []
    for name, task in CHOICE_TASKS.items():
        rng = random.Random(f"{seed} {name}")
        items = list(task.items(rng, per_task, split))
        records += [record(name, n, item, task.choices, rng) for n, item in enumerate(items)]
    return records


def record(task: str, number: int, item: Item, size: int, rng: random.Random) -> dict[str, Any]:
    """Return ``item`` with ``size`` shuffled choices, of which one is right.

    >>> record("fact", 7, Item("07*9=", "63", ("62", "64", "53")), 3, random.Random(0))["id"]
    'fact-0007'
    """
    shuffled = [item.right, *rng.sample(item.wrong, size - 1)]
    rng.shuffle(shuffled)
    return {
        "task": task,
        "id": f"{task}-{number:04d}",
        "prompt": item.prompt,
        "choices": shuffled,
        "label": shuffled.index(item.right),
    }
