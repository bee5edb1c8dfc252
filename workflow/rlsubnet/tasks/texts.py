"""Text to learn from: the base text, demonstrations and ready-made pairs of demonstrations."""

import random
from typing import Any

from rlsubnet.tasks.arithmetic import (
    DEMO,
    OPERANDS,
    OPERATIONS,
    STYLES,
    Shape,
    Step,
    draw_problem,
    draw_problems,
    every_level,
    possible_slips,
    result,
    split_of,
)
from rlsubnet.tasks.arithmetic import digits as numerals

FACT_OPERANDS = (0, *OPERANDS)


def base_text(
    documents: int,
    characters: int,
    wrong_facts: float,
    seed: int,
    digits: int = DEMO.digits,
    slots: int = DEMO.slots,
) -> list[dict]:
    """Return the text that the base model is trained on, as records ``{"text"}``.

    A document is an endless row, cut at ``characters``, of one-step facts ``07*9=63;`` and of
    chains in brackets ``(07+5*9)1208;`` with two or three slots (with ten in a problem, two to
    six), half and half. A share ``wrong_facts`` of the facts is off by one or ten, as text of the
    web is.
    None of it is a five-slot problem, and the chains are calculations of split ``train``; the facts
    are all single steps there are, for without one of them no chain that needs it can be learned.
    """
    shape = Shape(digits, slots)
    rng = random.Random(seed)
    records = []
    for _ in range(documents):
        text = ""
        while len(text) < characters:
            if rng.random() < 0.5:
                text += _fact(rng, wrong_facts, shape)
            else:
                text += _chain(rng, shape)
        records.append({"text": text[:characters]})
    return records


def _fact(rng: random.Random, wrong_facts: float, shape: Shape) -> str:
    total = rng.randrange(shape.modulus)
    step = Step(rng.choice(OPERATIONS), rng.choice(FACT_OPERANDS))
    answer = result(total, step, shape.modulus)
    if rng.random() < wrong_facts:
        answer = (answer + rng.choice((1, -1, 10, -10))) % shape.modulus
    before, after = numerals((total,), shape.digits), numerals((answer,), shape.digits)
    return f"{before}{step.operation}{step.operand}={after};"


def _chain(rng: random.Random, shape: Shape) -> str:
    slots = rng.choice(range(2, shape.slots // 2 + 2))
    real = rng.randint(1, slots)
    problem = draw_problem(rng, real, Shape(shape.digits, slots))
    while split_of(problem.prompt) != "train":
        problem = draw_problem(rng, real, Shape(shape.digits, slots))
    return f"({problem.prompt[:-1]}){numerals(problem.totals, shape.digits)};"


def demonstrations(
    style: str,
    problems: int,
    split: str,
    seed: int,
    terse_share: float | None = None,
    digits: int = DEMO.digits,
    slots: int = DEMO.slots,
) -> list[dict[str, Any]]:
    """Return correct answers to imitate, as records ``{"prompt", "response", "level"}``.

    Args:
        style: ``terse``, ``worked``, ``reversed`` (the out-of-distribution source), or ``mixed``
            from terse and worked.
        split: split of the prompts. A prompt may come twice.
        terse_share: probability of a terse answer, for ``mixed`` only.
    """
    if (style == "mixed") != (terse_share is not None):
        raise ValueError(f"terse_share: needed by style 'mixed' and by no other, found {style!r}")
    shape = Shape(digits, slots)
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
    style: str,
    problems: int,
    split: str,
    seed: int,
    digits: int = DEMO.digits,
    slots: int = DEMO.slots,
) -> list[dict[str, Any]]:
    """Return pairs that no policy wrote, as records ``{"prompt", "chosen", "rejected", "level"}``.

    The rejected answer is in the same style and has one slip at a real step whose consequences it
    carries to the end; where a later multiplication happens to make the end right again
    (``50*2`` equals ``0*2``), another slip is drawn. Prompts come once.
    """
    shape = Shape(digits, slots)
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
