"""Data sets made of arithmetic: base text, demonstrations, their pairs, and multiple choice.

The five multiple-choice tasks, labeled by their generator, stand in for those of Table 3(a). A
model is scored by the log-likelihood per token that it gives to each choice as the continuation of
the prompt, so the position of the right one does not matter; it is shuffled nevertheless. All
choices of an item have the same number of tokens under the character tokenizer.

A policy that can show its work makes no mistake in a step that it has practiced, so the three tasks
about steps use an operand that no training text contains; the two about totals ask for the result
at once, which is hard from two steps on.
"""

import random
from collections.abc import Callable, Iterable
from functools import partial
from itertools import cycle, islice
from typing import Any, NamedTuple

from rlsubnet.suites import MADE_UP_CHOICES
from rlsubnet.tasks.arithmetic import (
    DEMO,
    IDLE,
    OPERANDS,
    OPERATIONS,
    STYLES,
    UNSEEN_OPERANDS,
    Problem,
    ProblemShape,
    Step,
    draw_problem,
    draw_problems,
    every_level,
    numerals,
    possible_slips,
    result,
    slips,
    split_of,
    worked,
)


def base_text(
    documents: int, characters: int, wrong_facts: float, seed: int, shape: ProblemShape = DEMO
) -> list[dict]:
    """Return the text that the base model is trained on, as records ``{"text"}``.

    A document is an endless row, cut at ``characters``, of one-step facts ``07*9=63;`` and of
    chains in brackets ``(07+5*9)1208;`` with two or three slots (with ten in a problem, two to
    six), half and half. A share ``wrong_facts`` of the facts is off by one or ten, as text of the
    web is.
    None of it is a five-slot problem, and the chains are calculations of split ``train``; the facts
    are all single steps there are, for without one of them no chain that needs it can be learned.
    """
    rng = random.Random(seed)
    records = []
    for _ in range(documents):
        text = ""
        while len(text) < characters:
            fact = rng.random() < 0.5
            text += _fact(rng, wrong_facts, shape) if fact else _chain(rng, shape)
        records.append({"text": text[:characters]})
    return records


def _fact(rng: random.Random, wrong_facts: float, shape: ProblemShape) -> str:
    total = rng.randrange(shape.modulus)
    step = Step(rng.choice(OPERATIONS), rng.choice((0, *OPERANDS)))
    answer = result(total, step, shape.modulus)
    if rng.random() < wrong_facts:
        answer = (answer + rng.choice((1, -1, 10, -10))) % shape.modulus
    before, after = numerals((total,), shape.digits), numerals((answer,), shape.digits)
    return f"{before}{step.operation}{step.operand}={after};"


