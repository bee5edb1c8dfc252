"""Subcommands that score models: all suites of one, or of a run's steps, also by olmes."""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsubnet.columns import ScoreRow, StepScoreRow, names
from rlsubnet.commands.measure import add_saved_steps
from rlsubnet.commands.shared import Subcommands, add_command, add_config, add_path, read_config
from rlsubnet.files import write_csv, write_json

if TYPE_CHECKING:
    from rlsubnet.backends.olmes import Olmes
    from rlsubnet.backends.olmes_outputs import Settings as OlmesSettings
    from rlsubnet.config.schema import Sampling


def run_evaluate(options: argparse.Namespace) -> None:
    """Score a model on test suites: problems are sampled and decoded greedily and graded by a
    strict verifier, multiple choice is graded by log-likelihood per token, and preference pairs by
    which response is more likely.

    Example:
      rlsubnet evaluate work/demo/runs/dpo/final --config config/demo/config.yaml \\
          --suite arith500=work/demo/data/arith500.jsonl --suite mc5=work/demo/data/mc5.jsonl \\
          --scores scores.csv --answers answers.csv.gz
    """
    settings = settings_of(options)
    files = read_suites(options.suite)

    import torch

    from rlsubnet.evaluation.results import write_answers
    from rlsubnet.evaluation.sampler import open_policy
    from rlsubnet.evaluation.score import answer_suites, chance_levels, load_suites

    suites = load_suites(files)
    dtype = getattr(torch, options.dtype)
    policy = open_policy(options.model, settings, options.device, dtype)
    answers, rows = answer_suites(policy, suites)
    write_answers(options.answers, answers)
    write_csv(options.scores, rows, names(ScoreRow))
    chances: dict[str, float] = {}
    for suite in suites:
        chances |= chance_levels(suite.name, suite.records)
    print(summary(rows, chances))


def run_evaluate_steps(options: argparse.Namespace) -> None:
    """Score the model that a run started from (step 0) and every saved step of it, as
    `rlsubnet evaluate` scores a model. One process holds one model, whose weights are replaced
    step by step. Progress goes to stderr.

    Example:
      rlsubnet evaluate_steps work/demo/runs/sft/final work/demo/runs/prime/steps \\
          --config config/demo/config.yaml --suite arith500=work/demo/data/arith500.jsonl \\
          --out step_scores.csv
    """
    settings = settings_of(options, samples="step_samples")
    files = read_suites(options.suite)

    import torch

    from rlsubnet.checkpoints.delta import find_steps
    from rlsubnet.evaluation.sampler import open_policy
    from rlsubnet.evaluation.score import answer_suites, load_steps, load_suites

    suites, steps = load_suites(files), find_steps(options.saved)
    dtype = getattr(torch, options.dtype)
    policy = open_policy(options.init, settings, options.device, dtype)
    rows: list[dict[str, Any]] = []
    started, count = time.monotonic(), len(steps) + 1
    for number, step in enumerate(load_steps(policy.model, options.init, steps), start=1):
        _, scores = answer_suites(policy, suites)
        rows += [{"step": step, **row} for row in scores]
        seconds = (time.monotonic() - started) / number * (count - number)
        left = timedelta(seconds=round(seconds))
        shown = ", ".join(summary(scores, {}).splitlines())
        print(f"step {step} ({number}/{count}): {shown}; {left} left", file=sys.stderr, flush=True)
    write_csv(options.out, rows, names(StepScoreRow))


def settings_of(options: argparse.Namespace, samples: str = "samples") -> "Sampling":
    """Return the settings of the config's evaluation; ``samples`` is the key that says how many."""
    from rlsubnet.config.schema import read_sampling

    block = read_config(options)["evaluation"]
    return read_sampling({**block, "samples": block[samples]})


