"""Learning from given data: the algorithms a run may name, and one step function for all of them.

A new one is an entry of :data:`ALGORITHMS`; the loop, the optimizer and the mask stay as they are.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlsubnet.config.model import ONLINE, Recipe, Row, learning_rate
from rlsubnet.objectives.logps import cross_entropy, response_logps
from rlsubnet.objectives.preference import (
    PreferenceLoss,
    dpo_loss,
    dpo_norm_loss,
    kto_loss,
    kto_reference_point,
    orpo_loss,
    simpo_loss,
)
from rlsubnet.tasks.tokenizer import encode_prompt, encode_response, encode_text
from rlsubnet.training.batches import (
    Batch,
    Example,
    Sample,
    collate,
    example_order,
    from_records,
    mismatched_examples,
    split_batch,
)
from rlsubnet.training.device import mean
from rlsubnet.training.journal import Journal, errors_of, save_is_due
from rlsubnet.training.model import score_batch
from rlsubnet.training.optimizer import MasterOptimizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Scores:
    """What the policy says about one batch.

    Attributes:
        logps: log-probabilities of the tokens, ``[rows, K]``, 0 outside the responses.
        mask: bool, ``[rows, K]``.
        reference: log-probability of each row's response under the model before finetuning,
            ``[rows]``; None for an algorithm without reference.
        reference_point: z_0 of the whole batch that this one is a part of, a scalar; None for an
            algorithm that is not ``mismatched``.
    """

    logps: Tensor
    mask: Tensor
    tokens: int
    reference: Tensor | None = None
    reference_point: Tensor | None = None


@dataclass(frozen=True)
class Terms:
    """Sums over one batch, to be divided by the ``weight`` of all parts of the whole batch.

    Attributes:
        loss: scalar to differentiate.
        weight: number of what the mean is taken over, tokens or pairs.
        logged: further sums, by the column of the metrics they belong to.
    """

    loss: Tensor
    weight: int
    logged: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """One way of training.

    Attributes:
        example: (record of the data set, tokenizer) -> example.
        terms: (scores of a batch, recipe) -> sums over the batch.
        reference: whether the model before finetuning scores every response once, at the start.
        mismatched: whether each step compares policy and reference on responses to other prompts.
    """

    example: Callable[[Record, "PreTrainedTokenizerBase"], Example]
    terms: Callable[[Scores, Recipe], Terms]
    reference: bool = False
    mismatched: bool = False


def text_example(record: Record, tokenizer: "PreTrainedTokenizerBase") -> Example:
    """Return a text to learn from its second token on: ``{"text"}``.

    Without a start token the first character has nothing to be predicted from.
    """
    start = encode_prompt(tokenizer, "")
    return (Sample([*start, *encode_text(tokenizer, record["text"])], given=1),)


def response_example(record: Record, tokenizer: "PreTrainedTokenizerBase") -> Example:
    return (_sample(record["prompt"], record["response"], tokenizer),)


def pair_example(record: Record, tokenizer: "PreTrainedTokenizerBase") -> Example:
    chosen = _sample(record["prompt"], record["chosen"], tokenizer)
    rejected = _sample(record["prompt"], record["rejected"], tokenizer)
    return chosen, rejected


def _sample(prompt: str, response: str, tokenizer: "PreTrainedTokenizerBase") -> Sample:
    tokens = encode_prompt(tokenizer, prompt)
    if not tokens:
        raise ValueError("an empty prompt, and the tokenizer has no start token")
    return Sample(tokens + encode_response(tokenizer, response), given=len(tokens))


def likelihood_terms(scores: Scores, recipe: Recipe) -> Terms:
    """Return the cross entropy; its mean is over the response tokens of the whole batch."""
    return Terms(cross_entropy(scores.logps), scores.tokens)


def _responses(scores: Scores) -> tuple[Tensor, Tensor]:
    chosen, rejected = response_logps(scores.logps).chunk(2)
    return chosen, rejected


def _pairs(scores: Scores) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    assert scores.reference is not None, "this preference loss needs the reference"
    reference_chosen, reference_rejected = scores.reference.chunk(2)
    return *_responses(scores), reference_chosen, reference_rejected


def _lengths(scores: Scores) -> tuple[Tensor, Tensor]:
    chosen, rejected = scores.mask.sum(dim=1).chunk(2)
    return chosen, rejected


def _sums(loss: PreferenceLoss) -> Terms:
    return Terms(loss.losses.sum(), len(loss.losses), {"reward": loss.margins.sum()})


def dpo_terms(scores: Scores, recipe: Recipe) -> Terms:
    """Return DPO's loss; ``reward`` is the margin between chosen and rejected."""
    return _sums(dpo_loss(*_pairs(scores), recipe.beta))


