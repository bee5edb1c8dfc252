"""The algorithms a run may name: how a record becomes an example, and what is minimized.

A new one is an entry of :data:`ALGORITHMS`; the loop, the optimizer and the mask stay as they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from rlsubnet.config.model import Recipe
from rlsubnet.objectives.logps import response_logps
from rlsubnet.objectives.preference import (
    PreferenceLoss,
    dpo_loss,
    dpo_norm_loss,
    kto_loss,
    orpo_loss,
    simpo_loss,
)
from rlsubnet.objectives.supervised import cross_entropy
from rlsubnet.tasks.tokenizer import encode_prompt, encode_response, encode_text
from rlsubnet.training.batches import Example, Sample, from_records

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Scores:
    """What the policy says about one batch.

    Attributes:
        logps: log-probabilities of the tokens, ``[rows, K]``, 0 outside the responses.
        mask: bool, ``[rows, K]``.
        tokens: how often ``mask`` is True.
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
class Algorithm:
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
    """Return a response to learn, with its prompt: ``{"prompt", "response"}``."""
    return (_sample(record["prompt"], record["response"], tokenizer),)


def pair_example(record: Record, tokenizer: "PreTrainedTokenizerBase") -> Example:
    """Return a chosen and a rejected response: ``{"prompt", "chosen", "rejected"}``."""
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
    """Return the log-probabilities of chosen and rejected responses, each ``[pairs]``."""
    chosen, rejected = response_logps(scores.logps).chunk(2)
    return chosen, rejected


def _pairs(scores: Scores) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return chosen, rejected, reference chosen, reference rejected, each ``[pairs]``."""
    assert scores.reference is not None, "this preference loss needs the reference"
    reference_chosen, reference_rejected = scores.reference.chunk(2)
    return *_responses(scores), reference_chosen, reference_rejected


def _lengths(scores: Scores) -> tuple[Tensor, Tensor]:
    """Return the numbers of tokens of chosen and rejected responses, each ``[pairs]``."""
    chosen_tokens, rejected_tokens = scores.mask.sum(dim=1).chunk(2)
    return chosen_tokens, rejected_tokens


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


ALGORITHMS: dict[str, Algorithm] = {
    "pretrain": Algorithm(text_example, likelihood_terms),
    "sft": Algorithm(response_example, likelihood_terms),
    # Rejection-sampling finetuning: SFT whose data are the policy's own correct answers.
    "rft": Algorithm(response_example, likelihood_terms),
    "dpo": Algorithm(pair_example, dpo_terms, reference=True),
    "dpo_norm": Algorithm(pair_example, dpo_norm_terms, reference=True),
    "simpo": Algorithm(pair_example, simpo_terms),
    "kto": Algorithm(pair_example, kto_terms, reference=True, mismatched=True),
    "orpo": Algorithm(pair_example, orpo_terms),
}


# These learn from responses that they draw themselves: :mod:`rlsubnet.training.online`.
ONLINE = ("grpo", "raft", "ppo", "prime")


def find_algorithm(name: str) -> Algorithm:
    """Return the offline algorithm called ``name``.

    Raises:
        ValueError: there is none.
    """
    if name not in ALGORITHMS:
        known = ", ".join((*ALGORITHMS, *ONLINE))
        raise ValueError(f"algorithm: expected one of {known}, found {name!r}")
    return ALGORITHMS[name]


def make_examples(
    records: list[dict[str, Any]], algorithm: Algorithm, tokenizer: "PreTrainedTokenizerBase"
) -> list[Example]:
    """Return all records as examples, tokenized once.

    Raises:
        ValueError: a record lacks a key or has a text the tokenizer cannot represent; the message
            names the line of the file.
    """
    return from_records(records, lambda record: algorithm.example(record, tokenizer))
