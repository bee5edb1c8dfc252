"""Subcommand ``evaluate``: all suites of one model in one process."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlsubnet.commands._parser import add_command
from rlsubnet.files import read_object

EXAMPLE = """rlsubnet evaluate work/demo/runs/dpo/final \\
      --suite arith500=work/demo/data/arith500.jsonl --suite mc5=work/demo/data/mc5.jsonl \\
      --settings '{"samples": 16, "temperature": 1.0, "batch_size": 512,
                   "max_new_tokens": 12, "seed": 777}' \\
      --scores scores.csv --answers answers.csv.gz"""


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add this area's subcommands."""
    parser = add_command(
        subcommands,
        "evaluate",
        run_evaluate,
        "score a model on all its test suites",
        EXAMPLE,
        "Score a model on test suites: problems are sampled and decoded greedily and graded by a "
        "strict verifier, multiple choice is graded by log-likelihood per token, and preference "
        "pairs by which response is more likely.",
    )
    parser.add_argument("model", metavar="MODEL", type=Path, help="Hugging Face model folder")
    parser.add_argument(
        "--suite",
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="test data made by `rlsubnet data` (kinds problems, choices, preferences); repeatable",
    )
    parser.add_argument(
        "--settings",
        required=True,
        metavar="JSON",
        help="the config's evaluation block as JSON, or @FILE",
    )
    parser.add_argument(
        "--scores", required=True, type=Path, metavar="FILE", help="CSV, a row per task and level"
    )
    parser.add_argument(
        "--answers", required=True, type=Path, metavar="FILE", help="gzipped CSV, a row per item"
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda or auto (default): cuda if there is a GPU"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="precision of the computation (default float32, also for weights stored in bfloat16)",
    )


def run_evaluate(options: argparse.Namespace) -> None:
    """Score the model and write scores and answers."""
    from rlsubnet.evaluation.settings import read_settings

    settings = read_settings(read_object("--settings", options.settings))
    suites = read_suites(options.suite)

    import torch

    from rlsubnet.evaluation.loading import load_policy
    from rlsubnet.evaluation.results import SCORE_COLUMNS, score_rows, write_answers
    from rlsubnet.evaluation.score import chance_levels, suite_answers
    from rlsubnet.files import read_jsonl, sha256, write_csv

    model, tokenizer = load_policy(options.model, options.device, getattr(torch, options.dtype))
    answers = []
    digests: dict[str, str] = {}
    chances: dict[str, float] = {}
    for name, path in suites.items():
        records = read_jsonl(path)
        of_suite = suite_answers(model, tokenizer, name, records, settings)
        digests |= dict.fromkeys((answer.task for answer in of_suite), sha256(path))
        chances |= chance_levels(name, records)
        answers += of_suite
    rows = score_rows(answers, digests)
    write_answers(options.answers, answers)
    write_csv(options.scores, rows, SCORE_COLUMNS)
    print(summary(rows, chances))


def read_suites(arguments: Sequence[str]) -> dict[str, Path]:
    """Return the file of each suite.

    Raises:
        ValueError: an argument is not ``NAME=FILE``, or a name comes twice.

    >>> read_suites(["mc5=data/mc5.jsonl"])["mc5"].name
    'mc5.jsonl'
    """
    suites: dict[str, Path] = {}
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not (name and equals and path) or name in suites:
            raise ValueError(f"--suite {argument}: expected NAME=FILE, each name once")
        suites[name] = Path(path)
    return suites


def summary(rows: Sequence[Mapping[str, Any]], chances: Mapping[str, float]) -> str:
    """Return one line per task: accuracy, 95 % interval and chance level, in per cent."""
    lines = []
    for row in rows:
        if row["level"] == "all":
            low, high = 100 * float(row["ci_low"]), 100 * float(row["ci_high"])
            share = 100 * row["correct"] / row["n"]
            chance = chances.get(row["task"])
            guess = "" if chance is None else f", chance {100 * chance:.1f}"
            lines.append(
                f"{row['task']}: {share:.2f} % of {row['n']} "
                f"[{low:.2f}, {high:.2f}] ({row['interval']}){guess}"
            )
    return "\n".join(lines)
