"""GSM8K and MATH as prompts with an answer and a level."""

import pytest

from rlsubnet.cli import main
from rlsubnet.files import read_jsonl, write_jsonl
from rlsubnet.tasks.contamination import find_overlaps
from rlsubnet.tasks.published import (
    graded_prompts,
    last_boxed,
    level_number,
    training_prompts,
)

MATH = {"problem": "What is 1 + 1?", "level": "Level 2", "solution": r"It is $\boxed{2}$."}
GSM8K = {"question": "How many?", "answer": "There are 6 * 2 = <<6*2=12>>12.\n#### 1,212"}


def made(grader, *rows):
    return list(
        graded_prompts(((f"row {n}", row) for n, row in enumerate(rows, 1)), grader, "train")
    )


def test_a_problem_of_math_keeps_its_level_and_names_its_grader():
    first, second = made("math", MATH, {**MATH, "level": "Level ?"})
    assert first["data_source"] == "DigitalLearningGmbH/MATH-lighteval"
    assert first["reward_model"] == {"style": "rule", "ground_truth": "2"}
    assert first["extra_info"] == {"split": "train", "index": 0, "level": 2}
    assert second["extra_info"] == {"split": "train", "index": 1, "level": None}
    assert first["prompt"][0]["content"].endswith(r"within \boxed{}.")


def test_a_problem_of_gsm8k_has_a_number_without_commas_and_no_level():
    (record,) = made("gsm8k", GSM8K)
    assert record["data_source"] == "openai/gsm8k"
    assert record["reward_model"]["ground_truth"] == "1212"
    assert record["extra_info"]["level"] is None


def test_the_last_box_counts_with_all_its_braces():
    assert last_boxed(r"$\boxed{1}$, so $\boxed{\frac{a}{b{c}}}$") == r"\frac{a}{b{c}}"
    assert level_number("Level 1") == 1


@pytest.mark.parametrize(
    ("grader", "row", "message"),
    [
        ("math", {**MATH, "solution": "It is 2."}, r"row 1: solution: expected a \\boxed answer"),
        ("math", {**MATH, "solution": r"\boxed{2"}, "row 1: solution: the braces of"),
        ("math", {**MATH, "level": "Level 6"}, "row 1: level: expected Level 1 to Level 5"),
        ("math", {"problem": "?"}, "row 1: solution: expected a text, found None"),
        ("gsm8k", {**GSM8K, "answer": "12"}, "row 1: answer: expected #### and a number"),
        ("gsm8k", {**GSM8K, "question": " "}, "row 1: question: expected a text"),
        ("code", MATH, "grader: expected one of gsm8k, math, found 'code'"),
    ],
)
def test_a_row_without_an_answer_is_named(grader, row, message):
    with pytest.raises(ValueError, match=message):
        made(grader, row)


def test_a_mixture_holds_its_parts_one_after_the_other(tmp_path):
    for name, rows in (("a", made("gsm8k", GSM8K)), ("b", made("math", MATH, MATH))):
        write_jsonl(tmp_path / name, rows)
    out = tmp_path / "mixed"
    assert main(["mix", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(out)]) == 0
    assert read_jsonl(out) == [*made("gsm8k", GSM8K), *made("math", MATH, MATH)]


def test_evaluation_items_are_found_in_prompts_with_an_answer():
    found = find_overlaps(training_prompts(made("math", MATH)), [("m", MATH["problem"])], n=3)
    assert found.near == {"m": (1.0, 1)}
