"""Subcommands ``evaluate`` and ``evaluate_steps``: all suites of a model, or of a run's steps."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlsubnet.commands._parser import add_command
from rlsubnet.commands.structure import add_saved_steps
from rlsubnet.files import read_object
from rlsubnet.training.progress import time_left

EXAMPLE = """rlsubnet evaluate work/demo/runs/dpo/final \\
      --suite arith500=work/demo/data/arith500.jsonl --suite mc5=work/demo/data/mc5.jsonl \\
      --settings '{"samples": 16, "temperature": 1.0, "batch_size": 512,
                   "max_new_tokens": 12, "seed": 777}' \\
      --scores scores.csv --answers answers.csv.gz"""


STEPS_EXAMPLE = """rlsubnet evaluate_steps work/demo/runs/sft/final work/demo/runs/prime/steps \\
      --suite arith500=work/demo/data/arith500.jsonl \\
      --settings '{"samples": 8, "temperature": 1.0, "batch_size": 512,
                   "max_new_tokens": 12, "seed": 777}' \\
      --out step_scores.csv"""


def add_commands(subcommands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add evaluate and evaluate_steps."""
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
    _add_how(parser)
    parser.add_argument(
        "--scores", required=True, type=Path, metavar="FILE", help="CSV, a row per task and level"
    )
    parser.add_argument(
        "--answers", required=True, type=Path, metavar="FILE", help="gzipped CSV, a row per item"
    )

    parser = add_command(
        subcommands,
        "evaluate_steps",
        run_evaluate_steps,
        "score the start and every saved step of a run (Figure 7)",
        STEPS_EXAMPLE,
        "Score the model that a run started from (step 0) and every saved step of it, as "
        "`rlsubnet evaluate` scores a model. One process holds one model, whose weights are "
        "replaced step by step. Progress goes to stderr.",
    )
    parser.add_argument(
        "init", metavar="INIT", type=Path, help="Hugging Face folder that the run started from"
    )
    add_saved_steps(parser)
    _add_how(parser)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="CSV", help="a row per step, task and level"
    )


def _add_how(parser: argparse.ArgumentParser) -> None:
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
    from rlsubnet.config.model import read_settings

    settings = read_settings(read_object("--settings", options.settings))
    files = read_suites(options.suite)

    import torch

    from rlsubnet.evaluation.loading import load_policy
    from rlsubnet.evaluation.results import SCORE_COLUMNS, write_answers
    from rlsubnet.evaluation.sampler import make_sampler
    from rlsubnet.evaluation.score import chance_levels
    from rlsubnet.evaluation.suites import answer_suites, load_suites
    from rlsubnet.files import write_csv

    suites = load_suites(files)
    model, tokenizer = load_policy(options.model, options.device, getattr(torch, options.dtype))
    draw = make_sampler(settings.sampler, model)
    answers, rows = answer_suites(model, tokenizer, suites, settings, draw)
    write_answers(options.answers, answers)
    write_csv(options.scores, rows, SCORE_COLUMNS)
    chances: dict[str, float] = {}
    for suite in suites:
        chances |= chance_levels(suite.name, suite.records)
    print(summary(rows, chances))


def run_evaluate_steps(options: argparse.Namespace) -> None:
    """Score the start and every saved step, and write the scores of all."""
    from rlsubnet.config.model import read_settings

    settings = read_settings(read_object("--settings", options.settings))
    files = read_suites(options.suite)

    import torch

    from rlsubnet.checkpoints.saved_steps import find_steps
    from rlsubnet.evaluation.loading import load_policy
    from rlsubnet.evaluation.results import STEP_SCORE_COLUMNS
    from rlsubnet.evaluation.sampler import make_sampler
    from rlsubnet.evaluation.steps import models_of_steps
    from rlsubnet.evaluation.suites import answer_suites, load_suites
    from rlsubnet.files import write_csv

    suites, steps = load_suites(files), find_steps(options.saved)
    policy, tokenizer = load_policy(options.init, options.device, getattr(torch, options.dtype))
    # Follows the model from step to step: its weights are replaced in place.
    draw = make_sampler(settings.sampler, policy)
    rows: list[dict[str, Any]] = []
    started, count = time.monotonic(), len(steps) + 1
    for number, (step, model) in enumerate(models_of_steps(policy, options.init, steps), start=1):
        _, scores = answer_suites(model, tokenizer, suites, settings, draw)
        rows += [{"step": step, **row} for row in scores]
        left = time_left((time.monotonic() - started) / number * (count - number))
        shown = ", ".join(summary(scores, {}).splitlines())
        print(f"step {step} ({number}/{count}): {shown}; {left} left", file=sys.stderr, flush=True)
    write_csv(options.out, rows, STEP_SCORE_COLUMNS)


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
