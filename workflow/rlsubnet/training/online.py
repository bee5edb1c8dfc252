"""The online loop: draw responses, verify them, assign credit, update the policy."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlsubnet.config.model import Recipe, Row, learning_rate
from rlsubnet.evaluation.sampler import Sampler, make_sampler
from rlsubnet.objectives.policy_gradient import policy_loss, reference_kl, value_loss
from rlsubnet.tasks.tokenizer import padding_token
from rlsubnet.training.batches import example_order, row_parts, take_rows
from rlsubnet.training.credit import (
    ASSIGNERS,
    Credit,
    CreditAssigner,
    Question,
    Rollouts,
    draw_groups,
    make_rollouts,
    noise_seed,
    without_gradient,
)
from rlsubnet.training.device import mean
from rlsubnet.training.journal import Journal, errors_of
from rlsubnet.training.model import copied, score_batch, score_tokens
from rlsubnet.training.optimizer import MasterOptimizer


@dataclass(frozen=True)
class Learner:
    """Everything that an online run consists of."""

    policy: PreTrainedModel
    optimizer: MasterOptimizer
    reference: PreTrainedModel
    credit: CreditAssigner
    tokenizer: PreTrainedTokenizerBase
    recipe: Recipe
    draw: Sampler

    def state(self) -> dict[str, Any]:
        return {"policy": self.optimizer.state(), "credit": self.credit.state()}


@dataclass(frozen=True)
class Experience:
    """One batch of responses, and all that the policy is to learn from it.

    Attributes:
        reference: log-probabilities of the tokens under the model before finetuning.
        old: under the policy that drew them, or None where the policy that learns still is it.
    """

    rollouts: Rollouts
    credit: Credit
    reference: Tensor
    old: Tensor | None


def new_learner(
    algorithm: str,
    policy: PreTrainedModel,
    optimizer: MasterOptimizer,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
) -> Learner:
    reference = copied(policy, recipe).requires_grad_(False)
    credit, draw = ASSIGNERS[algorithm](policy, recipe), make_sampler(recipe.sampler, policy)
    return Learner(policy, optimizer, reference, credit, tokenizer, recipe, draw)


def gather(learner: Learner, questions: Sequence[Question], seed: int) -> Experience:
    """Return the policy's own responses to the questions, with everything to learn from them.

    Args:
        questions: ``oversample`` times as many as are learned from.
    """
    recipe, tokenizer = learner.recipe, learner.tokenizer
    # Layers are compiled for training; decoding has its own way of being quick.
    eager = recipe.compile and recipe.sampler == "own"
    with torch.compiler.set_stance("force_eager") if eager else nullcontext():
        groups = draw_groups(learner.policy, tokenizer, questions, recipe, seed, learner.draw)
    rollouts = make_rollouts(groups, recipe, padding_token(tokenizer), learner.policy.device)

    def scored_by(model: PreTrainedModel) -> Tensor:
        def logps(rows: slice) -> Tensor:
            return score_batch(model, take_rows(rollouts.batch, rows), recipe.temperature)

        return without_gradient(logps, rollouts, recipe)

    reference = scored_by(learner.reference)
    # In the first of a batch's updates the policy is the one that drew the responses.
    old = scored_by(learner.policy) if recipe.updates > 1 else None
    return Experience(rollouts, learner.credit.assign(rollouts, reference), reference, old)


def policy_step(learner: Learner, experience: Experience, step: int) -> dict[str, Any]:
    """Update the policy once and return what the metrics say of it, nothing read from the device.

    The loss is the mean over the tokens that the step learns from: the surrogate of the algorithm,
    ``kl_coef`` times the KL divergence, less ``entropy_coef`` times the entropy, and PPO's value
    loss.

    Args:
        experience: a batch of responses; of its ``updates`` equal shares the step takes its own.
    """
    recipe, rollouts = learner.recipe, experience.rollouts
    share = row_parts(rollouts.rows, recipe.updates)[(step - 1) % recipe.updates]
    tokens = sum(rollouts.batch.learned[share])
    sums: dict[str, list[Tensor]] = defaultdict(list)
    for rows in row_parts(share, recipe.parts):
        batch = take_rows(rollouts.batch, rows)
        scores = score_tokens(
            learner.policy,
            batch,
            recipe.temperature,
            learner.credit.head,
            entropy_gradient=recipe.entropy_coef > 0,
        )
        old = scores.logps.detach() if experience.old is None else experience.old[rows]
        advantages = experience.credit.advantages[rows]
        loss = policy_loss(scores.logps, old, advantages, batch.mask, recipe.clip_ratio)
        kl = reference_kl(scores.logps, experience.reference[rows], batch.mask)
        entropy = scores.entropies.sum()
        if recipe.kl_coef:
            loss = loss + recipe.kl_coef * kl
        if recipe.entropy_coef:
            loss = loss - recipe.entropy_coef * entropy
        if scores.values is not None:
            assert experience.credit.returns is not None, "a head has something to learn"
            loss = loss + value_loss(scores.values, experience.credit.returns[rows], batch.mask)
        loss.backward()
        learner.optimizer.accumulate()
        for column, value in (("loss", loss), ("kl", kl), ("entropy", entropy)):
            sums[column].append(value.detach())
    lr = learning_rate(recipe, step)
    norms = learner.optimizer.step(lr, divisor=tokens)
    learner.credit.update(divisor=tokens)
    return {
        "step": step,
        **{column: mean(values, tokens) for column, values in sums.items()},
        "reward": rollouts.reward,
        "response_length": rollouts.response_length,
        "grad_norm": norms.full,
        "grad_norm_masked": norms.masked,
        "lr": lr,
        "tokens": tokens,
    }


def train_online(
    row: Row, learner: Learner, questions: Sequence[Question], journal: Journal
) -> None:
    """Train for ``row.recipe.steps`` steps, from the state in the journal if there is one.

    Prompts and noise are functions of the seed and the number of the batch, so that what follows
    has the same bits as in a run that was never interrupted.
    """
    recipe, done = row.recipe, journal.done
    if journal.state is not None:
        learner.optimizer.load_state(journal.state["policy"])
        learner.credit.load_state(journal.state["credit"])
    journal.start()
    batches = -(-recipe.steps // recipe.updates)
    drawn = recipe.batch_size * recipe.oversample
    order = example_order(len(questions), drawn, row.seed, done // recipe.updates + 1, batches)
    for number, indices in enumerate(order, start=done // recipe.updates + 1):
        first = (number - 1) * recipe.updates + 1
        last = min(first + recipe.updates - 1, recipe.steps)
        with errors_of(row.run, first):
            asked = [questions[index] for index in indices.tolist()]
            experience = gather(learner, asked, noise_seed(row.seed, number))
        for step in range(first, last + 1):
            with errors_of(row.run, step):
                metrics = policy_step(learner, experience, step)
            journal.note(metrics, learner.state)
