r"""GSM8K and MATH as prompts with an answer that verl's graders check.

Each record is a row of verl's data: ``data_source`` chooses the grader, ``prompt`` is a
conversation, ``reward_model.ground_truth`` the answer. Unlike verl's own preparation the difficulty
of a MATH problem is kept, in ``extra_info.level``.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Rows = Iterable[tuple[str, Mapping[str, Any]]]

STEP_BY_STEP = "Let's think step by step and output the final answer"
# grader -> what verl 0.6.1 calls it, and what it looks for in a response.
GRADERS = {
    "gsm8k": ("openai/gsm8k", f'{STEP_BY_STEP} after "####".'),
    "math": ("DigitalLearningGmbH/MATH-lighteval", f"{STEP_BY_STEP} within \\boxed{{}}."),
}


def record(
    grader: str, question: str, answer: str, split: str, index: int, level: int | None
) -> dict[str, Any]:
    """Return one row of verl's data."""
    source, asked_for = GRADERS[grader]
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": f"{question} {asked_for}"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": answer},
        "extra_info": {"split": split, "index": index, "level": level},
    }


def number_behind_marks(answer: str) -> str:
    """Return the number that a GSM8K answer ends with, without the commas of its thousands.

    Raises:
        ValueError: there is none.

    >>> number_behind_marks("She earns 2 * 600 = <<2*600=1200>>1200.\\n#### 1,200")
    '1200'
    """
    found = re.search(r"#### (-?[0-9.,]+)\s*$", answer)
    if found is None:
        raise ValueError(f"answer: expected #### and a number at the end, found {answer[-40:]!r}")
    return found[1].replace(",", "")


def last_boxed(solution: str) -> str:
    r"""Return what the last ``\boxed{...}`` of a solution holds, braces matched.

    Some solutions write ``\boxed 5`` for a single figure.

    Raises:
        ValueError: there is no box, or its braces do not close.

    >>> last_boxed(r"so $x=\boxed{3}$, and $y=\boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    >>> last_boxed(r"there are $\boxed 5$ of them.")
    '5'
    """
    start = max(solution.rfind(mark) for mark in ("\\boxed{", "\\boxed ", "\\fbox{"))
    if start < 0:
        raise ValueError(f"solution: expected a \\boxed answer, found {solution[-40:]!r}")
    rest = solution[start:].removeprefix("\\boxed").removeprefix("\\fbox")
    if rest.startswith(" "):
        return rest.split("$")[0].strip()
    depth = 0
    for place, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[1:place]
    raise ValueError(f"solution: the braces of \\boxed do not close in {rest[:40]!r}")


def level_number(level: str) -> int | None:
    """Return the difficulty of a MATH problem, 1 to 5; the 2 rows ``Level ?`` have none.

    Raises:
        ValueError: it is neither.

    >>> level_number("Level 5"), level_number("Level ?")
    (5, None)
    """
    if level == "Level ?":
        return None
    found = re.fullmatch(r"Level ([1-5])", level)
    if found is None:
        raise ValueError(f"level: expected Level 1 to Level 5 or Level ?, found {level!r}")
    return int(found[1])


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if not (isinstance(value, str) and value.strip()):
        raise ValueError(f"{column}: expected a text, found {value!r}")
    return value


def _gsm8k(row: Mapping[str, Any]) -> tuple[str, str, int | None]:
    return _text(row, "question"), number_behind_marks(_text(row, "answer")), None


def _math(row: Mapping[str, Any]) -> tuple[str, str, int | None]:
    answer = last_boxed(_text(row, "solution"))
    return _text(row, "problem"), answer, level_number(_text(row, "level"))


def graded_prompts(rows: Rows, grader: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a published data set as verl's, in their order.

    Args:
        rows: (place, row): of GSM8K with ``question`` and ``answer``, of MATH with ``problem``,
            ``level`` and ``solution``.
        grader: ``gsm8k`` or ``math``.
        split: what the rows are for, kept in ``extra_info``.

    Raises:
        ValueError: a row has no answer, or lacks a column; names the place.

    >>> rows = [("a.jsonl, row 1", {"question": "1 + 1?", "answer": "1 + 1 = 2\\n#### 2"})]
    >>> found = next(graded_prompts(rows, "gsm8k", "train"))
    >>> found["prompt"][0]["content"], found["reward_model"]["ground_truth"]
    ('1 + 1? Let\\'s think step by step and output the final answer after "####".', '2')
    """
    read: dict[str, Callable[[Mapping[str, Any]], tuple[str, str, int | None]]]
    read = {"gsm8k": _gsm8k, "math": _math}
    if grader not in read:
        raise ValueError(f"grader: expected one of {', '.join(read)}, found {grader!r}")
    for index, (where, row) in enumerate(rows):
        try:
            question, answer, level = read[grader](row)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        yield record(grader, question, answer, split, index, level)
