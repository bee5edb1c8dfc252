"""Runs of the shapes of config/gpu on the stand-in for a GPU: models, recipes, data."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from benchmarks.gpu.size import HALF_BILLION
from rlsubnet.config import load_config, load_scale, resolved_row
from rlsubnet.config.model import Recipe, Row
from rlsubnet.tasks.tokenizer import VOCAB_SIZE
from rlsubnet.training.batches import Example, Sample
from rlsubnet.training.credit import Group, Question
from rlsubnet.training.loop import ALGORITHMS, ONLINE
from rlsubnet.training.model import move_model
from tests.conftest import REPOSITORY
from tests.training.stand_in import GPU, META

SCALES = {
    name: load_scale(load_config([REPOSITORY / "config/gpu" / f"{name}.yaml"]), REPOSITORY)
    for name in ("config", "own-model")
}
# Tokens of the longest sequence, and of its prompt. In config.yaml: 96 characters behind a start
# token; a prompt of 24, an answer of 31 and its end. In own-model.yaml long problems of GSM8K.
LONGEST = {"config": (58, 25), "own-model": (600, 250)}
PRETRAINING = (97, 1)
PAIRS = {name for name, algorithm in ALGORITHMS.items() if algorithm.reference} | {"simpo", "orpo"}


def architecture(scale: str) -> dict[str, Any]:
    """Return what Qwen2Config is told: 75.6 million weights, or the shape of Qwen2.5-0.5B."""
    if scale == "config":
        own = SCALES[scale].config["models"]["small"]["architecture"]
        return {**own, "vocab_size": VOCAB_SIZE}
    return {**HALF_BILLION.architecture, "vocab_size": HALF_BILLION.vocabulary}


def gpu_model(scale: str, layers: int | None = None) -> PreTrainedModel:
    """Return a model of the scale's shape on the stand-in, as a run has it; None: all layers."""
    shape = architecture(scale)
    config = Qwen2Config(
        **{**shape, "num_hidden_layers": layers or shape["num_hidden_layers"]},
        attn_implementation="sdpa",
    )
    with torch.device(META):
        model = Qwen2ForCausalLM(config).eval()
    move_model(model, GPU, torch.bfloat16)
    return model


def row_of(scale: str, run: str, algorithm: str | None = None, **changes: Any) -> Row:
    """Return a row of the sheet, undivided and unsaved; two steps and ``changes``."""
    values = resolved_row(SCALES[scale], run)
    values.pop("backend")
    recipe = Recipe(**values.pop("recipe"))
    unsaved = {"steps": 2, "save_every": 0, "checkpoint_every": 0}
    decided = {"accumulate": recipe.accumulate or 1, "recompute": bool(recipe.recompute)}
    row = Row(**values, recipe=replace(recipe, **{**unsaved, **decided, **changes}))
    return replace(row, algorithm=algorithm or row.algorithm)


def shape(row: Row, scale: str) -> tuple[int, int, int]:
    """Return tokens of the longest sequence, those of its prompt, and the sequences in a batch."""
    if row.algorithm in ONLINE:
        given = LONGEST[scale][1]
        return given + row.recipe.max_new_tokens, given, row.recipe.batch_size * row.recipe.samples
    longest, given = PRETRAINING if row.algorithm == "pretrain" else LONGEST[scale]
    return longest, given, row.recipe.batch_size * (2 if row.algorithm in PAIRS else 1)


def lengths(longest: int, given: int, count: int) -> list[int]:
    """Return ``count`` lengths, from three quarters of a response up, one in three the longest."""
    spread = max(1, (longest - given) // 4)
    return [longest - number % 3 * number % spread for number in range(count)]


def offline_examples(row: Row, scale: str) -> list[Example]:
    """Return a batch of examples for each step."""
    longest, given, sequences = shape(row, scale)
    sizes = lengths(longest, given, row.recipe.batch_size * row.recipe.steps)
    members = sequences // row.recipe.batch_size
    return [tuple(Sample([1] * size, given) for _ in range(members)) for size in sizes]


def questions_of(row: Row, scale: str) -> list[Question]:
    """Return the questions of all batches."""
    count = row.recipe.batch_size * row.recipe.oversample * row.recipe.steps
    return [Question([1] * LONGEST[scale][1], "") for _ in range(count)]


def drawn(questions: Sequence[Question], recipe: Recipe) -> list[Group]:
    """Return what a policy may have answered: half of it right, all of it ended."""
    given = len(questions[0].prompt)
    sizes = lengths(given + recipe.max_new_tokens, given, recipe.samples)
    samples = [Sample([1] * size, given) for size in sizes]
    right = [number % 2 == 0 for number in range(recipe.samples)]
    return [Group(samples, right, True) for _ in questions]
