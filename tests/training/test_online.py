"""Whole online runs, and single steps of them against formulas written down a second time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlsubnet.evaluation.loading import load_model
from rlsubnet.training.credit import ValueHead
from rlsubnet.training.device import read
from rlsubnet.training.online import Experience, gather, policy_step
from tests.training.online_runs import (
    ALGORITHMS,
    learner,
    masters,
    online_row,
    questions,
    recipe,
)
from tests.training.training_runs import bits, column, interrupted


def one_by_one(
    experience: Experience, model: PreTrainedModel, temperature: float = 1.0
) -> list[tuple[Tensor, Tensor]]:
    """Return the log-probabilities and entropies of each response, scored alone, unpadded."""
    batch = experience.rollouts.batch
    given = batch.inputs.shape[1] - batch.targets.shape[1]
    scored = []
    for row, mask in enumerate(batch.mask):
        (places,) = torch.where(mask)
        end = given + int(places[-1]) + 1
        logits = model(batch.inputs[[row], :end]).logits[0, given + places]
        logps = (logits / temperature).log_softmax(-1)
        chosen = logps[torch.arange(len(places)), batch.targets[row, places]]
        scored.append((chosen, -(logps.exp() * logps).sum(-1)))
    return scored


# AdamW's first update is lr * g / (|g| + eps): with lr = eps = 1e4 it is the gradient itself.
GRADIENT = {"lr": 1e4, "eps": 1e4, "clip": None, "schedule": "constant", "reward_lr": 1e-3}


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"temperature": 0.7}])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_gradient_of_one_step_agrees_with_reinforce_one_response_at_a_time(
    policy, problems, algorithm, changes
):
    settings = recipe(**GRADIENT, **changes, entropy_coef=0.5)
    found = learner(algorithm, policy, settings)
    before = masters(found)
    experience = gather(found, questions(problems, policy, 8), seed=1)
    (row,) = read([policy_step(found, experience, step=1)])
    after = masters(found)

    model = load_model(policy)
    scored = one_by_one(experience, model, settings.temperature)
    tokens = sum(len(logps) for logps, _ in scored)
    total = torch.tensor(0.0)
    for number, (logps, entropy) in enumerate(scored):
        mask = experience.rollouts.batch.mask[number]
        advantages = experience.credit.advantages[number][mask]
        total = total - (advantages * logps).sum() - 0.5 * entropy.sum()
    gradients = torch.autograd.grad(total / tokens, list(model.parameters()))
    for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
        update = before[name] - after[name]
        torch.testing.assert_close(update, gradient, rtol=2e-2, atol=2e-4)
    # Both sides are not just small: some gradient is a hundred times the tolerance.
    assert max(gradient.abs().max() for gradient in gradients) > 1e-2
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    assert row["grad_norm"] == pytest.approx(norm, rel=1e-3)
    assert row["tokens"] == tokens
    assert row["entropy"] == pytest.approx(
        sum(entropy.sum().item() for _, entropy in scored) / tokens, rel=1e-5
    )


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
def test_the_policy_feels_the_value_loss_through_its_hidden_states(policy, problems, coefficient):
    settings = recipe(**GRADIENT, value_coef=coefficient)
    found = learner("ppo", policy, settings)
    assert isinstance(found.credit.head, ValueHead)
    linear = found.credit.head.linear
    torch.nn.init.constant_(linear.weight, 0.1)
    before = masters(found)
    experience = gather(found, questions(problems, policy, 8), seed=1)
    policy_step(found, experience, step=1)
    after = masters(found)

    model, batch = load_model(policy), experience.rollouts.batch
    tokens = int(batch.mask.sum())
    surrogate, squares = torch.tensor(0.0), torch.tensor(0.0)
    assert experience.credit.returns is not None
    given = batch.inputs.shape[1] - batch.targets.shape[1]
    for row, (logps, _) in enumerate(one_by_one(experience, model)):
        (places,) = torch.where(batch.mask[row])
        surrogate = surrogate - (experience.credit.advantages[row, places] * logps).sum()
        inputs = batch.inputs[[row], : given + int(places[-1]) + 1]
        hidden = model.model(inputs).last_hidden_state[0, given + places]
        errors = 0.1 * hidden.sum(-1) - experience.credit.returns[row, places]
        squares = squares + errors.square().sum() / 2
    weights = list(model.parameters())
    first = torch.autograd.grad(surrogate / tokens, weights)
    second = torch.autograd.grad(squares / tokens, weights, allow_unused=True)
    for (name, _), one, two in zip(model.named_parameters(), first, second, strict=True):
        # The last layer that makes words of hidden states has no part in the values.
        expected = one if two is None else one + coefficient * two
        torch.testing.assert_close(before[name] - after[name], expected, rtol=2e-2, atol=2e-4)
    assert max(two.abs().max() for two in second if two is not None) > 1e-2
    # The head itself always learns: AdamW's first update is its learning rate.
    assert (linear.weight - 0.1).abs().max().item() == pytest.approx(1e-3, rel=1e-2)


def test_the_divergence_from_the_start_pulls_back(policy, problems):
    # No right response, so no advantage: only the divergence has a gradient. It is 0 where the
    # policy is its start, and descends the divergence once the policy has moved away.
    settings = recipe(**GRADIENT, kl_coef=1.0)
    found = learner("grpo", policy, settings)
    asked = [question._replace(solution=";77") for question in questions(problems, policy, 8)]
    (at_start,) = read([policy_step(found, gather(found, asked, seed=1), step=1)])
    assert at_start["kl"] == pytest.approx(0.0, abs=1e-9)
    assert at_start["grad_norm"] == pytest.approx(0.0, abs=1e-5)
    with torch.no_grad():
        for weight in found.policy.parameters():
            weight.mul_(1.1)
    (moved,) = read([policy_step(found, gather(found, asked, seed=1), step=1)])
    assert moved["kl"] > 1e-3
    assert moved["loss"] == moved["kl"]
    assert moved["grad_norm"] > 1e-3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_reward_improves(train, algorithm):
    # With a reward model that learns twenty times as fast PRIME forgets to end its responses.
    what = online_row(algorithm, steps=25, samples=8, lr=1e-2, reward_lr=1e-3)
    folder = train(what)
    rewards = column(folder, "reward")
    # One digit in ten is right at the start; standard error over 64 responses 0.04.
    assert rewards[0] < 0.3
    assert sum(rewards[-3:]) / 3 > 0.8
    assert column(folder, "kl")[-1] > 0.01 > column(folder, "kl")[0]
    assert column(folder, "entropy")[-1] < column(folder, "entropy")[0]


def test_several_updates_for_a_batch_resume_where_a_batch_ends(train):
    what = online_row("ppo", steps=7, updates=2, save_every=1, lr=1e-2)
    interrupted(train, what, after=2)
    resumed = train(what, "run")
    assert bits(resumed) == bits(train(what, "undisturbed"))
    rewards = column(resumed, "reward")
    assert rewards[0::2][:3] == rewards[1::2]  # both updates of a batch have its reward
    # Each learns from its own half of the 32 responses.
    tokens, lengths = column(resumed, "tokens"), column(resumed, "response_length")
    for first in (0, 2, 4):
        assert tokens[first] + tokens[first + 1] == pytest.approx(32 * lengths[first])
    assert len(rewards) == 7


def test_the_ratio_is_clipped_only_where_the_policy_has_moved_since_it_drew(train):
    def run(name: str, **changes: Any) -> Path:
        return train(online_row("grpo", steps=4, lr=1e-2, **changes), name)

    assert bits(run("on", clip_ratio=None)) == bits(run("on_clipped", clip_ratio=1e-3))
    off = {"updates": 2}
    assert bits(run("off", clip_ratio=None, **off)) != bits(run("clip", clip_ratio=1e-3, **off))


def test_the_accuracy_filter_chooses_among_more_prompts(train):
    settings = {"steps": 3, "oversample": 3, "samples": 8, "lr": 1e-6}
    plain = train(online_row("grpo", **settings), "plain")
    mixed = train(online_row("grpo", **settings, accuracy_low=0.1, accuracy_high=0.9), "mixed")
    # The same 24 prompts are drawn at first, the 8 that are learned from differ.
    assert column(plain, "reward")[0] == column(mixed, "reward")[0]
    assert column(plain, "loss")[0] != column(mixed, "loss")[0]
