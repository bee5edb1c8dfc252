import math
from typing import get_args, get_type_hints

import pytest
import torch

from rlsubnet.config import Run
from rlsubnet.config.model import ONLINE, Recipe
from rlsubnet.tasks.tokenizer import build_tokenizer
from rlsubnet.training.loop import (
    ALGORITHMS,
    Scores,
    find_algorithm,
    make_examples,
)

TOKENIZER = build_tokenizer()
RECIPE = Recipe(steps=1, batch_size=2, lr=1.0, beta=0.5)


@pytest.mark.parametrize(
    ("algorithm", "record", "expected"),
    [
        # A text is learned from its first character, a response with its end token.
        ("pretrain", {"text": "1+"}, [([1, 4, 13], 1)]),
        ("sft", {"prompt": "1=", "response": "2", "level": 1}, [([1, 4, 16, 5, 2], 3)]),
        (
            "dpo",
            {"prompt": "1=", "chosen": "2", "rejected": "33", "level": 1},
            [([1, 4, 16, 5, 2], 3), ([1, 4, 16, 6, 6, 2], 3)],
        ),
    ],
)
def test_a_record_is_read_as_its_algorithm_learns_it(algorithm, record, expected):
    (example,) = make_examples([record], find_algorithm(algorithm), TOKENIZER)
    assert list(example) == expected


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "1="}, r"line 2: no key 'response'; found \['prompt'\]"),
        ({"prompt": "one", "response": "2"}, "line 2: the tokenizer has no tokens for a part of"),
        ({"prompt": "1=", "response": 5}, "line 2: "),
    ],
)
def test_a_bad_record_is_named_by_its_line(record, message):
    good = {"prompt": "1=", "response": "1"}
    with pytest.raises(ValueError, match=message):
        make_examples([good, record], find_algorithm("sft"), TOKENIZER)


def test_cross_entropy_is_weighted_by_tokens():
    logps = torch.tensor([[-1.0, -2.0], [-4.0, 0.0]])
    mask = torch.tensor([[True, True], [True, False]])
    terms = ALGORITHMS["sft"].terms(Scores(logps, mask, int(mask.sum())), RECIPE)
    assert (terms.loss.item(), terms.weight) == (7.0, 3)


# Rows: chosen 1, chosen 2, rejected 1, rejected 2; response sums -1, -3, -4, -2.
PAIR_LOGPS = torch.tensor([[-1.0, 0.0], [-1.0, -2.0], [-3.0, -1.0], [-2.0, 0.0]])
PAIRS = Scores(
    PAIR_LOGPS,
    PAIR_LOGPS != 0,
    tokens=6,
    reference=torch.tensor([-2.0, -2.0, -2.0, -2.0]),
    reference_point=torch.tensor(0.25),
)


def test_the_reward_of_dpo_is_the_summed_margin_of_its_pairs():
    plain = ALGORITHMS["dpo"].terms(PAIRS, RECIPE)
    # Margins with beta 0.5: 0.5 * ((-1 + 2) - (-4 + 2)) = 1.5 and 0.5 * ((-3 + 2) - 0) = -0.5.
    assert (plain.logged["reward"].item(), plain.weight) == (1.0, 2)
    norm = ALGORITHMS["dpo_norm"].terms(PAIRS, RECIPE)
    # Per token: 0.5 * (1 / 1 - (-2) / 2) = 1 and 0.5 * (-1 / 2 - 0 / 1) = -0.25.
    assert (norm.logged["reward"].item(), norm.weight) == (0.75, 2)


def test_simpo_divides_by_tokens_and_asks_for_no_reference():
    terms = ALGORITHMS["simpo"].terms(
        Scores(PAIRS.logps, PAIRS.mask, PAIRS.tokens), RECIPE.but(gamma=1.0)
    )
    # Means per token -1, -1.5 and -2, -2: margins 0.5 * (1, 0.5).
    assert (terms.logged["reward"].item(), terms.weight) == (0.75, 2)
    assert terms.loss.item() == pytest.approx(sum(math.log1p(math.exp(1 - m)) for m in (0.5, 0.25)))


def test_orpo_adds_likelihood_and_odds_and_asks_for_no_reference():
    terms = ALGORITHMS["orpo"].terms(
        Scores(PAIRS.logps, PAIRS.mask, PAIRS.tokens), RECIPE.but(odds_weight=2.0)
    )
    odds = [math.exp(mean) / (1 - math.exp(mean)) for mean in (-1.0, -1.5, -2.0, -2.0)]
    ratios = odds[0] / odds[2], odds[1] / odds[3]
    assert terms.logged["reward"].item() == pytest.approx(sum(map(math.log, ratios)), rel=1e-5)
    expected = 1.0 + 1.5 + 2.0 * sum(math.log(1 + 1 / ratio) for ratio in ratios)
    assert (terms.loss.item(), terms.weight) == (pytest.approx(expected, rel=1e-5), 2)


def test_kto_logs_the_reference_point_as_the_kl_of_the_whole_batch():
    terms = ALGORITHMS["kto"].terms(PAIRS, RECIPE)
    # Log-ratios 1, -1 and -2, 0, z_0 1/4, beta 1/2: the margins are those of DPO.
    assert (terms.logged["reward"].item(), terms.weight) == (1.0, 2)
    assert (terms.logged["kl"] / terms.weight).item() == 0.25
    costs = [0.5 * (1 - 0.25), 0.5 * (-1 - 0.25), 0.5 * (0.25 + 2), 0.5 * (0.25 - 0)]
    expected = sum(1 / (1 + math.exp(cost)) for cost in costs) / 2
    assert terms.loss.item() == pytest.approx(expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_objective_has_the_recipe_keys_that_the_sheets_say(algorithm):
    def loss(recipe: Recipe) -> float:
        return ALGORITHMS[algorithm].terms(PAIRS, recipe).loss.item()

    of = {key: users for key, users in Recipe.marked("of").items() if users[0] not in ONLINE}
    used = {key for key in of if loss(RECIPE.but(**{key: 3.0})) != loss(RECIPE)}
    assert used == {key for key, users in of.items() if algorithm in users}


def test_sheets_and_registry_know_the_same_algorithms():
    sheet = get_args(get_type_hints(Run)["algorithm"])
    assert list(sheet) == [*ALGORITHMS, *ONLINE] == list(Recipe.learns_from)
