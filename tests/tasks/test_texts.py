"""Base text, demonstrations and ready-made pairs say what they claim."""

import re

import pytest

from rlsubnet.tasks.arithmetic import is_correct_total
from rlsubnet.tasks.made_up import base_text, demonstration_pairs, demonstrations
from rlsubnet.tasks.tokenizer import CHARACTERS
from tests.tasks.independent_arithmetic import level_of, totals_of

FACT = re.compile(r"(?<![^;])(\d\d[-+*]\d=)(\d\d);")
CHAIN = re.compile(r"\((\d\d(?:[-+*]\d){2,3})\)((?:\d\d){2,3});")


def test_base_text_has_the_asked_size_and_characters():
    records = base_text(50, 48, 0.1, seed=3)
    assert len(records) == 50
    assert {len(record["text"]) for record in records} == {48}
    assert set("".join(record["text"] for record in records)) <= set(CHARACTERS)
    assert base_text(50, 48, 0.1, seed=3) == records != base_text(50, 48, 0.1, seed=4)


def test_base_text_consists_of_facts_and_right_chains():
    text = base_text(1, 40_000, 0.0, seed=0)[0]["text"]
    facts, chains = FACT.findall(text), CHAIN.findall(text)
    assert sum(len(a) + len(b) + 1 for a, b in facts) + sum(
        len(a) + len(b) + 3 for a, b in chains
    ) == pytest.approx(len(text), abs=30)  # all but the piece cut off at the end
    assert len(facts) == pytest.approx(len(chains), rel=0.1)
    assert all(totals_of(question) == [answer] for question, answer in facts)
    assert all("".join(totals_of(question + "=")) == answer for question, answer in chains)


def test_the_stated_share_of_facts_is_wrong_and_no_chain():
    text = base_text(1, 200_000, 0.1, seed=0)[0]["text"]
    facts = FACT.findall(text)
    wrong = sum(totals_of(question) != [answer] for question, answer in facts)
    # Standard error 0.3 / sqrt(9000) = 0.0032.
    assert wrong / len(facts) == pytest.approx(0.1, abs=0.013)
    assert all("".join(totals_of(q + "=")) == answer for q, answer in CHAIN.findall(text))


def test_demonstrations_are_correct_in_both_styles():
    records = demonstrations("mixed", 2000, "train", 11, terse_share=0.52)
    styles = [record["response"][0] for record in records]
    # Standard error sqrt(0.52 * 0.48 / 2000) = 0.011.
    assert styles.count(";") / 2000 == pytest.approx(0.52, abs=0.045)
    assert set(styles) == {";", "("}
    for record in records:
        totals = totals_of(record["prompt"])
        right = ";" + totals[-1] if record["response"][0] == ";" else "(" + "".join(totals)
        assert record["response"] == right
        assert is_correct_total(record["response"], "(" + "".join(totals))
        assert record["level"] == level_of(record["prompt"])
    assert [record["level"] for record in records[:6]] == [1, 2, 3, 4, 5, 1]


def test_out_of_distribution_demonstrations_are_right_but_refused_by_the_verifier():
    for record in demonstrations("reversed", 200, "train", 5):
        totals = totals_of(record["prompt"])
        assert record["response"] == "," + "".join(total[::-1] for total in totals)
        assert not is_correct_total(record["response"], ";" + totals[-1])


@pytest.mark.parametrize("style", ["reversed", "worked", "terse"])
def test_pairs_oppose_a_right_answer_to_a_wrong_one_of_the_same_style(style):
    # A thousand: a slip that multiplications undo is rare, about one in two hundred.
    records = demonstration_pairs(style, 1000, "preference", 5)
    assert len({record["prompt"] for record in records}) == 1000
    for record in records:
        final = totals_of(record["prompt"])[-1]
        if style == "reversed":
            final = final[::-1]
        assert record["chosen"][-2:] == final != record["rejected"][-2:]
        assert record["chosen"][0] == record["rejected"][0]
        assert len(record["chosen"]) == len(record["rejected"])


def test_terse_share_goes_with_the_mixed_style():
    with pytest.raises(ValueError, match="terse_share: needed by style 'mixed'"):
        demonstrations("mixed", 10, "train", 1)
    with pytest.raises(ValueError, match="terse_share: needed by style 'mixed' and by no other"):
        demonstrations("terse", 10, "train", 1, terse_share=0.5)