def _chain(rng: random.Random, shape: ProblemShape) -> str:
    slots = rng.choice(range(2, shape.slots // 2 + 2))
    real = rng.randint(1, slots)
    while True:
        problem = draw_problem(rng, real, ProblemShape(shape.digits, slots))
        if split_of(problem.prompt) == "train":
            break
    return f"({problem.prompt[:-1]}){numerals(problem.totals, shape.digits)};"


def demonstrations(
    style: str,
    problems: int,
    split: str,
    seed: int,
    terse_share: float | None = None,
    shape: ProblemShape = DEMO,
) -> list[dict[str, Any]]:
    """Return correct answers to imitate, as records ``{"prompt", "response", "level"}``.

    A prompt may come twice.

    Args:
        style: ``terse``, ``worked``, ``reversed`` (the out-of-distribution source), or ``mixed``
            from terse and worked.
        terse_share: probability of a terse answer, for ``mixed`` only.
    """
    if (style == "mixed") != (terse_share is not None):
        raise ValueError(f"terse_share: needed by style 'mixed' and by no other, found {style!r}")
    rng = random.Random(seed)
    records = []
    for problem in draw_problems(rng, every_level(problems), split, repeats=True, shape=shape):
        chosen = style
        if terse_share is not None:
            chosen = "terse" if rng.random() < terse_share else "worked"
        records.append(
            {
                "prompt": problem.prompt,
                "response": STYLES[chosen](problem.totals, problem.digits),
                "level": problem.level,
            }
        )
    return records


def demonstration_pairs(
    style: str, problems: int, split: str, seed: int, shape: ProblemShape = DEMO
) -> list[dict[str, Any]]:
    """Return pairs that no policy wrote, as records ``{"prompt", "chosen", "rejected", "level"}``.

    The rejected answer is in the same style and has one slip at a real step whose consequences it
    carries to the end; where a later multiplication happens to make the end right again
    (``50*2`` equals ``0*2``), another slip is drawn. Prompts come once.
    """
    rng = random.Random(seed)
    records = []
    for problem in draw_problems(rng, every_level(problems), split, shape=shape):
        wrong = [totals for totals in possible_slips(problem) if totals[-1] != problem.totals[-1]]
        records.append(
            {
                "prompt": problem.prompt,
                "chosen": STYLES[style](problem.totals, problem.digits),
                "rejected": STYLES[style](rng.choice(wrong), problem.digits),
                "level": problem.level,
            }
        )
    return records


class ChoiceItem(NamedTuple):
    """A question, its right continuation and all plausible wrong ones."""

    prompt: str
    right: str
    wrong: tuple[str, ...]


def _for_a_total(problem: Problem, begun: str, right: int, wrong: Iterable[int]) -> ChoiceItem:
    """Return the question for one total, behind the beginning of an answer."""
    choices = tuple(numerals((total,), problem.digits) for total in (right, *wrong))
    return ChoiceItem(problem.prompt + begun, choices[0], choices[1:])


def worked_chain(problem: Problem) -> ChoiceItem:
    """Return the question which worked answer is right; the wrong ones contain one slip each."""
    wrong = tuple(worked(totals, problem.digits) for totals in possible_slips(problem))
    return ChoiceItem(problem.prompt, worked(problem.totals, problem.digits), wrong)


def one_step(problem: Problem, slot: int) -> ChoiceItem:
    """Return the question for the total behind a step, where those before it are worked."""
    before = (problem.start, *problem.totals[:-1])[slot]
    wrong = slips(before, problem.steps[slot], problem.shape.modulus)
    begun = worked(problem.totals[:slot], problem.digits)
    return _for_a_total(problem, begun, problem.totals[slot], wrong)


def final_total(problem: Problem) -> ChoiceItem:
    """Return the question for the final total at once, after ``;``.

    The wrong choices are the final totals of chains with one slip, so far as they are wrong.
    """
    right = problem.totals[-1]
    finals = {totals[-1] for totals in possible_slips(problem)} - {right}
    return _for_a_total(problem, ";", right, sorted(finals))


class ChoiceTask(NamedTuple):
    """How items are made, and of which problems; the step at slot ``real`` is not an idle one."""

    item: Callable[[Problem], ChoiceItem]
    levels: tuple[int, ...]
    operands: tuple[int, ...] = OPERANDS
    real: int | None = None

    def suits(self, problem: Problem) -> bool:
        return self.real is None or problem.steps[self.real] != IDLE


def _step_task(slot: int) -> ChoiceTask:
    return ChoiceTask(partial(one_step, slot=slot), (2, 3, 4), UNSEEN_OPERANDS, real=slot)


CHOICE_TASKS = {
    "worked_chain": ChoiceTask(worked_chain, (2, 3, 4), UNSEEN_OPERANDS),
    "last_step": _step_task(-1),
    "first_step": _step_task(0),
    "long_total": ChoiceTask(final_total, (3, 4, 5)),
    "short_total": ChoiceTask(final_total, (2,)),
}


def choices(
    per_task: int, split: str, seed: int, shape: ProblemShape = DEMO
) -> list[dict[str, Any]]:
    """Return items as records ``{"task", "id", "prompt", "choices", "label"}``.

    Each task has a random stream of its own.
    """
    records: list[dict[str, Any]] = []
    for name, facts in MADE_UP_CHOICES.items():
        task = CHOICE_TASKS[name]
        rng = random.Random(f"{seed} {name}")
        levels = islice(cycle(task.levels), per_task)
        problems = draw_problems(
            rng, levels, split, operands=task.operands, suits=task.suits, shape=shape
        )
        for number, item in enumerate(map(task.item, problems)):
            shuffled = [item.right, *rng.sample(item.wrong, facts.choices - 1)]
            rng.shuffle(shuffled)
            records.append(
                {
                    "task": name,
                    "id": f"{name}-{number:04d}",
                    "prompt": item.prompt,
                    "choices": shuffled,
                    "label": shuffled.index(item.right),
                }
            )
    return records
