"""Responses that a policy draws itself, and the credit of their tokens: how algorithms differ."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Linear, Module
from torch.nn.utils import skip_init
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlsubnet.config.model import Recipe
from rlsubnet.evaluation.generate import SampleRequest, completion, noise_generator
from rlsubnet.evaluation.sampler import Sampler
from rlsubnet.objectives.policy_gradient import (
    generalized_advantages,
    group_advantages,
    last_tokens,
    whitened,
)
from rlsubnet.objectives.prime import outcome_loss, preferred_groups, prime_advantages
from rlsubnet.tasks.tokenizer import encode_prompt, end_token, padding_token
from rlsubnet.tasks.words import is_correct
from rlsubnet.training.batches import Batch, Sample, collate, row_parts, take_rows
from rlsubnet.training.device import to_device
from rlsubnet.training.model import copied, score_batch, score_tokens
from rlsubnet.training.optimizer import MasterOptimizer


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

    @property
    def rows(self) -> slice:
        return slice(0, len(self.outcomes))


def make_question(record: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Question:
    """Return a record ``{"prompt", "solution"}`` of a data set, tokenized once."""
    question = Question(encode_prompt(tokenizer, record["prompt"]), record["solution"])
    is_correct("", question.solution)  # refuses a solution that the verifier cannot read
    if not question.prompt:
        raise ValueError("an empty prompt, and the tokenizer has no start token")
    return question


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
    draw: Sampler,
) -> list[Group]:
    """Return ``recipe.samples`` verified responses to each of the questions.

    A response is right if it ends by itself and the strict verifier accepts all of it.
    """
    eos = end_token(tokenizer)
    wanted = SampleRequest(
        [question.prompt for question in questions],
        recipe.max_new_tokens,
        recipe.temperature,
        noise_generator(model.device, seed),
        recipe.samples,
        eos=eos,
        pad=padding_token(tokenizer),
    )
    rows = draw(wanted).tolist()
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


def make_rollouts(
    groups: Sequence[Group], recipe: Recipe, pad: int, device: torch.device
) -> Rollouts:
    """Return the groups that pass the filter as one batch, with means over all of them."""
    drawn = [sample for group in groups for sample in group.samples]
    right = [correct for group in groups for correct in group.correct]
    # Differs from the paper: verl fails a group whose longest response has max_response_length - 1
    # tokens, ended or not; here what was cut off fails.
    accuracies = [sum(group.correct) / len(group.correct) for group in groups]
    ended = [group.finished for group in groups]
    low, high = recipe.accuracy_low, recipe.accuracy_high
    numbers = preferred_groups(accuracies, ended, recipe.batch_size, low, high)
    kept = [groups[number] for number in numbers]
    examples = [(sample,) for group in kept for sample in group.samples]
    outcomes = [float(correct) for group in kept for correct in group.correct]
    return Rollouts(
        batch=collate(examples, range(len(examples)), pad, device),
        outcomes=to_device(np.array(outcomes, np.float32), device),
        reward=sum(right) / len(right),
        response_length=sum(len(s.tokens) - s.given for s in drawn) / len(drawn),
    )


class Credit(NamedTuple):
    """Advantages of the tokens, ``[rows, K]``, and what a value head is to learn, or None."""

    advantages: Tensor
    returns: Tensor | None = None


class CreditAssigner:
    """What an online algorithm adds to the policy; it may learn something itself.

    Attributes:
        head: what reads values off the policy's hidden states while the policy learns, or None.
    """

    head: Module | None = None

    def assign(self, rollouts: Rollouts, reference: Tensor) -> Credit:
        """Return the credit of a batch.

        Args:
            reference: log-probabilities of their tokens under the model before finetuning.
        """
        raise NotImplementedError

    def update(self, divisor: float) -> None:
        """Learn from the gradients that an update of the policy left behind."""

    def state(self) -> dict[str, Any]:
        """Return everything that the next steps depend on."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state` returned."""


class GroupCredit(CreditAssigner):
    """GRPO: every token has its response's advantage over the group."""

    def __init__(self, policy: PreTrainedModel, recipe: Recipe) -> None:
        self._samples = recipe.samples

    def assign(self, rollouts: Rollouts, reference: Tensor) -> Credit:
        advantages = group_advantages(rollouts.outcomes.view(-1, self._samples)).flatten()
        return Credit(rollouts.batch.mask * advantages[:, None])


class AcceptedCredit(GroupCredit):
    """RAFT++: the tokens of right responses have advantage 1, all others 0.

    Rejection sampling in every step (Xiong et al. 2025, arXiv 2504.11343, section 3.2): with the
    clipped ratio of :func:`rlsubnet.objectives.policy_gradient.policy_loss`, which acts where a
    batch serves several updates; without it (``clip_ratio: null``, ``updates: 1``) this is RAFT,
    the likelihood of the accepted responses.
    """

    def assign(self, rollouts: Rollouts, reference: Tensor) -> Credit:
        # Differs from RAFT++: the mean is over the tokens of all responses, not of the accepted
        # ones, so that a step with few right answers is a small one.
        return Credit(rollouts.batch.mask * rollouts.outcomes[:, None])


