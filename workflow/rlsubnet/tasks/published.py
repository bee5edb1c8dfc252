"""Published data sets of the paper scale, brought into this project's JSON lines."""

import json
import random
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from rlsubnet.checkpoints.hub import Report
from rlsubnet.config.schema import FETCHED_KINDS
from rlsubnet.tasks.rows import (
    Message,
    RowSource,
    as_prompt,
    check_messages,
    describe_value,
    each_row,
    read_rows,
    user_text,
    value_at,
    with_answer,
)
from rlsubnet.tasks.words import INSTRUCTION, STEP_BY_STEP

# grader -> what verl 0.6.1 calls it, and what it looks for in a response.
GRADERS = {
    "gsm8k": ("openai/gsm8k", INSTRUCTION),
    "math": ("DigitalLearningGmbH/MATH-lighteval", f"{STEP_BY_STEP} within \\boxed{{}}."),
}


def number_behind_marks(answer: str) -> str:
    """Return the number that a GSM8K answer ends with, without the commas of its thousands.

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

    >>> level_number("Level 5"), level_number("Level ?")
    (5, None)
    """
    found = re.fullmatch(r"Level ([1-5?])", level)
    if found is None:
        raise ValueError(f"level: expected Level 1 to Level 5 or Level ?, found {level!r}")
    return None if found[1] == "?" else int(found[1])


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


