"""Pairs come from the policy's own samples, and every prompt without a pair is counted."""

import pytest

from rlsubnet.evaluation.policy_data import PairCounts, preference_pairs
from rlsubnet.tasks.tokenizer import Completion

RIGHT, WRONG = Completion(";12", True), Completion(";13", True)
MALFORMED = Completion("(12", True)
CUT_OFF, EMPTY, STRANGE = (
    Completion("(121212121212", False),
    Completion("", True),
    Completion(";1<pad>", True),
)


def problems(number: int) -> list[dict]:
    return [
        {"prompt": f"{index:02d}+5+0+0+0+0=", "solution": ";12", "level": 1}
        for index in range(number)
    ]


def test_every_prompt_is_a_pair_or_counted_with_its_reason() -> None:
    samples = [
        [RIGHT, WRONG],
        [RIGHT, RIGHT],
        [WRONG, CUT_OFF],
        [RIGHT, CUT_OFF, EMPTY, STRANGE],
        [MALFORMED, RIGHT],
    ]
    pairs, counts = preference_pairs(problems(5), samples, seed=0)
    assert [(pair["prompt"][:2], pair["chosen"], pair["rejected"]) for pair in pairs] == [
        ("00", ";12", ";13"),
        ("04", ";12", "(12"),
    ]
    assert counts == PairCounts(
        prompts=5, pairs=2, all_correct=1, none_correct=1, no_usable_wrong=1
    )
    assert str(counts) == (
        "2 pairs from 5 prompts; without a pair: 1 with every sample correct, "
        "1 with none correct, 1 whose wrong samples are all unusable"
    )


def test_a_right_answer_that_was_cut_off_is_not_correct() -> None:
    cut = Completion(";12", False)
    _, counts = preference_pairs(problems(1), [[cut, WRONG]], seed=0)
    assert counts.none_correct == 1


def test_chosen_and_rejected_are_drawn_uniformly_and_by_the_seed() -> None:
    right = [Completion(";12", True), Completion("(0000000012", True)]
    wrong = [Completion(f";{n}", True) for n in (20, 21, 22)]
    questions = problems(100) * 6
    pairs, _ = preference_pairs(questions, [right + wrong] * 600, seed=4)
    for side, expected in (("chosen", 300), ("rejected", 200)):
        texts = [pair[side] for pair in pairs]
        for text in set(texts):
            assert texts.count(text) == pytest.approx(expected, abs=60)  # about five SE
    assert preference_pairs(questions, [right + wrong] * 600, seed=4)[0] == pairs
    assert preference_pairs(questions, [right + wrong] * 600, seed=5)[0] != pairs


def test_missing_samples_are_an_error() -> None:
    with pytest.raises(ValueError):
        preference_pairs(problems(2), [[RIGHT, WRONG]], seed=0)
