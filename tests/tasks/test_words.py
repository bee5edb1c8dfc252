"""Word problems: read rightly, asked in a model's way, graded by math-verify."""

from collections import Counter
from pathlib import Path

import pytest

from rlsubnet.config.schema import WordProblems
from rlsubnet.evaluation.policy_data import build, read_problems
from rlsubnet.files import write_jsonl
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


def test_a_response_is_graded_by_the_number_it_states():
    for response in (
        *("16 - 3 - 4 = 9, 9 * 2 = 18\n#### 18", "#### 18.00", "#### $18", "The answer is 18."),
        "so she makes \\boxed{18} dollars",
    ):
        assert is_correct(response, "#### 18"), response
    for response in (
        *("#### 19", "#### 18\n#### 19", "", "####", "eighteen"),
        "first 18, then\n#### 19",  # what stands behind the mark counts
        "#### 9^{9^{9^{9}}}",  # takes forever to compute: it is given up soon
    ):
        assert not is_correct(response, "#### 18"), response
    # Numbers that group their digits are the same numbers.
    assert is_correct("#### 1,234", "#### 1234")
    assert not is_correct("#### 234", "#### 1234")
    assert plain_number("12,345,678,901,234,567,890") == "12345678901234567890"
    with pytest.raises(ValueError, match="expected #### and a number"):
        is_correct("18", "#### ")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "?", "answer": "7"}, "no #### in front of the number"),
        ({"question": "?", "answer": "#### seven"}, "expected a number, found ' seven'"),
        ({"question": "?", "answer": "#### inf"}, "expected a number"),
        ({"q": "?"}, "expected the columns question, answer or Body, .*the row is {q: text}"),
    ],
)
def test_a_row_that_is_no_word_problem_is_refused(row, message):
    with pytest.raises(ValueError, match=message):
        word_problem(row)


def test_a_prompt_is_what_the_models_chat_template_makes_of_it():
    tokenizer = build_tokenizer()
    assert asked_by(tokenizer, "1+1?", "plain") == f"Question: 1+1?\n{INSTRUCTION}\nAnswer:"
    with pytest.raises(ValueError, match="no chat template; expected plain"):
        asked_by(tokenizer, "1+1?", "chat")
    tokenizer.chat_template = TEMPLATE
    # The start token, which every prompt gets when it is tokenized, does not come twice.
    assert asked_by(tokenizer, "1+1?", "chat") == f"<user>1+1?\n{INSTRUCTION}<me>"


def rows_file(folder: Path) -> Path:
    path = folder / "rows.jsonl"
    rows = [{"question": f"{n} + 1?", "answer": f"<<{n}+1>>\n#### {n + 1}"} for n in range(6)]
    write_jsonl(path, rows)
    return path


def problems_of(path: Path, rows: list[int] | None = None) -> list[WordProblem]:
    keys = {"source": str(path), "policy": "own", "split": "test", "rows": rows}
    given = {key: value for key, value in keys.items() if value is not None}
    return read_problems(WordProblems(kind="word_problems", **given))


def test_parts_of_a_file_are_apart_and_there(tmp_path):
    path = rows_file(tmp_path)
    first, rest = problems_of(path, [0, 2]), problems_of(path, [2, 6])
    assert [problem.answer for problem in first + rest] == ["1", "2", "3", "4", "5", "6"]
    for rows in ([0, 7], [2, 2]):
        with pytest.raises(ValueError, match="rows: expected two numbers first < last, at most 6"):
            problems_of(path, rows)
    path.write_text(path.read_text() + '{"question": "?"}\n')
    with pytest.raises(ValueError, match=r"rows\.jsonl, row 7: expected the columns"):
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
    source = {"source": str(rows_file(tmp_path))}
    for keys, expected in (
        ({"source": "no.jsonl"}, "source: expected a file, found none at no"),
        (source | {"template": "tulu"}, "key template: unknown value 'tulu'; known: chat, plain"),
    ):
        with pytest.raises(ValueError, match=f"data set w, {expected}"):
            build("w", spec | keys, tmp_path / "model")
