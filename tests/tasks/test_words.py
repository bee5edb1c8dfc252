"""Word problems: read rightly, asked in a model's way, graded by math-verify."""

import json
from collections import Counter
from pathlib import Path

import pytest

from rlsubnet.config.schema import WordProblems
from rlsubnet.evaluation.policy_data import build, read_problems
from rlsubnet.tasks.tokenizer import build_tokenizer
from rlsubnet.tasks.words import (
    INSTRUCTION,
    WordProblem,
    asked_by,
    is_correct,
    plain_number,
    word_problem,
)

pytest.importorskip("math_verify", reason="the extra `words` is not installed")

TEMPLATE = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<me>"


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("16 - 3 - 4 = 9, 9 * 2 = 18\n#### 18", True),
        ("#### 18.00", True),
        ("#### $18", True),
        ("so she makes \\boxed{18} dollars", True),
        ("The answer is 18.", True),
        ("#### 19", False),
        ("first 18, then\n#### 19", False),  # what stands behind the mark counts
        ("#### 18\n#### 19", False),
        ("", False),
        ("####", False),
        ("eighteen", False),
    ],
)
def test_a_response_is_graded_by_the_number_it_states(response, right):
    assert is_correct(response, "#### 18") is right


def test_numbers_that_group_their_digits_are_the_same_numbers():
    assert is_correct("#### 1,234", "#### 1234")
    assert not is_correct("#### 234", "#### 1234")


def test_a_solution_without_a_number_is_refused():
    with pytest.raises(ValueError, match="expected #### and a number"):
        is_correct("18", "#### ")


def test_a_number_that_takes_forever_to_compute_is_wrong_soon():
    assert not is_correct("#### 9^{9^{9^{9}}}", "#### 18")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?", "answer": "7"}, "no #### in front of the number"),
        ({"question": "?", "answer": "#### seven"}, "expected a number, found ' seven'"),
        ({"question": "?", "answer": "#### inf"}, "expected a number"),
        ({"q": "?"}, "expected the columns answer, question or Answer, .*the row is {q: text}"),
    ],
)
def test_a_row_that_is_no_word_problem_is_refused(row, message):
    with pytest.raises(ValueError, match=message):
        word_problem(row)


def test_large_numbers_keep_all_their_digits():
    assert plain_number("12,345,678,901,234,567,890") == "12345678901234567890"


def test_a_prompt_is_what_the_models_chat_template_makes_of_it():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    # The start token, which every prompt gets when it is tokenized, does not come twice.
    assert asked_by(tokenizer, "1+1?", "chat") == f"<user>1+1?\n{INSTRUCTION}<me>"
    assert asked_by(tokenizer, "1+1?", "plain") == f"Question: 1+1?\n{INSTRUCTION}\nAnswer:"


def test_a_model_without_a_chat_template_is_told_of_plain_prompts():
    with pytest.raises(ValueError, match="no chat template; expected plain"):
        asked_by(build_tokenizer(), "1+1?", "chat")


def rows_file(folder: Path, count: int = 6) -> Path:
    path = folder / "rows.jsonl"
    rows = [{"question": f"{n} + 1?", "answer": f"<<{n}+1>>\n#### {n + 1}"} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def problems_of(path: Path, rows: list[int] | None = None) -> list[WordProblem]:
    keys = {"source": str(path), "policy": "own", "split": "test"} | (
        {"rows": rows} if rows else {}
    )
    return read_problems(WordProblems(kind="word_problems", **keys))


def test_parts_of_a_file_are_apart(tmp_path):
    path = rows_file(tmp_path)
    first, rest = problems_of(path, [0, 2]), problems_of(path, [2, 6])
    assert [problem.answer for problem in first + rest] == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize("rows", [[0, 7], [2, 2]])
def test_rows_that_a_file_does_not_have_are_refused(tmp_path, rows):
    with pytest.raises(ValueError, match="rows: expected two numbers first < last, at most 6"):
        problems_of(rows_file(tmp_path), rows)


def test_a_damaged_row_is_named_by_file_and_number(tmp_path):
    path = rows_file(tmp_path, 2)
    path.write_text(path.read_text() + '{"question": "?"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, row 3: expected the columns"):
        problems_of(path)


def test_gsm8k_is_read_whole_and_its_own_answers_are_right(shared):
    problems = problems_of(shared / "data/gsm8k/test.jsonl")
    assert len(problems) == 1319
    assert not any("<<" in problem.response for problem in problems)
    assert set(Counter(problem.level for problem in problems)) == {1, 2, 3, 4, 5}
    for problem in problems[::20]:
        assert is_correct(problem.response, problem.solution)
        assert not is_correct(problem.response + "1", problem.solution)


def test_svamp_is_read_whole_and_its_equations_give_its_answers(shared):
    problems = problems_of(shared / "data/svamp/SVAMP.json")
    assert len(problems) == 1000
    for problem in problems[::20]:
        equation, _, answer = problem.reasoning.rpartition(" = ")
        assert eval(equation) == pytest.approx(float(answer), abs=0.01)  # noqa: S307


def test_missing_files_and_unknown_templates_are_refused(tmp_path):
    build_tokenizer().save_pretrained(tmp_path / "model")
    spec = {"kind": "word_problems", "policy": "own", "split": "test"}
    with pytest.raises(ValueError, match="data set w, source: expected a file, found none at no"):
        build("w", {**spec, "source": "no.jsonl"}, tmp_path / "model")
    source = str(rows_file(tmp_path))
    with pytest.raises(
        ValueError, match="data set w, key template: unknown value 'tulu'; known: chat, plain"
    ):
        build("w", {**spec, "source": source, "template": "tulu"}, tmp_path / "model")