class ValueHead(Module):
    """A linear function of the last hidden state, 0 at the start.

    Args:
        coefficient: what the gradient is multiplied with on its way into the hidden states; with 0
            the head learns to read them and does not change them.
    """

    def __init__(self, width: int, coefficient: float, device: torch.device) -> None:
        super().__init__()
        self.linear = skip_init(Linear, width, 1, device=device)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)
        self._coefficient = coefficient

    def forward(self, hidden: Tensor) -> Tensor:
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: self._coefficient * gradient)
        values: Tensor = self.linear(hidden)
        return values.squeeze(-1)


class ValueCredit(CreditAssigner):
    """PPO: whitened GAE from a value head on the policy's own hidden states.

    The head is no part of the model that a run results in: it lives in the resume state only.
    """

    head: ValueHead

    def __init__(self, policy: PreTrainedModel, recipe: Recipe) -> None:
        self._policy, self._recipe = policy, recipe
        self.head = ValueHead(policy.config.hidden_size, recipe.value_coef, policy.device)
        self._adamw = torch.optim.AdamW(
            self.head.parameters(), lr=recipe.value_lr, weight_decay=0.0
        )

    def assign(self, rollouts: Rollouts, reference: Tensor) -> Credit:
        batch, recipe = rollouts.batch, self._recipe

        def values(rows: slice) -> Tensor:
            scores = score_tokens(
                self._policy, take_rows(batch, rows), recipe.temperature, self.head
            )
            assert scores.values is not None, "there is a head"
            return scores.values

        rewards = last_tokens(batch.mask) * rollouts.outcomes[:, None]
        targets = generalized_advantages(
            rewards, without_gradient(values, rollouts, recipe), batch.mask, recipe.gae_lambda
        )
        return Credit(whitened(targets.advantages, batch.mask, batch.tokens), targets.returns)

    def update(self, divisor: float) -> None:
        """Update the head; ``divisor`` is the number of tokens that the gradient sums over."""
        for parameter in self.head.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(divisor)
        self._adamw.step()
        self._adamw.zero_grad()

    def state(self) -> dict[str, Any]:
        return {"head": self.head.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.head.load_state_dict(state["head"])
        self._adamw.load_state_dict(state["adamw"])


class ProcessCredit(CreditAssigner):
    """PRIME: rewards of the tokens from a second model, which learns the outcomes first."""

    def __init__(self, policy: PreTrainedModel, recipe: Recipe) -> None:
        self._recipe = recipe
        self._model = copied(policy, recipe)
        self._lr = 2 * recipe.lr if recipe.reward_lr is None else recipe.reward_lr
        # No mask: the subnetwork is the policy's. AdamW without decay at a constant rate, as in
        # verl's recipe, whatever moves the policy.
        own = recipe.but(clip=recipe.reward_clip, optimizer="adamw", weight_decay=0.0)
        self._optimizer = MasterOptimizer(dict(self._model.named_parameters()), own)

    def assign(self, rollouts: Rollouts, reference: Tensor) -> Credit:
        """Update the reward model on the outcomes, then ask it for the rewards of the tokens."""
        batch, outcomes, recipe = rollouts.batch, rollouts.outcomes, self._recipe

        def logps(rows: slice) -> Tensor:
            return score_batch(self._model, take_rows(batch, rows), recipe.temperature)

        for part in row_parts(rollouts.rows, recipe.reward_updates):
            for rows in row_parts(part, recipe.parts):
                loss = outcome_loss(
                    logps(rows), reference[rows], outcomes[rows], recipe.reward_beta
                )
                loss.backward()
                self._optimizer.accumulate()
            self._optimizer.step(self._lr, divisor=part.stop - part.start)
        updated, mask = without_gradient(logps, rollouts, recipe), batch.mask
        how = (recipe.samples, recipe.reward_beta, batch.tokens)
        return Credit(prime_advantages(updated, reference, outcomes, mask, *how))

    def state(self) -> dict[str, Any]:
        return self._optimizer.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_state(state)


@torch.no_grad()
def without_gradient(
    score: Callable[[slice], Tensor], rollouts: Rollouts, recipe: Recipe
) -> Tensor:
    """Return ``score(rows)`` of all rows, computed in as many parts as are trained on at a time."""
    parts = row_parts(rollouts.rows, recipe.updates * recipe.parts)
    return torch.cat([score(rows) for rows in parts])


ASSIGNERS: dict[str, Callable[[PreTrainedModel, Recipe], CreditAssigner]] = {
    "grpo": GroupCredit,
    "raft": AcceptedCredit,
    "ppo": ValueCredit,
    "prime": ProcessCredit,
}