def graded_prompts(rows: RowSource, grader: str, split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a published data set as verl's, in their order.

    Those of GSM8K have ``question`` and ``answer``, those of MATH ``problem``, ``level`` and
    ``solution``.

    >>> rows = [("a.jsonl, row 1", {"question": "1 + 1?", "answer": "1 + 1 = 2\\n#### 2"})]
    >>> found = next(graded_prompts(rows, "gsm8k", "train"))
    >>> found["prompt"][0]["content"], found["reward_model"]["ground_truth"]
    ('1 + 1? Let\\'s think step by step and output the final answer after "####".', '2')
    """
    read, (source, asked_for) = {"gsm8k": _gsm8k, "math": _math}[grader], GRADERS[grader]
    for index, (question, answer, level) in enumerate(each_row(rows, read)):
        yield {
            "data_source": source,
            "prompt": [{"role": "user", "content": f"{question} {asked_for}"}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": answer},
            "extra_info": {"split": split, "index": index, "level": level},
        }


class Answers(NamedTuple):
    """The answers to one prompt, in the order of the file."""

    prompt: list[Message]
    right: list[str]
    wrong: list[str]


def is_right(value: Any) -> bool:
    """Return what a label says: true or false, or 1 or 0.

    >>> is_right(1.0), is_right(False)
    (True, False)
    """
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    raise ValueError(f"expected a label true or false, 1 or 0, found {value!r:.80}")


def _answer_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    messages = check_messages(value, "response")
    if messages[-1]["role"] != "assistant":
        raise ValueError("response: expected the last message to be the assistant's")
    return messages[-1]["content"]


def labelled_answers(
    row: Mapping[str, Any], columns: Mapping[str, str]
) -> tuple[list[Message], list[tuple[str, bool]]]:
    """Return prompt and (answer, right or not) of one row, which holds one answer or a list.

    >>> row = {"q": "2+2?", "samples": ["4", "5"], "ok": [1, 0]}
    >>> labelled_answers(row, {"prompt": "q", "response": "samples", "correct": "ok"})[1]
    [('4', True), ('5', False)]
    """
    prompt, answers, labels = (
        value_at(row, columns[key]) for key in ("prompt", "response", "correct")
    )
    if not isinstance(labels, list):
        answers, labels = [answers], [labels]
    try:
        if not isinstance(answers, list) or len(answers) != len(labels):
            raise ValueError(
                f"{columns['response']}: expected {len(labels)} answers, one for each label in "
                f"{columns['correct']}, found {describe_value(answers)}"
            )
        texts = map(_answer_text, answers)
        return as_prompt(prompt), list(zip(texts, map(is_right, labels), strict=True))
    except ValueError as error:
        raise ValueError(f"{error}; the row is {describe_value(dict(row))}") from error


def gather_answers(rows: RowSource, columns: Mapping[str, str]) -> list[Answers]:
    """Return the answers of every prompt, prompts in the order of their first appearance."""
    prompts: dict[str, Answers] = {}
    for prompt, labelled in each_row(rows, partial(labelled_answers, columns=columns)):
        answers = prompts.setdefault(json.dumps(prompt), Answers(prompt, [], []))
        for answer, right in labelled:
            (answers.right if right else answers.wrong).append(answer)
    return list(prompts.values())


def rollout_pairs(prompts: Sequence[Answers], seed: int) -> tuple[list[dict[str, Any]], str]:
    """Return one pair for each right answer, and a note of what was dropped.

    The paper (section 5): "we select only positive samples, and pair it with a randomly sampled
    negative one". That the negative one answers the same prompt is our reading; so is that each
    positive sample makes a pair (the paper gives no number of pairs). Wrong answers are drawn with
    replacement, one draw a pair.

    >>> [pair], _ = rollout_pairs([Answers([], ["4"], ["5"]), Answers([], ["6"], [])], seed=0)
    >>> pair["rejected"]
    [{'role': 'assistant', 'content': '5'}]
    """
    rng = random.Random(f"{seed} rollout pairs")
    pairs: list[dict[str, Any]] = []
    without_other = 0
    for answers in prompts:
        for right in answers.right if answers.wrong else ():
            # A checker may have judged one text both ways: no preference follows from that.
            others = [wrong for wrong in answers.wrong if wrong != right]
            without_other += not others
            if others:
                sides = {"chosen": right, "rejected": rng.choice(others)}
                pairs.append({side: with_answer(answers.prompt, sides[side]) for side in sides})
    found = sum(len(answers.right) + len(answers.wrong) for answers in prompts)
    all_right = sum(not answers.wrong for answers in prompts)
    none_right = sum(not answers.right for answers in prompts)
    return pairs, (
        f"{len(pairs)} pairs from {found} answers to {len(prompts)} prompts; dropped: "
        f"{all_right} prompts with every answer right, {none_right} with none right, "
        f"{without_other} right answers that equal every wrong one"
    )


def preference_pair(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{"id", "chosen", "rejected"}`` of a row of a preference mixture.

    Rows keep their order: with one seed open-instruct then shuffles them as it would have after
    reading the set by its name.
    """
    sides = {side: check_messages(value_at(row, side), side) for side in ("chosen", "rejected")}
    return {"id": row.get("id"), **sides}


def eval_items(
    rows: RowSource, columns: Mapping[str, str], where: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield ``{"id", "prompt"}`` of each evaluation item whose columns ``where`` hold its values.

    Without a column ``id``, items are numbered from 1.
    """
    numbers = count(1)

    def item(row: Mapping[str, Any]) -> dict[str, Any] | None:
        if any(str(value_at(row, column)) != value for column, value in where.items()):
            return None
        name = value_at(row, columns["id"]) if "id" in columns else next(numbers)
        return {"id": str(name), "prompt": user_text(as_prompt(value_at(row, columns["prompt"])))}

    return filter(None, each_row(rows, item))


def training_prompts(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    return (user_text(record.get("chosen") or record["prompt"]) for record in records)


def _announced(rows: RowSource, report: Report) -> RowSource:
    for number, (where, row) in enumerate(rows):
        if number == 0:
            report(f"{where}: {describe_value(row)}")
        yield where, row


def adapt(
    name: str, spec: Mapping[str, Any], source: Path, report: Report
) -> Iterable[dict[str, Any]]:
    """Return the records of data set ``name`` out of its fetched files.

    Args:
        spec: its entry in the config's ``data:``, complete.
    """
    rows = _announced(read_rows(source), report)
    match spec["kind"]:
        case "tulu_preferences":
            return each_row(rows, preference_pair)
        case "rollout_pairs":
            pairs, note = rollout_pairs(gather_answers(rows, spec["columns"]), spec["seed"])
            report(note)
            return pairs
        case "eval_items":
            return eval_items(rows, spec["columns"], spec["where"])
        case "graded_prompts":
            return graded_prompts(rows, spec["grader"], spec["split"])
    expected = f"expected one of {', '.join(FETCHED_KINDS)}, found {spec['kind']!r}"
    raise ValueError(f"data set {name}, key kind: {expected}")


def normalized_words(text: str) -> list[str]:
    """Return the words of a text without case, punctuation and spacing.

    >>> normalized_words("What is  2+2, Bob?")
    ['what', 'is', '2', '2', 'bob']
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c if c.isalnum() else " " for c in folded).split()


@dataclass
class Overlaps:
    """What of one set of evaluation items stands in training prompts.

    Attributes:
        short: how many have fewer than ``n`` words; only a prompt of the same words is a match.
        exact: item -> number of the first training prompt that has the same words.
        near: item -> (share of its words, number of the training prompt) where one prompt alone
            holds enough of them.
    """

    items: int
    short: int
    exact: dict[str, int] = field(default_factory=dict)
    near: dict[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def matched(self) -> list[str]:
        return list(dict.fromkeys([*self.exact, *self.near]))

    @property
    def share(self) -> float:
        return len(self.matched) / self.items


def find_overlaps(
    prompts: Iterable[str], items: Sequence[tuple[str, str]], n: int = 8, enough: float = 0.5
) -> Overlaps:
    """Return which evaluation items stand in training prompts.

    An item matches a prompt of the same words, or one prompt that holds more than ``enough`` of
    its words, counting those in runs of ``n`` words that item and prompt share. Rule and numbers
    are those of Tulu 3 (arXiv 2411.15124, section 3.2).

    >>> items = [("a", "add 2 and 2 please"), ("b", "x y z w")]
    >>> found = find_overlaps(["Now add 2 and 2!"], items, n=3)
    >>> found.near, found.share
    ({'a': (0.8, 1)}, 0.5)
    """
    words = {name: normalized_words(text) for name, text in items}
    if not words or len(words) != len(items):
        raise ValueError(f"evaluation items: expected different names, found {len(items)} items")
    same: dict[tuple[str, ...], list[str]] = defaultdict(list)
    holders: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for name, its in words.items():
        same[tuple(its)].append(name)
        for start in range(len(its) - n + 1):
            holders[tuple(its[start : start + n])].append((name, start))
    overlaps = Overlaps(items=len(items), short=sum(len(its) < n for its in words.values()))
    for number, prompt in enumerate(prompts, start=1):
        asked = normalized_words(prompt)
        for name in same.get(tuple(asked), ()):
            overlaps.exact.setdefault(name, number)
        covered: dict[str, set[int]] = defaultdict(set)
        for run in {tuple(asked[start : start + n]) for start in range(len(asked) - n + 1)}:
            for name, start in holders.get(run, ()):
                covered[name].update(range(start, start + n))
        for name, places in covered.items():
            share = len(places) / len(words[name])
            if share > max(enough, overlaps.near.get(name, (0.0, 0))[0]):
                overlaps.near[name] = (share, number)
    return overlaps
