"""One run on one device, by this package's own trainer."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.masks import Mask
from rlsubnet.config.layout import RunFiles
from rlsubnet.config.model import ONLINE, Row
from rlsubnet.evaluation.loading import deterministic, load_model, pick_device
from rlsubnet.files import read_jsonl
from rlsubnet.tasks.tokenizer import build_tokenizer, load_tokenizer, padding_token
from rlsubnet.training.batches import Example, mismatched_examples
from rlsubnet.training.credit import Question, make_questions
from rlsubnet.training.device import ChangedWeights, read_every
from rlsubnet.training.journal import Journal, StepSaver
from rlsubnet.training.loop import find_algorithm, make_examples, train
from rlsubnet.training.masking import attach_mask
from rlsubnet.training.model import (
    bytes_per_logit,
    bytes_per_sequence,
    device_memory,
    fewest_parts,
    fits,
    move_model,
    new_model,
    prepare_training,
    save_model,
)
from rlsubnet.training.online import new_learner, train_online
from rlsubnet.training.optimizer import MasterOptimizer
from rlsubnet.training.runlog import METRICS, ONLINE_METRICS, environment, wandb_logging


def start_model(row: Row, init: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model a run starts from, and its tokenizer."""
    if (init is None) == (row.architecture is None):
        given = "both" if init is not None else "neither"
        raise ValueError(
            f"run {row.run}: expected a folder to start from or an architecture, found {given}"
        )
    if init is None:
        assert row.architecture is not None, "checked above"
        tokenizer = build_tokenizer()
        return new_model(row.architecture, tokenizer, row.seed), tokenizer
    return load_model(init, getattr(torch, row.recipe.compute)), load_tokenizer(init)


def check_lengths(lengths: Iterable[int], model: PreTrainedModel, data: Path) -> None:
    """Check that every sequence fits into the model.

    Args:
        lengths: tokens of the longest sequence of each line of the data file.

    Raises:
        ValueError: naming the line of the data file and the lengths.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    for number, length in enumerate(lengths, start=1):
        if limit is not None and length > limit:
            raise ValueError(
                f"{data}, line {number}: {length} tokens; the model has {limit} positions"
            )


def fitted(row: Row, model: PreTrainedModel, longest: int, given: int, members: int) -> Row:
    """Return the row with its recipe decided where it is left to memory: parts, and recomputing.

    Args:
        longest: tokens of the longest sequence of all data.
        given: tokens of the shortest prompt of all data, whose logits are not computed.
        members: sequences of each example, or responses to each question.
    """
    recipe, memory = row.recipe, device_memory(model.device)
    examples = recipe.batch_size // recipe.updates
    logit = bytes_per_logit(recipe, row.algorithm in ONLINE)

    def needed(recompute: bool) -> int:
        return bytes_per_sequence(model.config, recompute, longest, longest - given, logit)

    recompute, parts = recipe.recompute, recipe.accumulate
    if recompute is None:
        recompute = not fits(members, needed(recompute=False), memory)
    if parts is None:
        parts = fewest_parts(members * examples, examples, needed(recompute), memory)
    if (recompute, parts) == (recipe.recompute, recipe.accumulate):
        return row
    twice = ", activations twice" if recompute else ""
    print(f"{row.run}: a batch is computed in {parts} part(s){twice}", file=sys.stderr, flush=True)
    return row.but(recipe=recipe.but(accumulate=parts, recompute=recompute))


def read_examples(
    row: Row, data: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[Example]:
    algorithm = find_algorithm(row.algorithm)
    try:
        examples = make_examples(read_jsonl(data), algorithm, tokenizer)
    except ValueError as error:
        raise ValueError(f"{data}, {error}") from error
    if len(examples) < (size := row.recipe.batch_size):
        raise ValueError(f"{data}: {len(examples)} examples, expected a batch of {size}")
    for checked in [examples, *([mismatched_examples(examples)] if algorithm.mismatched else [])]:
        check_lengths((max(len(s.tokens) for s in example) for example in checked), model, data)
    return examples


def read_questions(
    row: Row, data: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[Question]:
    try:
        questions = make_questions(read_jsonl(data), tokenizer)
    except ValueError as error:
        raise ValueError(f"{data}, {error}") from error
    room = row.recipe.max_new_tokens
    check_lengths((len(question.prompt) + room for question in questions), model, data)
    return questions


class NativeTrainer:
    """Trains one run in this process, on one device: see :mod:`rlsubnet.backends.trainers`."""

    def __init__(self, row: Row, files: RunFiles, device: str = "auto") -> None:
        self._row, self._files, self._device = row, files, pick_device(device)
        self._online = row.algorithm in ONLINE
        self._saver: StepSaver | None = None
        self.columns = ONLINE_METRICS if self._online else METRICS
        if row.recipe.sparsity_every:
            # Share of weights that are as at the start, at 1e-5, after the step.
            self.columns = (*self.columns, "sparsity")

    def check(self) -> None:
        if not self._online:
            find_algorithm(self._row.algorithm)

    def environment(self) -> dict[str, Any]:
        return environment(self._device, self._row.recipe.sampler if self._online else "own")

    def train(self, belongs_to: Mapping[str, Any], lock: int) -> list[dict[str, Any]]:
        row, files = self._row, self._files
        with deterministic(self._device):
            self._model, self._tokenizer = model, tokenizer = start_model(row, files.init)
            move_model(model, self._device, getattr(torch, row.recipe.compute))
            if self._online:
                questions = read_questions(row, files.data, model, tokenizer)
                lengths = [len(question.prompt) for question in questions]
                longest = max(lengths) + row.recipe.max_new_tokens
                row = fitted(row, model, longest, min(lengths), row.recipe.samples)
            else:
                examples = read_examples(row, files.data, model, tokenizer)
                samples = [sample for example in examples for sample in example]
                longest = max(len(sample.tokens) for sample in samples)
                given = min(sample.given for sample in samples)
                row = fitted(row, model, longest, given, len(examples[0]))
            optimizer = MasterOptimizer(dict(model.named_parameters()), row.recipe)
            changed = ChangedWeights(model) if row.recipe.sparsity_every else None
            if files.mask is not None:
                masked = attach_mask(optimizer.inner, optimizer.masters, Mask(files.mask))
                optimizer.mask = masked
            if files.init is not None and row.recipe.checkpoint_every:
                init = Checkpoint(files.init)
                self._saver = StepSaver(files.scratch / "steps", row.recipe, init, model)
            prepare_training(model, row.recipe)
            with wandb_logging(self._row, files.scratch.parent / "wandb") as log:
                journal = Journal(
                    row,
                    files.scratch,
                    belongs_to,
                    log,
                    self._saver,
                    self.columns,
                    read_every(model.device),
                    changed,
                )
                if self._online:
                    learner = new_learner(row.algorithm, model, optimizer, tokenizer, row.recipe)
                    return train_online(row, learner, questions, journal)
                pad = padding_token(tokenizer)
                return train(row, model, optimizer, examples, pad, journal)

    def collect(self, folder: Path) -> dict[str, Any]:
        folder.mkdir()
        save_model(self._model, self._tokenizer, folder, self._files.init)
        if self._saver is not None:
            self._saver.check_final(Checkpoint(folder))
        return {"steps": self._row.recipe.steps}
