"""The loop: one step function for all algorithms."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlsubnet.config.model import Recipe, Row, learning_rate
from rlsubnet.objectives.logps import response_logps
from rlsubnet.objectives.preference import kto_reference_point
from rlsubnet.training.algorithms import Algorithm, Scores
from rlsubnet.training.batches import (
    Batch,
    Example,
    collate,
    example_order,
    mismatched_examples,
    split_batch,
)
from rlsubnet.training.changed import ChangedWeights
from rlsubnet.training.journal import Journal, errors_of
from rlsubnet.training.model import score_batch
from rlsubnet.training.optimizer import MasterOptimizer
from rlsubnet.training.readings import mean


def with_sparsity(
    metrics: dict[str, Any], changed: ChangedWeights | None, recipe: Recipe
) -> dict[str, Any]:
    """Return what the metrics say of a step, with the sparsity so far where that is due."""
    every, step = recipe.sparsity_every, metrics["step"]
    if changed is None or not every or (step % every and step != recipe.steps):
        return metrics
    return {**metrics, "sparsity": changed.sparsity()}


@torch.no_grad()
def reference_logps(
    model: PreTrainedModel, examples: Sequence[Example], pad: int, batch_size: int
) -> Tensor:
    """Return log p(response | prompt) of every sample, member m of example i at i * members + m.

    Args:
        model: the model before finetuning.
        examples: all of the data set, each with the same number of members.
        pad: token id for padding.
        batch_size: examples that are scored at a time.
    """
    members = len(examples[0])
    result = torch.empty(len(examples) * members, device=model.device)
    ordered = sorted(range(len(examples)), key=lambda i: max(len(s.tokens) for s in examples[i]))
    for start in range(0, len(ordered), batch_size):
        batch = collate(examples, ordered[start : start + batch_size], pad, model.device)
        result[batch.indices] = response_logps(score_batch(model, batch))
    return result


@torch.no_grad()
def reference_point(
    model: PreTrainedModel, mismatched: Sequence[Batch], reference: Tensor
) -> Tensor:
    """Return KTO's z_0 of a batch that comes in parts: one value for all of them.

    Args:
        model: the policy as it is now.
        mismatched: the parts, of :func:`rlsubnet.training.batches.mismatched_examples`.
        reference: from :func:`reference_logps`, of all mismatched examples.
    """
    policy = torch.cat([response_logps(score_batch(model, batch)) for batch in mismatched])
    indices = torch.cat([batch.indices for batch in mismatched])
    return kto_reference_point(policy, reference[indices])


def train_step(
    model: PreTrainedModel,
    optimizer: MasterOptimizer,
    algorithm: Algorithm,
    batches: Sequence[Batch],
    reference: Tensor | None,
    point: Tensor | None,
    recipe: Recipe,
    step: int,
) -> dict[str, Any]:
    """Update the model once on a batch that comes in parts, and return what the metrics say of it.

    Losses are summed over the parts and divided once by their common weight: the mean is over the
    tokens (or pairs) of the whole batch, not a mean of the parts' means. Nothing is read from the
    device: what is computed there comes as :class:`rlsubnet.training.readings.Reading`.

    Args:
        model: its weights are updated.
        optimizer: of this model, with or without a mask.
        algorithm: what is minimized.
        batches: the parts.
        reference: from :func:`reference_logps`, or None.
        point: from :func:`reference_point`, or None.
        recipe: hyperparameters.
        step: counted from 1.
    """
    weight, tokens = 0, 0
    sums: dict[str, list[Tensor]] = defaultdict(list)
    for batch in batches:
        rows = None if reference is None else reference[batch.indices]
        scores = Scores(score_batch(model, batch), batch.mask, batch.tokens, rows, point)
        terms = algorithm.terms(scores, recipe)
        terms.loss.backward()
        optimizer.accumulate()
        weight += terms.weight
        tokens += batch.tokens
        for column, value in {"loss": terms.loss, **terms.logged}.items():
            sums[column].append(value.detach())
    lr = learning_rate(recipe, step)
    norms = optimizer.step(lr, divisor=weight)
    return {
        "step": step,
        **{column: mean(values, weight) for column, values in sums.items()},
        "grad_norm": norms.full,
        "grad_norm_masked": norms.masked,
        "lr": lr,
        "tokens": tokens,
    }


def train(
    row: Row,
    model: PreTrainedModel,
    optimizer: MasterOptimizer,
    algorithm: Algorithm,
    examples: Sequence[Example],
    pad: int,
    journal: Journal,
    changed: ChangedWeights | None = None,
) -> list[dict[str, Any]]:
    """Train for ``row.recipe.steps`` steps and return the metrics of all of them.

    Starts from the state in the journal if there is one; its steps are not done again, and what
    follows has the same bits as in a run that was never interrupted.

    Args:
        row: the run.
        model: with the weights it starts from, which are also the reference.
        optimizer: of this model; masked if a mask is attached.
        algorithm: the row's.
        examples: all of the data set.
        pad: token id for padding.
        journal: the run's; takes note of every step.
        changed: counts what differs from the start; needed where the recipe asks for counts.

    Raises:
        ValueError: there are too few examples, or the gradient is not finite; the message names
            the step.
    """
    recipe, done = row.recipe, journal.done
    reference = mismatched_reference = None
    mismatched = mismatched_examples(examples) if algorithm.mismatched else []
    # As many at a time as are trained on at a time: that many fit into memory.
    size = recipe.batch_size // recipe.parts
    if algorithm.reference:
        reference = reference_logps(model, examples, pad, size)
    if algorithm.mismatched:
        mismatched_reference = reference_logps(model, mismatched, pad, size)
    if journal.state is not None:
        optimizer.load_state(journal.state)
    journal.start()
    order = example_order(len(examples), recipe.batch_size, row.seed, done + 1, recipe.steps)
    for step, indices in enumerate(order, start=done + 1):
        parts = split_batch(examples, indices, recipe.parts)
        batches = [collate(examples, part, pad, model.device) for part in parts]
        point = None
        if mismatched_reference is not None:
            others = [collate(mismatched, part, pad, model.device) for part in parts]
            point = reference_point(model, others, mismatched_reference)
        with errors_of(row.run, step):
            metrics = train_step(
                model, optimizer, algorithm, batches, reference, point, recipe, step
            )
        journal.note(with_sparsity(metrics, changed, recipe))
        if recipe.save_every and step % recipe.save_every == 0:
            journal.save(optimizer.state())
    if optimizer.mask is not None:
        optimizer.mask.check_updates(recipe.steps - done)
    return journal.rows
