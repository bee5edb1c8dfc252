"""Data sets of word problems, read from local files and written for one model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsubnet.tasks.checks import check_count, check_name
from rlsubnet.tasks.completion import Completion
from rlsubnet.tasks.preference import PairCounts, preference_pairs
from rlsubnet.tasks.rows import read_rows
from rlsubnet.tasks.sampling import sample_answers
from rlsubnet.tasks.tokenizer import load_tokenizer
from rlsubnet.tasks.words import TEMPLATES, WordProblem, asked_by, word_problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "dev", "test", "preference")


def read_problems(source: str, split: str, rows: Sequence[int] | None) -> list[WordProblem]:
    """Return the problems of a file, or of ``rows[0]`` to ``rows[1]`` (without the last) of it.

    Args:
        source: JSON or JSON-lines file in the form of GSM8K or SVAMP.
        split: what the problems are for; nothing learns from ``dev`` and ``test``.
        rows: counted from 0; None takes all.

    Raises:
        ValueError: there is no such file, a row is of neither form, or the file has fewer rows.
    """
    check_name("split", split, SPLITS)
    if not Path(source).is_file():
        raise ValueError(f"source: expected a file, found none at {source}")
    problems = []
    for where, row in read_rows(Path(source)):
        try:
            problems.append(word_problem(row))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if rows is None:
        return problems
    whole = [type(row) is int for row in rows]
    if whole != [True, True] or not 0 <= rows[0] < rows[1] <= len(problems):
        raise ValueError(
            f"rows: expected two numbers first < last, at most {len(problems)} as there are rows "
            f"in {source}, found {list(rows)}"
        )
    return problems[rows[0] : rows[1]]


def _questions(
    problems: Sequence[WordProblem], tokenizer: "PreTrainedTokenizerBase", template: str
) -> list[dict[str, Any]]:
    check_name("template", template, TEMPLATES)
    return [
        {
            "id": f"row-{number:05d}",
            "prompt": asked_by(tokenizer, problem.question, template),
            "solution": problem.solution,
            "level": problem.level,
        }
        for number, problem in enumerate(problems)
    ]


def word_problems(
    policy: Path, source: str, split: str, rows: list[int] | None = None, template: str = "chat"
) -> list[dict[str, Any]]:
    """Return problems as records ``{"id", "prompt", "solution", "level"}``.

    Args:
        policy: folder of the model that is asked, for its chat template.
        source: see :func:`read_problems`.
        split: see :func:`read_problems`.
        rows: see :func:`read_problems`.
        template: see :func:`rlsubnet.tasks.words.asked_by`.
    """
    problems = read_problems(source, split, rows)
    return _questions(problems, load_tokenizer(policy), template)


def word_demonstrations(
    policy: Path, source: str, split: str, rows: list[int] | None = None, template: str = "chat"
) -> list[dict[str, Any]]:
    """Return answers to imitate, as records ``{"prompt", "response", "level"}``.

    The arguments are those of :func:`word_problems`.
    """
    problems = read_problems(source, split, rows)
    questions = _questions(problems, load_tokenizer(policy), template)
    return [
        {"prompt": asked["prompt"], "response": problem.response, "level": problem.level}
        for asked, problem in zip(questions, problems, strict=True)
    ]


def word_preferences(
    policy: Path,
    source: str,
    split: str,
    samples: int,
    temperature: float,
    seed: int,
    max_new_tokens: int,
    rows: list[int] | None = None,
    template: str = "chat",
    batch_size: int = 512,
    sampler: str = "own",
) -> tuple[list[dict[str, Any]], PairCounts]:
    """Return pairs out of a policy's own samples, and what became of the prompts.

    Args:
        policy: folder of the policy and its tokenizer.
        source: see :func:`read_problems`.
        split: see :func:`read_problems`.
        samples: samples per problem.
        temperature: of the samples, above 0.
        seed: of samples and pairs.
        max_new_tokens: length at which a sample is cut off and counts as wrong.
        rows: see :func:`read_problems`.
        template: see :func:`rlsubnet.tasks.words.asked_by`.
        batch_size: number of samples generated side by side.
        sampler: see :func:`rlsubnet.tasks.sampling.sample_answers`.
    """
    check_count("samples", samples)
    tokenizer = load_tokenizer(policy)
    questions = _questions(read_problems(source, split, rows), tokenizer, template)
    prompts = [question["prompt"] for question in questions]
    completions = sample_answers(
        policy, prompts, samples, temperature, seed, max_new_tokens, batch_size, sampler
    )
    special = tuple(str(token) for token in tokenizer.all_special_tokens)

    def is_usable(sample: Completion) -> bool:
        # A special token in a text would become one again when the text is trained on.
        text, finished = sample
        return finished and text.strip() != "" and not any(token in text for token in special)

    return preference_pairs(questions, completions, seed, is_usable)
