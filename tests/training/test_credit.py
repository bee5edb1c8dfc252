from pathlib import Path

import pytest
import torch

from rlsubnet.evaluation.loading import load_model
from rlsubnet.objectives.policy_gradient import whitened
from rlsubnet.objectives.prime import prime_advantages
from rlsubnet.training.batches import row_parts, take_rows
from rlsubnet.training.credit import ProcessCredit, ValueHead
from rlsubnet.training.model import score_batch
from rlsubnet.training.online import Experience, gather
from tests.training.online_runs import learner, questions, recipe


def experience(algorithm: str, policy: Path, problems: Path, **changes: object) -> Experience:
    found = learner(algorithm, policy, recipe(**changes))
    return gather(found, questions(problems, policy, 8), seed=1)


def test_grpo_gives_every_token_its_response_s_advantage(policy: Path, problems: Path) -> None:
    found = experience("grpo", policy, problems)
    mask, groups = found.rollouts.batch.mask, found.rollouts.outcomes.view(8, 4)
    for row, advantages in enumerate(found.credit.advantages):
        own = groups[row // 4]
        expected = (own[row % 4] - own.mean()) / (own.std() + 1e-6)
        torch.testing.assert_close(advantages[mask[row]], expected.expand(int(mask[row].sum())))
    assert not found.credit.advantages[~mask].any()
    assert found.credit.returns is None


def test_raft_learns_from_the_tokens_of_right_responses_alone(policy: Path, problems: Path) -> None:
    found = experience("raft", policy, problems)
    mask, outcomes = found.rollouts.batch.mask, found.rollouts.outcomes
    assert {0.0, 1.0} == set(outcomes.tolist())
    for row, outcome in enumerate(outcomes.tolist()):
        assert set(found.credit.advantages[row][mask[row]].tolist()) == {outcome}
        assert not found.credit.advantages[row][~mask[row]].any()


def test_the_first_credit_of_ppo_is_the_outcome_discounted_by_lambda(
    policy: Path, problems: Path
) -> None:
    # A new head says 0 everywhere, so delta is the outcome at the end and 0 before.
    found = experience("ppo", policy, problems, gae_lambda=0.5)
    mask, outcomes = found.rollouts.batch.mask, found.rollouts.outcomes
    to_go = mask.flip(1).cumsum(1).flip(1)  # tokens from here to the end
    expected = (outcomes[:, None] * 0.5 ** (to_go - 1.0)).masked_fill(~mask, 0.0)
    assert found.credit.returns is not None
    torch.testing.assert_close(found.credit.returns, expected)
    torch.testing.assert_close(found.credit.advantages, whitened(expected, mask))


def test_the_coefficient_scales_what_the_policy_feels_of_the_value_loss() -> None:
    gradients = []
    for coefficient in (1.0, 0.25, 0.0):
        head = ValueHead(3, coefficient, torch.device("cpu"))
        torch.nn.init.ones_(head.linear.weight)
        hidden = torch.ones(2, 1, 3, requires_grad=True)
        # The hook sits on what the head is given, not on a leaf of the model.
        head(hidden * 1.0).sum().backward()
        assert hidden.grad is not None
        assert head.linear.weight.grad is not None
        assert head.linear.weight.grad.tolist() == [[2.0, 2.0, 2.0]]
        gradients.append(hidden.grad[0, 0, 0].item())
    assert gradients == [1.0, 0.25, 0.0]


def test_the_head_learns_from_the_mean_over_tokens(policy: Path) -> None:
    # Summed gradients of 1 over 1 token and of 4 over 4 are both 1: AdamW moves by its rate twice.
    credit = learner("ppo", policy, recipe(value_lr=0.25)).credit
    assert isinstance(credit.head, ValueHead)
    bias = credit.head.linear.bias
    for tokens in (1.0, 4.0):
        bias.grad = torch.tensor([tokens])
        credit.update(divisor=tokens)
    assert bias.item() == pytest.approx(-0.5)


def test_prime_learns_the_outcomes_first_and_then_gives_credit(
    policy: Path, problems: Path
) -> None:
    settings = recipe(lr=1e-3)
    found = learner("prime", policy, settings)
    assert isinstance(found.credit, ProcessCredit)
    start = {name: weight.clone() for name, weight in found.policy.named_parameters()}
    seen = gather(found, questions(problems, policy, 8), seed=1)
    rewarding, batch = found.credit._model, seen.rollouts.batch
    for name, weight in found.policy.named_parameters():
        assert torch.equal(weight, start[name])  # the policy has not learned yet
    assert any(
        not torch.equal(weight, start[name]) for name, weight in rewarding.named_parameters()
    )
    with torch.no_grad():
        updated = score_batch(rewarding, batch)
    outcomes = seen.rollouts.outcomes
    torch.testing.assert_close(
        seen.credit.advantages,
        prime_advantages(updated, seen.reference, outcomes, batch.mask, 4, beta=0.05),
    )
    # What it learned: right responses gained more than wrong ones.
    gained = (updated - seen.reference).sum(1)
    assert gained[outcomes == 1].mean() > gained[outcomes == 0].mean()


# At eps 1 AdamW is not blind to the scale of the gradient, and clipping shows.
@pytest.mark.parametrize(
    "changes",
    [{}, {"reward_updates": 4}, {"eps": 1.0, "reward_clip": 1e-3, "reward_lr": 1.0}],
)
def test_one_update_of_the_reward_model_is_adamw_at_twice_the_rate(
    policy: Path, problems: Path, changes: dict[str, object]
) -> None:
    settings = recipe(lr=1e-3, **changes)
    found = learner("prime", policy, settings)
    seen = gather(found, questions(problems, policy, 8), seed=1)
    batch, outcomes = seen.rollouts.batch, seen.rollouts.outcomes

    model = load_model(policy)
    masters = [p.detach().clone().requires_grad_() for p in model.parameters()]
    lr = 2e-3 if settings.reward_lr is None else settings.reward_lr
    adamw = torch.optim.AdamW(masters, lr=lr, eps=settings.eps, weight_decay=0.0)
    for rows in row_parts(slice(0, 32), settings.reward_updates):
        q = score_batch(model, take_rows(batch, rows)) - seen.reference[rows]
        chance = torch.sigmoid(0.05 * q.sum(1))
        o = outcomes[rows]
        loss = -(o * chance.log() + (1 - o) * (1 - chance).log()).mean()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for master, gradient in zip(masters, gradients, strict=True):
            master.grad = gradient
        torch.nn.utils.clip_grad_norm_(masters, settings.reward_clip)
        adamw.step()
        with torch.no_grad():
            for weight, master in zip(model.parameters(), masters, strict=True):
                weight.copy_(master.bfloat16())
    expected = dict(zip([n for n, _ in model.named_parameters()], masters, strict=True))
    found_masters = found.credit.state()["masters"]
    for name, master in expected.items():
        torch.testing.assert_close(found_masters[name], master.detach(), rtol=1e-4, atol=1e-6)
