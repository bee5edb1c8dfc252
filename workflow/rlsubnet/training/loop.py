"""Learning from given data: the algorithms a run may name, and one step function for all of them.

A new one is an entry of :data:`ALGORITHMS`; the loop, the optimizer and the mask stay as they are.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlsubnet.config.model import Recipe, Row, learning_rate
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
    mismatched_examples,
    split_batch,
)
from rlsubnet.training.device import mean
from rlsubnet.training.journal import Journal, errors_of
from rlsubnet.training.model import score_batch
from rlsubnet.training.optimizer import MasterOptimizer

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

    def policy(self) -> tuple[Tensor, Tensor]:
        """Return log-probabilities of the chosen and the rejected responses, each ``[pairs]``."""
        return _halves(response_logps(self.logps))

    def both(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return those of the policy, then those of the reference."""
        assert self.reference is not None, "this preference loss needs the reference"
        return *self.policy(), *_halves(self.reference)

    def lengths(self) -> tuple[Tensor, Tensor]:
        """Return the numbers of tokens of the chosen and of the rejected responses."""
        return _halves(self.mask.sum(dim=1))


def _halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    chosen, rejected = rows.chunk(2)
    return chosen, rejected


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

    example: Callable[[Record, PreTrainedTokenizerBase], Example]
    terms: Callable[[Scores, Recipe], Terms]
    reference: bool = False
    mismatched: bool = False


def text_example(record: Record, tokenizer: PreTrainedTokenizerBase) -> Example:
    """Return a text to learn from its second token on: ``{"text"}``.

    Without a start token the first character has nothing to be predicted from.
    """
    start = encode_prompt(tokenizer, "")
    return (Sample([*start, *encode_text(tokenizer, record["text"])], given=1),)


def response_example(record: Record, tokenizer: PreTrainedTokenizerBase) -> Example:
    return (_sample(record, "response", tokenizer),)


def pair_example(record: Record, tokenizer: PreTrainedTokenizerBase) -> Example:
    return _sample(record, "chosen", tokenizer), _sample(record, "rejected", tokenizer)


def _sample(record: Record, response: str, tokenizer: PreTrainedTokenizerBase) -> Sample:
    tokens = encode_prompt(tokenizer, record["prompt"])
    if not tokens:
        raise ValueError("an empty prompt, and the tokenizer has no start token")
    return Sample(tokens + encode_response(tokenizer, record[response]), given=len(tokens))


def likelihood_terms(scores: Scores, recipe: Recipe) -> Terms:
    """Return the cross entropy; its mean is over the response tokens of the whole batch."""
    return Terms(cross_entropy(scores.logps), scores.tokens)


def _sums(loss: PreferenceLoss) -> Terms:
    return Terms(loss.losses.sum(), len(loss.losses), {"reward": loss.margins.sum()})


def kto_terms(scores: Scores, recipe: Recipe) -> Terms:
    """Return KTO's loss; ``reward`` is the margin as in DPO, ``kl`` the reference point z_0."""
    assert scores.reference_point is not None, "KTO needs the reference point"
    terms = _sums(kto_loss(*scores.both(), scores.reference_point, recipe.beta))
    # One value for the whole batch: weighted like a sum, so that the mean gives it back.
    return replace(terms, logged={**terms.logged, "kl": scores.reference_point * terms.weight})


def preference(
    loss: Callable[[Scores, Recipe], PreferenceLoss], reference: bool = False
) -> Objective:
    """Return how pairs are learned from; ``reward`` is the loss's margin."""
    return Objective(pair_example, lambda scores, r: _sums(loss(scores, r)), reference)


ALGORITHMS: dict[str, Objective] = {
    "pretrain": Objective(text_example, likelihood_terms),
    "sft": Objective(response_example, likelihood_terms),
    # Rejection-sampling finetuning: SFT whose data are the policy's own correct answers.
    "rft": Objective(response_example, likelihood_terms),
    "dpo": preference(lambda s, r: dpo_loss(*s.both(), r.beta), reference=True),
    "dpo_norm": preference(
        lambda s, r: dpo_norm_loss(*s.both(), *s.lengths(), r.beta), reference=True
    ),
    "simpo": preference(lambda s, r: simpo_loss(*s.policy(), *s.lengths(), r.beta, r.gamma)),
    "kto": Objective(pair_example, kto_terms, reference=True, mismatched=True),
    "orpo": preference(lambda s, r: orpo_loss(*s.policy(), *s.lengths(), r.odds_weight)),
}


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
    """Return KTO's z_0 of a batch of mismatched examples in parts: one value for all of them."""
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
) -> None:
    """Train for ``row.recipe.steps`` steps, from the state in the journal if there is one.

    Its steps are not done again, and what follows has the same bits as in a run that was never
    interrupted.
    """
    recipe, done, algorithm = row.recipe, journal.done, ALGORITHMS[row.algorithm]
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
        journal.note(metrics, optimizer.state)
