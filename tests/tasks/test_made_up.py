"""Made-up data say what they claim: right answers, labels and splits, no clue in a position."""

import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from rlsubnet.config import load_config
from rlsubnet.evaluation.policy_data import build
from rlsubnet.suites import MADE_UP_CHOICES
from rlsubnet.tasks.arithmetic import LEVELS, is_correct_total, split_of
from rlsubnet.tasks.made_up import (
    CHOICE_TASKS,
    base_text,
    choices,
    demonstration_pairs,
    demonstrations,
)
from rlsubnet.tasks.tokenizer import CHARACTERS
from tests.tasks.independent_arithmetic import level_of, totals_of

FACT = re.compile(r"(?<![^;])(\d\d[-+*]\d=)(\d\d);")
CHAIN = re.compile(r"\((\d\d(?:[-+*]\d){2,3})\)((?:\d\d){2,3});")


def test_base_text_has_the_asked_size_and_characters():
    records = base_text(50, 48, 0.1, seed=3)
    assert [len(record["text"]) for record in records] == [48] * 50
    assert set("".join(record["text"] for record in records)) <= set(CHARACTERS)


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_base_text_is_facts_of_which_the_stated_share_is_wrong_and_right_chains(share):
    text = base_text(1, 200_000, share, seed=0)[0]["text"]
    facts, chains = FACT.findall(text), CHAIN.findall(text)
    assert sum(len(a) + len(b) + 1 for a, b in facts) + sum(
        len(a) + len(b) + 3 for a, b in chains
    ) == pytest.approx(len(text), abs=30)  # all but the piece cut off at the end
    assert len(facts) == pytest.approx(len(chains), rel=0.1)
    wrong = sum(totals_of(question) != [answer] for question, answer in facts)
    # Standard error 0.3 / sqrt(9000) = 0.0032.
    assert wrong / len(facts) == pytest.approx(share, abs=0.013 if share else 0)
    assert all("".join(totals_of(question + "=")) == answer for question, answer in chains)


def test_demonstrations_are_correct_in_both_styles():
    records = demonstrations("mixed", 2000, "train", 11, terse_share=0.52)
    styles = [record["response"][0] for record in records]
    # Standard error sqrt(0.52 * 0.48 / 2000) = 0.011.
    assert styles.count(";") / 2000 == pytest.approx(0.52, abs=0.045)
    for record in records:
        totals = totals_of(record["prompt"])
        assert record["response"] in (";" + totals[-1], "(" + "".join(totals))
        assert is_correct_total(record["response"], "(" + "".join(totals))
        assert record["level"] == level_of(record["prompt"])
    assert [record["level"] for record in records[:6]] == [1, 2, 3, 4, 5, 1]
    for style, share in (("mixed", None), ("terse", 0.5)):
        with pytest.raises(ValueError, match="terse_share: needed by style 'mixed' and by no ot"):
            demonstrations(style, 10, "train", 1, terse_share=share)


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
        final = totals_of(record["prompt"])[-1][:: -1 if style == "reversed" else 1]
        assert record["chosen"][-2:] == final != record["rejected"][-2:]
        assert record["chosen"][0] == record["rejected"][0]
        assert len(record["chosen"]) == len(record["rejected"])


@pytest.fixture(scope="module")
def sets(repository: Path) -> dict[str, list[dict]]:
    """Return the demo's own data sets, but those that a policy is asked for."""
    specs = load_config([repository / "config" / "demo" / "config.yaml"])["data"]
    return {name: build(name, spec)[0] for name, spec in specs.items() if "policy" not in spec}


def calculation(text: str) -> str:
    """Return a prompt or a chain without its idle steps: what is to be computed."""
    # Written again here: the splits' own function must not judge itself.
    return re.sub(r"\+0", "", text.strip("()="))


