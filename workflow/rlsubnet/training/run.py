"""One run on one device, by this package's own trainer."""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlsubnet import machine
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.masks import Mask
from rlsubnet.config.layout import RunFiles
from rlsubnet.config.model import ONLINE, Row
from rlsubnet.evaluation.loading import deterministic, load_model, pick_device
from rlsubnet.evaluation.vllm import vllm_version
from rlsubnet.tasks.tokenizer import build_tokenizer, load_tokenizer, padding_token
from rlsubnet.training.batches import Example, mismatched_examples, read_records
from rlsubnet.training.credit import Question, make_question
from rlsubnet.training.device import ChangedWeights, read_every
from rlsubnet.training.journal import Journal, StepSaver
from rlsubnet.training.loop import ALGORITHMS, train
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
from rlsubnet.training.runlog import METRICS, ONLINE_METRICS, wandb_logging


def start_model(row: Row, init: Path | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the model a run starts from, and its tokenizer."""
    if row.architecture is not None:
        tokenizer = build_tokenizer()
        return new_model(row.architecture, tokenizer, row.seed), tokenizer
    assert init is not None, "the sheets give a run one of the two"
    return load_model(init, getattr(torch, row.recipe.compute)), load_tokenizer(init)


def check_lengths(lengths: Iterable[int], model: PreTrainedModel, data: Path) -> None:
    """Check that the longest sequence of each line of a data file fits into the model."""
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
    algorithm = ALGORITHMS[row.algorithm]
    count = row.recipe.batch_size
    examples = read_records(data, lambda record: algorithm.example(record, tokenizer), count)
    for checked in [examples, *([mismatched_examples(examples)] if algorithm.mismatched else [])]:
        check_lengths((max(len(s.tokens) for s in example) for example in checked), model, data)
    return examples


def read_questions(
    row: Row, data: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> list[Question]:
    recipe = row.recipe
    count = recipe.batch_size * recipe.oversample
    questions = read_records(data, lambda record: make_question(record, tokenizer), count)
    check_lengths((len(q.prompt) + recipe.max_new_tokens for q in questions), model, data)
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
        """Nothing: the row's model has checked all that this trainer asks."""

    def environment(self) -> dict[str, Any]:
        packages = (*machine.PACKAGES, "tokenizers", "safetensors")
        found = machine.describe_environment(packages, self._device)
        if self._online and self._row.recipe.sampler == "vllm":
            found["packages"]["vllm"] = vllm_version()
        return {"threads": torch.get_num_threads(), **found}

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
                mask = Mask(files.mask)
                optimizer.mask = attach_mask(optimizer.inner, optimizer.masters, mask)
            if files.init is not None and row.recipe.checkpoint_every:
                init = Checkpoint(files.init)
                self._saver = StepSaver(files.scratch / "steps", row.recipe, init, model)
            prepare_training(model, row.recipe)
            with wandb_logging(self._row, files.scratch.parent / "wandb") as log:
                every = read_every(model.device)
                journal = Journal(
                    row, files.scratch, belongs_to, log, self._saver, self.columns, every, changed
                )
                if self._online:
                    learner = new_learner(row.algorithm, model, optimizer, tokenizer, row.recipe)
                    train_online(row, learner, questions, journal)
                else:
                    train(row, model, optimizer, examples, padding_token(tokenizer), journal)
            if optimizer.mask is not None:
                optimizer.mask.check_updates(row.recipe.steps - journal.done)
            return journal.rows

    def collect(self, folder: Path) -> dict[str, Any]:
        folder.mkdir()
        save_model(self._model, self._tokenizer, folder, self._files.init)
        if self._saver is not None:
            self._saver.check_final(Checkpoint(folder))
        return {"steps": self._row.recipe.steps}
