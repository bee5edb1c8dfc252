"""Multiple-choice items: right labels, wrong distractors, no clue in the position."""

import re
from collections import Counter

import pytest

from rlsubnet.suites import MADE_UP_CHOICES
from rlsubnet.tasks.arithmetic import UNSEEN_OPERANDS, split_of
from rlsubnet.tasks.made_up import CHOICE_TASKS, base_text, choices, demonstrations
from tests.tasks.independent_arithmetic import level_of, totals_of

RECORDS = choices(200, "test", seed=997)


def expected_choice(record: dict) -> str:
    """Work out the right choice from the prompt alone."""
    prompt, _, begun = record["prompt"].partition("=")
    totals = totals_of(prompt + "=")
    if record["task"] == "worked_chain":
        assert begun == ""
        return "(" + "".join(totals)
    if record["task"] == "last_step":
        assert begun == "(" + "".join(totals[:-1])
        return totals[-1]
    if record["task"] == "first_step":
        assert begun == "("
        return totals[0]
    assert record["task"] in ("long_total", "short_total")
    assert begun == ";"
    return totals[-1]


def test_labels_agree_with_an_independent_evaluation():
    for record in RECORDS:
        assert record["choices"][record["label"]] == expected_choice(record), record


def test_choices_differ_and_have_equal_length():
    for record in RECORDS:
        assert len(set(record["choices"])) == len(record["choices"])
        assert len({len(choice) for choice in record["choices"]}) == 1
        assert len(record["choices"]) == MADE_UP_CHOICES[record["task"]].choices


def test_tasks_stand_for_the_five_rows_of_table_3a():
    assert [task.stands_for for task in MADE_UP_CHOICES.values()] == [
        "LSAT-AR",
        "LSAT-LR",
        "LogiQA-en",
        "GPQA",
        "MMLU-Pro-Math",
    ]
    assert {task.choices for task in MADE_UP_CHOICES.values()} == {4, 5}
    assert MADE_UP_CHOICES["long_total"].chance == 0.25
    assert Counter(record["task"] for record in RECORDS) == dict.fromkeys(CHOICE_TASKS, 200)


def test_items_are_about_test_problems_of_the_task_s_levels_and_come_once():
    for name, task in CHOICE_TASKS.items():
        prompts = [
            record["prompt"].partition("=")[0] + "=" for record in RECORDS if record["task"] == name
        ]
        assert len(set(prompts)) == len(prompts)
        assert {split_of(prompt) for prompt in prompts} == {"test"}
        assert {level_of(prompt) for prompt in prompts} == set(task.levels)
        used = set("".join(prompt[3:-1:2] for prompt in prompts))
        assert used == {str(operand) for operand in task.operands} | {"0"}


def test_unseen_operand_occurs_in_no_training_text():
    texts = [record["text"] for record in base_text(3000, 48, 0.1, 0)]
    texts += [record["prompt"] for record in demonstrations("worked", 3000, "train", 1)]
    text = "\n".join(texts)  # separate lines, for documents are cut anywhere
    operands = set(re.findall(r"[-+*](\d)", text))
    assert operands == {str(operand) for operand in range(10)} - {"1"}
    assert UNSEEN_OPERANDS == (1,)


@pytest.mark.parametrize("name", CHOICE_TASKS)
def test_position_of_the_right_choice_is_uniform(name):
    size = MADE_UP_CHOICES[name].choices
    labels = Counter(record["label"] for record in RECORDS if record["task"] == name)
    expected = 200 / size
    statistic = sum((labels[i] - expected) ** 2 / expected for i in range(size))
    assert statistic < 18.5  # the 99.9 % point of chi-squared with 4 degrees of freedom


def test_same_seed_same_items():
    assert choices(200, "test", seed=997) == RECORDS
    assert choices(200, "test", seed=998) != RECORDS