def read_suites(arguments: Sequence[str]) -> dict[str, Path]:
    """Return the file of each suite.

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


def run_evaluate_olmes(options: argparse.Namespace) -> None:
    """Check a model folder and the installed olmes, run olmes on all its tasks without network
    and count right answers in what it wrote.

    Example:
      rlsubnet evaluate_olmes work/paper/runs/dpo/final --gpus 1 \\
          --config config/paper/config.yaml --cache work/paper/olmes/cache \\
          --raw work/paper/olmes/runs/dpo --scores scores.csv --answers answers.csv.gz
    """
    from rlsubnet.evaluation.results import write_answers

    olmes = _olmes(options, "suites")
    answers, rows = olmes.evaluate(options.model, options.raw)
    write_answers(options.answers, answers)
    write_csv(options.scores, rows, names(ScoreRow))
    tasks = olmes.settings.tasks
    print(summary(rows, {task.name: task.chance for task in tasks if task.chance is not None}))


def run_evaluate_steps_olmes(options: argparse.Namespace) -> None:
    """Score the model that a run started from (step 0) and every saved step of it, as
    `rlsubnet evaluate_olmes` scores a model. One step at a time lies on the disk in full.

    Example:
      rlsubnet evaluate_steps_olmes work/paper/models/Eurus-2-7B-SFT \\
          work/paper/runs/prime/steps --gpus 1 --config config/paper/config.yaml \\
          --cache work/paper/olmes/cache --raw work/paper/olmes/steps/prime --out step_scores.csv
    """
    from rlsubnet.checkpoints.delta import find_steps

    steps, olmes = find_steps(options.saved), _olmes(options, "step_suites")
    rows: list[dict[str, Any]] = []
    for step, scores in olmes.evaluate_steps(options.init, steps, options.raw):
        rows += [{"step": step, **row} for row in scores]
        shown = ", ".join(summary(scores, {}).splitlines())
        print(f"step {step} of {', '.join(map(str, steps))}: {shown}", file=sys.stderr, flush=True)
    write_csv(options.out, rows, names(StepScoreRow))


def run_prefetch_olmes(options: argparse.Namespace) -> None:
    """Let olmes write its requests without a model, which brings its data to the cache, and
    check how many there are. Run it where there is internet. GPQA is gated: accept its
    terms on its page and put a token into HF_TOKEN.

    Example:
      rlsubnet prefetch_olmes --config config/paper/config.yaml \\
          --cache work/paper/olmes/cache --out work/paper/olmes/prefetched.json
    """
    from rlsubnet.backends.olmes import prefetch

    settings, folder = _olmes_settings(options, "suites", "step_suites")
    write_json(options.out, prefetch(settings, options.cache, folder))


def _olmes(options: argparse.Namespace, key: str) -> "Olmes":
    """Return the installed olmes, checked, and print what is known of the training data."""
    from rlsubnet.backends.olmes import Olmes, contamination_lines

    settings, folder = _olmes_settings(options, key)
    found = Olmes(settings, options.cache, folder, options.gpus, options.model_type)
    print(*contamination_lines(options.contamination), sep="\n", flush=True)
    return found


def _olmes_settings(options: argparse.Namespace, *keys: str) -> "tuple[OlmesSettings, Path | None]":
    """Return what olmes is asked, the suites of ``keys``, and the environment that it is in."""
    from rlsubnet.backends.olmes_outputs import read_settings
    from rlsubnet.config.schema import olmes_settings

    block = read_config(options)["evaluation"]
    folder = block["olmes"]["environment"]
    return read_settings(olmes_settings(block, *keys)), Path(folder) if folder else None


def add_commands(subcommands: Subcommands) -> None:
    heavy = ("torch", "transformers")
    parser = add_command(subcommands, "evaluate", run_evaluate, needs=heavy)
    _add_model(parser)
    _add_how(parser)

    parser = add_command(subcommands, "evaluate_steps", run_evaluate_steps, needs=heavy)
    _add_steps(parser)
    _add_how(parser)

    parser = add_command(subcommands, "evaluate_olmes", run_evaluate_olmes)
    _add_model(parser)
    _add_olmes(parser)

    parser = add_command(subcommands, "evaluate_steps_olmes", run_evaluate_steps_olmes)
    _add_steps(parser)
    _add_olmes(parser)

    parser = add_command(subcommands, "prefetch_olmes", run_prefetch_olmes)
    _add_config_and_cache(parser)
    add_path(parser, "--out", "FILE", "JSON, items and digest by task")


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="Hugging Face model folder")
    add_path(parser, "--scores", "FILE", "CSV, a row per task and level")
    add_path(parser, "--answers", "FILE", "gzipped CSV, a row per item")


def _add_steps(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "init", metavar="INIT", type=Path, help="Hugging Face folder that the run started from"
    )
    add_saved_steps(parser)
    add_path(parser, "--out", "CSV", "a row per step, task and level")


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--suite",
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="test data made by `rlsubnet data` (kinds problems, choices, preferences); repeatable",
    )
    add_config(parser)
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda or auto (default): cuda if there is a GPU"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="precision of the computation (default float32, also for weights stored in bfloat16)",
    )


def _add_config_and_cache(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_path(parser, "--cache", "DIR", "folder with the data of the tasks")


def _add_olmes(parser: argparse.ArgumentParser) -> None:
    _add_config_and_cache(parser)
    raw = "folder for what olmes writes; emptied first, as olmes skips tasks that it finds done"
    add_path(parser, "--raw", "DIR", raw)
    parser.add_argument(
        "--gpus", type=int, default=0, help="GPUs of this job; one engine spreads over all of them"
    )
    parser.add_argument(
        "--contamination",
        nargs="*",
        default=[],
        type=Path,
        metavar="CSV",
        help="reports on the data that the model was trained on; what they found is said again "
        "beside the scores",
    )
    parser.add_argument(
        "--model-type",
        choices=("vllm", "hf"),
        default="vllm",
        help="engine (default vllm); hf, plain transformers, needs no GPU and is for trials",
    )