def dpo_norm_terms(scores: Scores, recipe: Recipe) -> Terms:
    """Return the length-normalized DPO loss; ``reward`` is the margin per token."""
    return _sums(dpo_norm_loss(*_pairs(scores), *_lengths(scores), recipe.beta))


def simpo_terms(scores: Scores, recipe: Recipe) -> Terms:
    """Return SimPO's loss; ``reward`` is the margin per token, before gamma is taken off."""
    return _sums(simpo_loss(*_responses(scores), *_lengths(scores), recipe.beta, recipe.gamma))


def kto_terms(scores: Scores, recipe: Recipe) -> Terms:
    """Return KTO's loss; ``reward`` is the margin as in DPO, ``kl`` the reference point z_0."""
    assert scores.reference_point is not None, "KTO needs the reference point"
    terms = _sums(kto_loss(*_pairs(scores), scores.reference_point, recipe.beta))
    # One value for the whole batch: weighted like a sum, so that the mean gives it back.
    return replace(terms, logged={**terms.logged, "kl": scores.reference_point * terms.weight})


def orpo_terms(scores: Scores, recipe: Recipe) -> Terms:
    """Return ORPO's loss; ``reward`` is the log odds ratio between chosen and rejected."""
    return _sums(orpo_loss(*_responses(scores), *_lengths(scores), recipe.odds_weight))


ALGORITHMS: dict[str, Objective] = {
    "pretrain": Objective(text_example, likelihood_terms),
    "sft": Objective(response_example, likelihood_terms),
    # Rejection-sampling finetuning: SFT whose data are the policy's own correct answers.
    "rft": Objective(response_example, likelihood_terms),
    "dpo": Objective(pair_example, dpo_terms, reference=True),
    "dpo_norm": Objective(pair_example, dpo_norm_terms, reference=True),
    "simpo": Objective(pair_example, simpo_terms),
    "kto": Objective(pair_example, kto_terms, reference=True, mismatched=True),
    "orpo": Objective(pair_example, orpo_terms),
}


def find_algorithm(name: str) -> Objective:
    if name not in ALGORITHMS:
        known = ", ".join((*ALGORITHMS, *ONLINE))
        raise ValueError(f"algorithm: expected one of {known}, found {name!r}")
    return ALGORITHMS[name]


def make_examples(
    records: list[dict[str, Any]], algorithm: Objective, tokenizer: "PreTrainedTokenizerBase"
) -> list[Example]:
    return from_records(records, lambda record: algorithm.example(record, tokenizer))


@torch.no_grad()
def reference_logps(
    model: PreTrainedModel, examples: Sequence[Example], pad: int, batch_size: int
) -> Tensor:
    """Return log p(response | prompt) of every sample, member m of example i at i * members + m."""
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
        mismatched: the parts, of :func:`rlsubnet.training.batches.mismatched_examples`.
        reference: from :func:`reference_logps`, of all mismatched examples.
    """
    policy = torch.cat([response_logps(score_batch(model, batch)) for batch in mismatched])
    indices = torch.cat([batch.indices for batch in mismatched])
    return kto_reference_point(policy, reference[indices])


def train_step(
    model: PreTrainedModel,
    optimizer: MasterOptimizer,
    algorithm: Objective,
    batches: Sequence[Batch],
    reference: Tensor | None,
    point: Tensor | None,
    recipe: Recipe,
    step: int,
) -> dict[str, Any]:
    """Update the model once on a batch that comes in parts, and return what the metrics say of it.

    Losses are summed over the parts and divided once by their common weight: the mean is over the
    tokens (or pairs) of the whole batch, not a mean of the parts' means. Nothing is read from the
    device: what is computed there comes as :class:`rlsubnet.training.device.Reading`.
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
    examples: Sequence[Example],
    pad: int,
    journal: Journal,
) -> list[dict[str, Any]]:
    """Train for ``row.recipe.steps`` steps and return the metrics of all of them.

    Starts from the state in the journal if there is one; its steps are not done again, and what
    follows has the same bits as in a run that was never interrupted.
    """
    recipe, done, algorithm = row.recipe, journal.done, find_algorithm(row.algorithm)
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
        journal.note(metrics)
        if save_is_due(recipe, step):
            journal.save(optimizer.state())
    if optimizer.mask is not None:
        optimizer.mask.check_updates(recipe.steps - done)
    return journal.rows
