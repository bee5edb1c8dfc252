"""Word problems in the forms of GSM8K and SVAMP, asked in a model's own way, and their grader."""

import re
import threading
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from rlsubnet.extras import how_to_install
from rlsubnet.tasks import arithmetic
from rlsubnet.tasks.rows import describe_value

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# GSM8K's own mark in front of the final answer; a solution begins with it.
MARK = "####"
STEP_BY_STEP = "Let's think step by step and output the final answer"
INSTRUCTION = f'{STEP_BY_STEP} after "{MARK}".'
HARDEST = 5
# What a model may write takes sympy forever to compute: 9^9^9^9.
GRADING_SECONDS = 5

_CALCULATOR = re.compile(r"<<[^>]*>>")


class WordProblem(NamedTuple):
    """A question, a way to its answer, the answer (a number) and the number of steps."""

    question: str
    reasoning: str
    answer: str
    steps: int

    @property
    def level(self) -> int:
        """Return the number of steps, 1 to 5, where 5 stands for all above."""
        return max(1, min(HARDEST, self.steps))

    @property
    def response(self) -> str:
        """Return the answer as a demonstration: the way to it, the mark, and the number.

        >>> WordProblem("How many?", "3 + 4 = 7", "7", 1).response
        '3 + 4 = 7\\n#### 7'
        """
        return f"{self.reasoning}\n{self.solution}"

    @property
    def solution(self) -> str:
        return f"{MARK} {self.answer}"


def plain_number(text: str) -> str:
    """Return a number without the commas that group its digits, and without a fraction of 0.

    >>> plain_number("1,234"), plain_number("51.0"), plain_number("0.5")
    ('1234', '51', '0.5')
    """
    cleaned = text.strip().replace(",", "")
    try:
        value = Decimal(cleaned)
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite():
        raise ValueError(f"expected a number, found {text!r:.80}")
    return str(int(value)) if value == int(value) else cleaned


def from_gsm8k(row: Mapping[str, Any]) -> WordProblem:
    """Return a row of GSM8K: the answer stands behind the mark, calculations in ``<<>>``.

    >>> from_gsm8k({"question": "How many?", "answer": "3+4=<<3+4=7>>7 in all\\n#### 7"})
    WordProblem(question='How many?', reasoning='3+4=7 in all', answer='7', steps=1)
    """
    reasoning, mark, answer = row["answer"].rpartition(MARK)
    if not mark:
        raise ValueError(f"answer: no {MARK} in front of the number")
    steps = len(_CALCULATOR.findall(reasoning))
    shown = _CALCULATOR.sub("", reasoning).strip()
    return WordProblem(row["question"].strip(), shown, plain_number(answer), steps)


def from_svamp(row: Mapping[str, Any]) -> WordProblem:
    """Return a row of SVAMP: a body and a question, an equation and its value.

    >>> row = {"Body": "Dan had $ 4", "Question": "How much is left?",
    ...        "Equation": "( 4.0 - 3.0 )", "Answer": 1.0}
    >>> from_svamp(row)[:3]
    ('Dan had $ 4. How much is left?', '4 - 3 = 1', '1')
    """
    body, question = row["Body"].strip(), row["Question"].strip()
    text = f"{body} {question}" if body.endswith((".", ",", "?", "!")) else f"{body}. {question}"
    answer = plain_number(str(row["Answer"]))
    equation = re.sub(r"(\d)\.0\b", r"\1", row["Equation"]).strip()
    if equation.startswith("(") and equation.count("(") == 1 and equation.endswith(")"):
        equation = equation[1:-1].strip()
    steps = len(re.findall(r" [-+*/] ", equation))
    return WordProblem(text, f"{equation} = {answer}", answer, steps)


# Columns -> what reads a row that has them.
FORMATS: dict[tuple[str, ...], Callable[[Mapping[str, Any]], WordProblem]] = {
    ("question", "answer"): from_gsm8k,
    ("Body", "Question", "Equation", "Answer"): from_svamp,
}


def word_problem(row: Mapping[str, Any]) -> WordProblem:
    """Return a row of a file in one of the known forms."""
    for columns, convert in FORMATS.items():
        if set(columns) <= set(row):
            return convert(row)
    expected = " or ".join(map(", ".join, FORMATS))
    raise ValueError(f"expected the columns {expected}; the row is {describe_value(dict(row))}")


def asked_by(tokenizer: "PreTrainedTokenizerBase", question: str, template: str) -> str:
    """Return a question as the prompt of a model.

    Args:
        template: ``chat``: what the tokenizer's chat template makes of a user's message; ``plain``:
            a text for models that have none.
    """
    text = f"{question}\n{INSTRUCTION}"
    if template == "plain":
        return f"Question: {text}\nAnswer:"
    if tokenizer.chat_template is None:
        raise ValueError("template: the model's tokenizer has no chat template; expected plain")
    messages = [{"role": "user", "content": text}]
    prompt = str(
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    )
    # Every prompt gets the start token where it is tokenized.
    return prompt.removeprefix(tokenizer.bos_token or "")


def is_correct_number(response: str, solution: str) -> bool:
    """Return whether a response states the number of ``solution``, as math-verify reads it.

    What stands behind the last mark counts, and without a mark the whole response, of which
    math-verify takes a boxed number before the last one.

    Raises:
        ValueError: the solution holds no number, or math-verify is not installed.

    >>> is_correct_number("3 + 4 is 7, not 8.\\n#### 7.0", "#### 7")
    True
    """
    parse, verify, limit = _math_verify()
    stated = response.rpartition(MARK)[2]
    return bool(
        verify(_number(solution), parse(stated, parsing_timeout=limit), timeout_seconds=limit)
    )


def _math_verify() -> tuple[Callable[..., Any], Callable[..., bool], int | None]:
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise ValueError(
            f"grading word problems needs math-verify; {how_to_install('math_verify')}"
        ) from error
    # Its limits are alarms, which only the main thread can set.
    main = threading.current_thread() is threading.main_thread()
    return parse, verify, GRADING_SECONDS if main else None


@lru_cache(maxsize=100_000)
def _number(solution: str) -> Any:
    parse, _, limit = _math_verify()
    # In dollars it is read as mathematics from end to end.
    number = parse(f"${solution.removeprefix(MARK).strip()}$", parsing_timeout=limit)
    if not number:
        raise ValueError(f"solution {solution!r}: expected {MARK} and a number")
    return number


def is_correct(response: str, solution: str) -> bool:
    """Return whether ``response`` is right; the solution tells how it is verified.

    Behind ``####`` it is the number of a word problem; all others are of made-up arithmetic.

    >>> is_correct(";08", "(1212080808"), is_correct("It is 8.", "#### 8")
    (True, True)
    """
    if solution.startswith(MARK):
        return is_correct_number(response, solution)
    return arithmetic.is_correct_total(response, solution)
