from pathlib import Path

import pytest
import torch

from rlsubnet.evaluation.loading import load_model
from rlsubnet.tasks.tokenizer import build_tokenizer, load_tokenizer
from rlsubnet.training.batches import Sample
from rlsubnet.training.credit import (
    Group,
    Question,
    draw_groups,
    keep_preferred,
    make_questions,
    make_rollouts,
    noise_seed,
)
from tests.training.online_runs import questions, recipe

TOKENIZER = build_tokenizer()


def group(*correct: bool, finished: bool = True) -> Group:
    return Group([Sample([1, 5, 2], 1) for _ in correct], list(correct), finished)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "1="}, r"line 2: no key 'solution'; found \['prompt'\]"),
        ({"prompt": "one", "solution": ";07"}, "line 2: the tokenizer has no tokens for a part of"),
        ({"prompt": "1=", "solution": "7"}, "line 2: solution '7': expected a worked answer"),
        ({"prompt": 1, "solution": ";07"}, "line 2: "),
    ],
)
def test_a_bad_problem_is_named_by_its_line(record: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_questions([{"prompt": "1=", "solution": ";07"}, record], TOKENIZER)


def test_every_batch_of_every_seed_has_its_own_noise() -> None:
    seeds = {noise_seed(seed, number) for seed in range(30) for number in range(1, 31)}
    assert len(seeds) == 900


def test_groups_that_pass_come_first_in_the_order_they_were_drawn() -> None:
    drawn = [
        group(True, True, True, True),
        group(True, False, False, False),
        group(True, True, False, False, finished=False),
        group(True, True, True, False),
        group(False, False, False, False),
    ]
    kept = keep_preferred(drawn, 3, low=0.2, high=0.8)
    assert kept == [drawn[1], drawn[3], drawn[0]]
    # The bounds belong to what passes.
    assert keep_preferred(drawn, 2, low=0.75, high=1.0) == [drawn[0], drawn[3]]


def test_means_are_over_all_that_was_drawn_and_the_batch_holds_what_is_kept() -> None:
    drawn = [group(False, False), group(True, False)]
    settings = recipe(batch_size=1, samples=2, accuracy_low=0.2, accuracy_high=0.8)
    rollouts = make_rollouts(drawn, settings, pad=0, device=torch.device("cpu"))
    assert (rollouts.reward, rollouts.response_length) == (0.25, 2.0)
    assert rollouts.outcomes.tolist() == [1.0, 0.0]
    assert rollouts.batch.targets.tolist() == [[5, 2], [5, 2]]


def test_responses_are_verified_and_end_with_their_end_token(
    policy: Path,
    problems: Path,
) -> None:
    model, tokenizer = load_model(policy), load_tokenizer(policy)
    asked = questions(problems, policy, 20)
    groups = draw_groups(model, tokenizer, asked, recipe(samples=8), seed=1)
    right = [tokenizer.convert_tokens_to_ids(token) for token in ";07"] + [2]
    outcomes = []
    for question, found in zip(asked, groups, strict=True):
        for sample, correct in zip(found.samples, found.correct, strict=True):
            assert sample.tokens[: sample.given] == question.prompt
            response = sample.tokens[sample.given :]
            assert 2 not in response[:-1]
            assert correct == (response == right)
            outcomes.append(correct)
    assert 0 < sum(outcomes) < len(outcomes)


def test_a_response_that_is_cut_off_is_wrong_and_its_group_not_finished(
    policy: Path,
    problems: Path,
) -> None:
    model, tokenizer = load_model(policy), load_tokenizer(policy)
    asked = [Question(question.prompt, ";07") for question in questions(problems, policy, 10)]
    for found in draw_groups(model, tokenizer, asked, recipe(max_new_tokens=3), seed=1):
        assert not any(found.correct)
        assert not found.finished or all(s.tokens[-1] == 2 for s in found.samples)


def test_the_seed_decides_what_is_drawn(
    policy: Path,
    problems: Path,
) -> None:
    model, tokenizer = load_model(policy), load_tokenizer(policy)
    asked = questions(problems, policy, 10)
    one, same, other = (draw_groups(model, tokenizer, asked, recipe(), seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
