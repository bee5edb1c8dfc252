from pathlib import Path

import pytest
import torch

from rlsubnet.evaluation.loading import load_model
from rlsubnet.evaluation.sampler import make_sampler
from rlsubnet.objectives.policy_gradient import whitened
from rlsubnet.objectives.prime import prime_advantages
from rlsubnet.tasks.tokenizer import load_tokenizer
from rlsubnet.training.batches import Sample, row_parts, take_rows
from rlsubnet.training.credit import (
    Group,
    ProcessCredit,
    ValueHead,
    draw_groups,
    make_rollouts,
    noise_seed,
)
from rlsubnet.training.model import score_batch
from rlsubnet.training.online import Experience, gather
from tests.training.online_runs import learner, questions, recipe


def experience(algorithm: str, policy: Path, problems: Path, **changes: object) -> Experience:
    found = learner(algorithm, policy, recipe(**changes))
    return gather(found, questions(problems, policy, 8), seed=1)


def test_grpo_gives_every_token_its_response_s_advantage(policy, problems):
    found = experience("grpo", policy, problems)
    mask, groups = found.rollouts.batch.mask, found.rollouts.outcomes.view(8, 4)
    for row, advantages in enumerate(found.credit.advantages):
        own = groups[row // 4]
        expected = (own[row % 4] - own.mean()) / (own.std() + 1e-6)
        torch.testing.assert_close(advantages[mask[row]], expected.expand(int(mask[row].sum())))
    assert not found.credit.advantages[~mask].any()
    assert found.credit.returns is None


def test_raft_learns_from_the_tokens_of_right_responses_alone(policy, problems):
    found = experience("raft", policy, problems)
    mask, outcomes = found.rollouts.batch.mask, found.rollouts.outcomes
    assert {0.0, 1.0} == set(outcomes.tolist())
    for row, outcome in enumerate(outcomes.tolist()):
        assert set(found.credit.advantages[row][mask[row]].tolist()) == {outcome}
        assert not found.credit.advantages[row][~mask[row]].any()


def test_the_first_credit_of_ppo_is_the_outcome_discounted_by_lambda(policy, problems):
    # A new head says 0 everywhere, so delta is the outcome at the end and 0 before.
    found = experience("ppo", policy, problems, gae_lambda=0.5)
    mask, outcomes = found.rollouts.batch.mask, found.rollouts.outcomes
    to_go = mask.flip(1).cumsum(1).flip(1)  # tokens from here to the end
    expected = (outcomes[:, None] * 0.5 ** (to_go - 1.0)).masked_fill(~mask, 0.0)
    assert found.credit.returns is not None
    torch.testing.assert_close(found.credit.returns, expected)
    torch.testing.assert_close(found.credit.advantages, whitened(expected, mask))


def test_the_head_learns_from_the_mean_over_tokens(policy):
    # Summed gradients of 1 over 1 token and of 4 over 4 are both 1: AdamW moves by its rate twice.
    credit = learner("ppo", policy, recipe(value_lr=0.25)).credit
    assert isinstance(credit.head, ValueHead)
    bias = credit.head.linear.bias
    for tokens in (1.0, 4.0):
        bias.grad = torch.tensor([tokens])
        credit.update(divisor=tokens)
    assert bias.item() == pytest.approx(-0.5)


# At eps 1 AdamW is not blind to the scale of the gradient, and clipping shows.
@pytest.mark.parametrize(
    "changes",
    [{}, {"reward_updates": 4}, {"eps": 1.0, "reward_clip": 1e-3, "reward_lr": 1.0}],
)
def test_prime_learns_the_outcomes_at_twice_the_rate_and_then_gives_credit(
    policy, problems, changes
):
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

    start = load_model(policy).state_dict()
    for name, weight in found.policy.named_parameters():
        assert torch.equal(weight, start[name])  # the policy has not learned yet
    assert isinstance(found.credit, ProcessCredit)
    with torch.no_grad():
        updated = score_batch(found.credit._model, batch)
    wanted = prime_advantages(updated, seen.reference, outcomes, batch.mask, 4, beta=0.05)
    torch.testing.assert_close(seen.credit.advantages, wanted)
    # What it learned: right responses gained more than wrong ones.
    gained = (updated - seen.reference).sum(1)
    assert gained[outcomes == 1].mean() > gained[outcomes == 0].mean()


def group(*correct: bool, finished: bool = True) -> Group:
    return Group([Sample([1, 5, 2], 1) for _ in correct], list(correct), finished)


def test_every_batch_of_every_seed_has_its_own_noise():
    seeds = {noise_seed(seed, number) for seed in range(30) for number in range(1, 31)}
    assert len(seeds) == 900


def test_groups_that_pass_come_first_in_the_order_they_were_drawn():
    drawn = [
        group(True, True, True, True),
        group(True, False, False, False),
        group(True, True, False, False, finished=False),
        group(True, True, True, False),
        group(False, False, False, False),
    ]
    for low, high, numbers in (
        (0.2, 0.8, [1, 3, 0]),
        (0.75, 1.0, [0, 3, 1]),
    ):  # bounds belong to it
        # The bounds belong to what passes.
        settings = recipe(batch_size=3, accuracy_low=low, accuracy_high=high)
        rollouts = make_rollouts(drawn, settings, pad=0, device=torch.device("cpu"))
        kept = [correct for number in numbers for correct in drawn[number].correct]
        assert rollouts.outcomes.tolist() == kept
        # Of all that was drawn: 10 of 20 are right, 2 tokens each.
        assert (rollouts.reward, rollouts.response_length) == (0.5, 2.0)
        assert rollouts.batch.targets.tolist() == [[5, 2]] * 12


def test_responses_are_verified_and_end_with_their_end_token_or_are_cut_off(policy, problems):
    model, tokenizer = load_model(policy), load_tokenizer(policy)
    asked, own = questions(problems, policy, 20), make_sampler("own", model)
    right = [*tokenizer.convert_tokens_to_ids([";", "0", "7"]), 2]
    outcomes = []
    groups = draw_groups(model, tokenizer, asked, recipe(samples=8), 1, own)
    for question, found in zip(asked, groups, strict=True):
        for sample, correct in zip(found.samples, found.correct, strict=True):
            assert sample.tokens[: sample.given] == question.prompt
            response = sample.tokens[sample.given :]
            assert 2 not in response[:-1]
            assert correct == (response == right)
            outcomes.append(correct)
    assert 0 < sum(outcomes) < len(outcomes)
    for found in draw_groups(model, tokenizer, asked, recipe(max_new_tokens=3), 1, own):
        assert not any(found.correct)
        assert not found.finished or all(s.tokens[-1] == 2 for s in found.samples)
