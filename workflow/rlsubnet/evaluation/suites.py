"""Suites of test data: read once, answered by any number of models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlsubnet.config.model import Settings
from rlsubnet.evaluation.results import Answer, score_rows
from rlsubnet.evaluation.sampler import Sampler
from rlsubnet.evaluation.score import Records, suite_answers
from rlsubnet.files import read_jsonl, sha256


class Suite(NamedTuple):
    """The records of one data file, and its digest."""

    name: str
    records: Records
    data_sha256: str


def load_suites(files: Mapping[str, Path]) -> list[Suite]:
    """Return the suites of ``name -> file``, in that order."""
    return [Suite(name, read_jsonl(path), sha256(path)) for name, path in files.items()]


def answer_suites(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suites: Sequence[Suite],
    settings: Settings,
    draw: Sampler | None = None,
) -> tuple[list[Answer], list[dict[str, Any]]]:
    """Return a model's answers to all suites, and their scores: a row per task and level.

    Raises:
        ValueError: a suite is empty, or of no kind that there is a scorer for.
    """
    answers: list[Answer] = []
    digests: dict[str, str] = {}
    for suite in suites:
        of_suite = suite_answers(model, tokenizer, suite.name, suite.records, settings, draw)
        digests |= dict.fromkeys((answer.task for answer in of_suite), suite.data_sha256)
        answers += of_suite
    return answers, score_rows(answers, digests)
