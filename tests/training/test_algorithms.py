import math
from typing import get_args, get_type_hints

import pytest
import torch

from rlsubnet.config import Run
from rlsubnet.config.model import ONLINE, Recipe
from rlsubnet.tasks.tokenizer import build_tokenizer
from rlsubnet.training.loop import ALGORITHMS, Scores

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
    assert list(ALGORITHMS[algorithm].example(record, TOKENIZER)) == expected


# Rows: chosen 1, chosen 2, rejected 1, rejected 2; response sums -1, -3, -4, -2.
PAIR_LOGPS = torch.tensor([[-1.0, 0.0], [-1.0, -2.0], [-3.0, -1.0], [-2.0, 0.0]])
PAIRS = Scores(
    PAIR_LOGPS,
    PAIR_LOGPS != 0,
    tokens=6,
    reference=torch.tensor([-2.0, -2.0, -2.0, -2.0]),
    reference_point=torch.tensor(0.25),
)


def losses(*margins: float) -> float:
    return sum(math.log1p(math.exp(-margin)) for margin in margins)


ODDS = [math.exp(mean) / (1 - math.exp(mean)) for mean in (-1.0, -1.5, -2.0, -2.0)]
RATIOS = math.log(ODDS[0] / ODDS[2]), math.log(ODDS[1] / ODDS[3])
COSTS = [0.5 * (1 - 0.25), 0.5 * (-1 - 0.25), 0.5 * (0.25 + 2), 0.5 * (0.25 - 0)]


@pytest.mark.parametrize(
    ("algorithm", "reward", "loss"),
    [
        # Margins with beta 0.5: 0.5 * ((-1 + 2) - (-4 + 2)) = 1.5 and 0.5 * ((-3 + 2) - 0) = -0.5.
        ("dpo", 1.0, losses(1.5, -0.5)),
        # Per token: 0.5 * (1 / 1 - (-2) / 2) = 1 and 0.5 * (-1 / 2 - 0 / 1) = -0.25.
        ("dpo_norm", 0.75, losses(1.0, -0.25)),
        # Means per token -1, -1.5 and -2, -2: margins 0.5 * (1, 0.5), of which gamma 0.25 is taken.
        ("simpo", 0.75, losses(0.5 - 0.25, 0.25 - 0.25)),
        # Likelihood of the same means, and 0.1 times the odds ratios.
        ("orpo", sum(RATIOS), 1.0 + 1.5 + 0.1 * losses(*RATIOS)),
        # Log-ratios 1, -1 and -2, 0, z_0 1/4: the margins are those of DPO.
        ("kto", 1.0, sum(1 / (1 + math.exp(cost)) for cost in COSTS) / 2),
    ],
)
def test_loss_and_margin_of_two_pairs_are_those_worked_by_hand(algorithm, reward, loss):
    terms = ALGORITHMS[algorithm].terms(PAIRS, RECIPE.but(gamma=0.25, odds_weight=0.1))
    found = (terms.loss.item(), terms.logged["reward"].item(), terms.weight)
    assert found == (pytest.approx(loss, rel=1e-5), pytest.approx(reward, rel=1e-5), 2)
    if algorithm == "kto":
        assert (terms.logged["kl"] / terms.weight).item() == 0.25


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_objective_has_the_recipe_keys_that_the_sheets_say(algorithm):
    def loss(recipe: Recipe) -> float:
        return ALGORITHMS[algorithm].terms(PAIRS, recipe).loss.item()

    of = {key: users for key, users in Recipe.marked("of").items() if users[0] not in ONLINE}
    used = {key for key in of if loss(RECIPE.but(**{key: 3.0})) != loss(RECIPE)}
    assert used == {key for key, users in of.items() if algorithm in users}


def test_rft_is_sft_on_other_data():
    assert ALGORITHMS["rft"] == ALGORITHMS["sft"]


def test_sheets_and_registry_know_the_same_algorithms():
    sheet = get_args(get_type_hints(Run)["algorithm"])
    assert list(sheet) == [*ALGORITHMS, *ONLINE] == list(Recipe.learns_from)