def test_the_demo_s_splits_share_no_calculation(sets):
    parts = {
        "train": ["sft_train", "ood_sft"],
        "preference": ["ood_preferences", "problems"],
        "dev": ["arith_dev"],
        "test": ["arith500", "mc5"],
    }
    # A choice item's prompt is a problem's prompt and perhaps a part of an answer.
    prompts = {
        split: {record["prompt"].partition("=")[0] for name in names for record in sets[name]}
        for split, names in parts.items()
    }
    for one, other in combinations(prompts.values(), 2):
        assert not set(map(calculation, one)) & set(map(calculation, other))
    for of_split in prompts.values():
        assert {level_of(prompt + "=") for prompt in of_split} == set(LEVELS)


def test_base_text_teaches_every_single_step_and_no_other_test_calculation(sets):
    texts = "\n".join(record["text"] for record in sets["base_text"])
    facts = set(re.findall(r"(\d\d[-+*]\d)=\d\d;", texts))
    assert len(facts) == 2700  # 100 starts, 3 operations, operands 0 and 2 to 9
    chains = {calculation(chain) for chain in re.findall(r"(\(\d\d(?:[-+*]\d)+\))\d+;", texts)}
    asked = {problem["prompt"]: problem["level"] for problem in sets["arith500"]}
    assert not any(prompt.rstrip("=") in texts for prompt in asked)
    for known, expected in ((facts, {1: 43}), (chains, {})):
        levels = [level for prompt, level in asked.items() if calculation(prompt) in known]
        assert Counter(levels) == expected


CHOICES = choices(200, "test", seed=997)


def expected_choice(record: dict) -> str:
    """Work out the right choice from the prompt alone."""
    prompt, _, begun = record["prompt"].partition("=")
    totals = totals_of(prompt + "=")
    before, right = {
        "worked_chain": ("", "(" + "".join(totals)),
        "last_step": ("(" + "".join(totals[:-1]), totals[-1]),
        "first_step": ("(", totals[0]),
        "long_total": (";", totals[-1]),
        "short_total": (";", totals[-1]),
    }[record["task"]]
    assert begun == before
    return right


def test_labels_agree_with_an_independent_evaluation_and_choices_differ_in_nothing_else():
    for record in CHOICES:
        assert record["choices"][record["label"]] == expected_choice(record), record
        assert len(set(record["choices"])) == MADE_UP_CHOICES[record["task"]].choices
        assert len({len(choice) for choice in record["choices"]}) == 1
    assert choices(200, "test", seed=997) == CHOICES != choices(200, "test", seed=998)


def test_tasks_stand_for_the_five_rows_of_table_3a():
    rows = ["LSAT-AR", "LSAT-LR", "LogiQA-en", "GPQA", "MMLU-Pro-Math"]
    assert [task.stands_for for task in MADE_UP_CHOICES.values()] == rows
    assert Counter(record["task"] for record in CHOICES) == dict.fromkeys(CHOICE_TASKS, 200)


@pytest.mark.parametrize("name", CHOICE_TASKS)
def test_items_are_about_test_problems_of_the_task_s_levels_and_come_once(name):
    task, records = CHOICE_TASKS[name], [item for item in CHOICES if item["task"] == name]
    prompts = [record["prompt"].partition("=")[0] + "=" for record in records]
    assert len(set(prompts)) == len(prompts)
    assert {split_of(prompt) for prompt in prompts} == {"test"}
    assert {level_of(prompt) for prompt in prompts} == set(task.levels)
    used = set("".join(prompt[3:-1:2] for prompt in prompts))
    assert used == {str(operand) for operand in task.operands} | {"0"}
    # The position of the right choice is uniform.
    size = MADE_UP_CHOICES[name].choices
    labels, expected = Counter(record["label"] for record in records), 200 / size
    statistic = sum((labels[i] - expected) ** 2 / expected for i in range(size))
    assert statistic < 18.5  # the 99.9 % point of chi-squared with 4 degrees of freedom


def test_the_operand_of_the_tasks_about_steps_occurs_in_no_training_text(sets):
    texts = [record["text"] for record in sets["base_text"][:3000]]
    texts += [record["prompt"] for record in sets["sft_train"][:3000]]
    # Separate lines, for documents are cut anywhere.
    operands = set(re.findall(r"[-+*](\d)", "\n".join(texts)))
    assert operands == set("0123456789") - {"1"}
    assert CHOICE_TASKS["worked_chain"].operands == (1,)
