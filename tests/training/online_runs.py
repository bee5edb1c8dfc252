"""A policy that answers at random among ten digits, and problems whose answer is one of them."""

from pathlib import Path
from typing import Any

import torch

from rlsubnet.config.model import Recipe, Row
from rlsubnet.evaluation.loading import load_model
from rlsubnet.files import read_jsonl, write_jsonl
from rlsubnet.tasks.tokenizer import load_tokenizer
from rlsubnet.training.credit import Question, make_question
from rlsubnet.training.online import Learner, new_learner
from rlsubnet.training.optimizer import MasterOptimizer
from tests.training.training_runs import row, run_training

PROMPTS = [f"{a}+{b}=" for a in range(10) for b in range(0, 10, 2)]
ALGORITHMS = ("grpo", "raft", "ppo", "prime")
# A learning rate at which a model of a few thousand weights changes its mind within 20 steps.
RECIPE = {"batch_size": 8, "samples": 4, "max_new_tokens": 6, "lr": 3e-3, "warmup_ratio": 0.0}


def write_problems(path: Path) -> Path:
    """Write problems that are all solved by 7."""
    records = [
        {"id": f"level1-{number:04d}", "prompt": prompt, "solution": ";07", "level": 1}
        for number, prompt in enumerate(PROMPTS)
    ]
    write_jsonl(path, records)
    return path


def digits_policy(folder: Path, base: Path, lr: float) -> Path:
    """Return the folder of a model that answers each prompt with ``;0`` and any digit."""
    answers = [
        {"prompt": prompt, "response": f";0{digit}"} for prompt in PROMPTS for digit in range(10)
    ]
    write_jsonl(folder / "sft.jsonl", answers)
    sft = row("sft", steps=150, batch_size=32, lr=lr)
    places = (folder / "resume", folder / "final", folder / "metrics.csv")
    run_training(sft, folder / "sft.jsonl", *places, base)
    return folder / "final"


def online_row(algorithm: str, **changes: Any) -> Row:
    return row(algorithm, **{**RECIPE, **changes})


def recipe(**changes: Any) -> Recipe:
    return Recipe(**{"steps": 1, **RECIPE, **changes})


def learner(algorithm: str, policy: Path, settings: Recipe) -> Learner:
    model = load_model(policy)
    optimizer = MasterOptimizer(dict(model.named_parameters()), settings)
    return new_learner(algorithm, model, optimizer, load_tokenizer(policy), settings)


def questions(problems: Path, policy: Path, count: int) -> list[Question]:
    tokenizer = load_tokenizer(policy)
    return [make_question(record, tokenizer) for record in read_jsonl(problems)[:count]]


def masters(found: Learner) -> dict[str, torch.Tensor]:
    return {name: master.detach().clone() for name, master in found.optimizer.masters.items()}
