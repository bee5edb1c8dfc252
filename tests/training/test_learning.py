"""What each objective does to a model in a few steps."""

import math

import pytest
import torch

from rlsubnet.evaluation.loading import load_model
from rlsubnet.files import read_jsonl
from rlsubnet.tasks.tokenizer import encode_prompt, encode_response, load_tokenizer
from rlsubnet.training.batches import example_order
from tests.training.training_runs import RECIPE, column, row


@pytest.mark.parametrize(
    ("algorithm", "beta", "start"),
    [
        # With a reference a run starts where policy and reference agree.
        ("dpo", 0.1, math.log(2)),
        ("dpo_norm", 5.0, math.log(2)),
        ("kto", 0.1, 0.5),
        ("simpo", 2.0, None),
        ("orpo", 0.1, None),
    ],
)
def test_a_preference_run_lowers_its_loss_and_widens_its_margin(train, algorithm, beta, start):
    folder = train(row(algorithm, beta=beta, steps=12))
    losses, rewards = column(folder, "loss"), column(folder, "reward")
    if start is not None:
        assert (losses[0], rewards[0]) == pytest.approx((start, 0.0), abs=1e-6)
    assert losses[-1] < losses[0]
    assert rewards[-1] > rewards[0]
    if algorithm == "kto":
        points = column(folder, "kl")
        assert points[0] == pytest.approx(0.0, abs=1e-6)
        assert min(points) >= 0 and max(points) > 1e-3


def test_the_reference_point_of_kto_is_of_responses_to_the_next_prompt(train, data, base):
    changes = {"schedule": "constant", "warmup_ratio": 0.0, "lr": 1e-2}
    after_one = train(row("kto", steps=1, **changes), "one")
    found = column(train(row("kto", steps=2, **changes), "two"), "kl")[1]

    policy, reference = load_model(after_one / "final"), load_model(base)
    tokenizer, records = load_tokenizer(base), read_jsonl(data["kto"])
    (batch,) = example_order(len(records), RECIPE.batch_size, seed=3, first=2, last=2)
    ratios = []
    for index in batch:
        prompt = encode_prompt(tokenizer, records[index]["prompt"])
        other = records[(index + 1) % len(records)]
        for response in (other["chosen"], other["rejected"]):
            tokens = prompt + encode_response(tokenizer, response)
            policy_logp, reference_logp = (
                sum(
                    model(torch.tensor([tokens])).logits[0, position - 1].log_softmax(-1)[token]
                    for position, token in enumerate(tokens)
                    if position >= len(prompt)
                )
                for model in (policy, reference)
            )
            ratios.append((policy_logp - reference_logp).item())
    assert found > 0.01
    assert found == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)
