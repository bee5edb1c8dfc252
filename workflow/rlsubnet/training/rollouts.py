"""Responses that a policy draws itself: sampled, verified, and filtered by their accuracy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlsubnet.config.model import Recipe
from rlsubnet.evaluation.generate import completion, noise_generator
from rlsubnet.evaluation.sampler import Sampler, make_sampler
from rlsubnet.objectives.prime import preferred_groups
from rlsubnet.tasks.tokenizer import encode_prompt, end_token, padding_token
from rlsubnet.tasks.words import is_correct
from rlsubnet.training.batches import Batch, Sample, collate, from_records
from rlsubnet.training.device import to_device


class Question(NamedTuple):
    """A prompt as token ids, and the solution that its responses are verified against."""

    prompt: list[int]
    solution: str


class Group(NamedTuple):
    """The responses to one prompt: token ids, whether each is right, whether all ended."""

    samples: list[Sample]
    correct: list[bool]
    finished: bool


@dataclass(frozen=True)
class Rollouts:
    """What one batch of responses consists of.

    Attributes:
        batch: one row per response; those to one prompt stand side by side.
        outcomes: 1 for a right response, 0 for a wrong one, float, ``[rows]``.
        reward: mean outcome of all responses drawn, those the filter left out included.
        response_length: mean number of tokens of all responses drawn, end token included.
    """

    batch: Batch
    outcomes: Tensor
    reward: float
    response_length: float


def make_questions(
    records: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[Question]:
    """Return the records ``{"prompt", "solution"}`` of a data set, tokenized once.

    Raises:
        ValueError: a record lacks a key, its prompt cannot be tokenized, or its solution is none
            the verifier knows; the message names the line of the file.
    """

    def make(record: Mapping[str, Any]) -> Question:
        question = Question(encode_prompt(tokenizer, record["prompt"]), record["solution"])
        is_correct("", question.solution)  # refuses a solution that the verifier cannot read
        if not question.prompt:
            raise ValueError("an empty prompt, and the tokenizer has no start token")
        return question

    return from_records(records, make)


def noise_seed(seed: int, number: int) -> int:
    """Return the seed of the noise that batch ``number`` of a run is drawn with.

    It depends on nothing else, so that a resumed run draws what it would have drawn.

    >>> noise_seed(42, 1) == noise_seed(42, 1), noise_seed(42, 1) == noise_seed(42, 2)
    (True, False)
    """
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0])


def draw_groups(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    recipe: Recipe,
    seed: int,
    draw: Sampler | None = None,
) -> list[Group]:
    """Return ``recipe.samples`` verified responses to each of the questions.

    A response is right if it ends by itself and the strict verifier accepts all of it.

    Args:
        model: the policy.
        tokenizer: of the policy.
        questions: what to answer.
        recipe: samples, temperature, max_new_tokens.
        seed: of the noise.
        draw: what draws the policy's responses; the policy itself if nothing else is given.
    """
    eos = end_token(tokenizer)
    rows = (draw or make_sampler("own", model))(
        [question.prompt for question in questions],
        recipe.max_new_tokens,
        recipe.temperature,
        noise_generator(model.device, seed),
        eos_token_id=eos,
        pad_token_id=padding_token(tokenizer),
        samples=recipe.samples,
    ).tolist()
    groups = []
    for number, question in enumerate(questions):
        own = rows[number * recipe.samples : (number + 1) * recipe.samples]
        texts = [completion(tokenizer, row, eos) for row in own]
        responses = [row[: row.index(eos) + 1] if eos in row else row for row in own]
        groups.append(
            Group(
                [Sample(question.prompt + row, len(question.prompt)) for row in responses],
                [done and is_correct(text, question.solution) for text, done in texts],
                all(done for _, done in texts),
            )
        )
    return groups


def keep_preferred(groups: Sequence[Group], count: int, low: float, high: float) -> list[Group]:
    """Return ``count`` of the groups; see :func:`rlsubnet.objectives.prime.preferred_groups`."""
    # Differs from the paper: verl fails a group whose longest response has max_response_length - 1
    # tokens, ended or not; here what was cut off fails.
    accuracies = [sum(group.correct) / len(group.correct) for group in groups]
    ended = [group.finished for group in groups]
    return [groups[number] for number in preferred_groups(accuracies, ended, count, low, high)]


def make_rollouts(
    groups: Sequence[Group], recipe: Recipe, pad: int, device: torch.device
) -> Rollouts:
    """Return the groups that pass the filter as one batch, with means over all of them.

    Args:
        groups: all that were drawn.
        recipe: batch_size and the bounds of the filter.
        pad: token id for padding.
        device: where the batch is wanted.
    """
    drawn = [sample for group in groups for sample in group.samples]
    right = [correct for group in groups for correct in group.correct]
    kept = keep_preferred(groups, recipe.batch_size, recipe.accuracy_low, recipe.accuracy_high)
    examples = [(sample,) for group in kept for sample in group.samples]
    outcomes = [float(correct) for group in kept for correct in group.correct]
    return Rollouts(
        batch=collate(examples, range(len(examples)), pad, device),
        outcomes=to_device(np.array(outcomes, np.float32), device),
        reward=sum(right) / len(right),
        response_length=sum(len(s.tokens) - s.given for s in drawn) / len(drawn),
    )
