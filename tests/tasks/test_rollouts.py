"""Published rollouts become pairs: which columns, which draws, what is dropped."""

from typing import Any

import pytest

from rlsubnet.tasks.published import Answers, gather_answers, rollout_pairs
from rlsubnet.tasks.rows import RowSource

COLUMNS = {"prompt": "question", "response": "answer", "correct": "ok"}


def rows(*rows: dict[str, Any]) -> RowSource:
    return ((f"rollouts.jsonl, row {number}", row) for number, row in enumerate(rows, start=1))


def row(question: Any, answer: Any, ok: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer, "ok": ok}


def texts(pair: dict[str, Any]) -> tuple[str, str, str]:
    """Return prompt, chosen and rejected of a pair whose prompt is one message."""
    (prompt, chosen), (same, rejected) = pair["chosen"], pair["rejected"]
    assert prompt == same
    assert (prompt["role"], chosen["role"], rejected["role"]) == ("user", "assistant", "assistant")
    return prompt["content"], chosen["content"], rejected["content"]


GROUPED = [row("2+2?", ["4", "5", "four"], [True, False, True]), row("1+1?", ["2"], [True])]
SINGLE = [row("2+2?", "4", 1), row("1+1?", "2", 1), row("2+2?", "5", 0), row("2+2?", "four", 1)]


@pytest.mark.parametrize("found", [GROUPED, SINGLE], ids=["grouped", "one a row"])
def test_lists_of_answers_and_one_answer_a_row_give_the_same_pairs(
    found: list[dict[str, Any]],
) -> None:
    pairs, counts = rollout_pairs(gather_answers(rows(*found), COLUMNS), seed=1)
    # Each right answer of the first question with its only wrong one; the second has no wrong one.
    assert [texts(pair) for pair in pairs] == [("2+2?", "4", "5"), ("2+2?", "four", "5")]
    assert (counts.prompts, counts.answers, counts.all_right, counts.none_right) == (2, 4, 1, 0)
    assert str(counts).startswith("2 pairs from 4 answers to 2 prompts; dropped: 1 prompts with e")


def test_a_system_message_and_nested_columns_are_kept() -> None:
    prompt = [{"role": "system", "content": "Think."}, {"role": "user", "content": "2+2?"}]
    columns = {"prompt": "task.messages", "response": "samples.text", "correct": "samples.label"}
    samples = [{"text": "4", "label": 1.0}, {"text": "5", "label": 0.0}]
    found = {"task": {"messages": prompt}, "samples": samples}
    [pair], _ = rollout_pairs(gather_answers(rows(found), columns), seed=1)
    assert pair["chosen"] == [*prompt, {"role": "assistant", "content": "4"}]
    assert pair["rejected"] == [*prompt, {"role": "assistant", "content": "5"}]


def test_an_answer_may_be_a_conversation() -> None:
    answers = [[{"role": "assistant", "content": text}] for text in ("4", "5")]
    [pair], _ = rollout_pairs(gather_answers(rows(row("q", answers, [1, 0])), COLUMNS), seed=1)
    assert texts(pair) == ("q", "4", "5")


def test_draws_follow_the_seed_and_reach_every_wrong_answer() -> None:
    prompts = [Answers([], [f"right {i}" for i in range(40)], ["a", "b", "c"])]
    drawn = [[pair["rejected"][-1]["content"] for pair in rollout_pairs(prompts, seed)[0]]
             for seed in (1, 1, 2)]  # fmt: skip
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) == {"a", "b", "c"}


def test_a_text_that_was_judged_both_ways_is_no_preference() -> None:
    pairs, counts = rollout_pairs([Answers([], ["4", "5"], ["4"])], seed=1)
    assert [pair["chosen"][-1]["content"] for pair in pairs] == ["5"]
    assert counts.without_other == 1


@pytest.mark.parametrize(
    ("found", "columns", "expected"),
    [
        (
            GROUPED[0],
            COLUMNS | {"correct": "label"},
            "rollouts.jsonl, row 1: no column 'label'; the row is {question: text, answer: "
            "list of 3 text, ok: list of 3 true or false}",
        ),
        (row("q", ["4", "5"], [1]), COLUMNS, "row 1: answer: expected 1 answers, one for each "
         "label in ok, found list of 2 text; the row is {question: text, answer: list of 2"),
        (row("q", "4", [1, 0]), COLUMNS, "row 1: answer: expected 2 answers"),
        (row("q", ["4"], [0.5]), COLUMNS, "expected a label true or false, 1 or 0, found 0.5"),
        (row("q", "4", "yes"), COLUMNS, "expected a label true or false, 1 or 0, found 'yes'"),
        (row(7, "4", True), COLUMNS, "row 1: prompt: expected a list of messages, found 7"),
        (row("q", ["4", None], [1, 0]), COLUMNS, "response: expected a list of messages"),
        (row([{"role": "assistant", "content": "4"}], "4", 1), COLUMNS, "prompt: ends with an "
         "answer"),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_stop_at_the_first_row(
    found: dict[str, Any], columns: dict[str, str], expected: str
) -> None:
    with pytest.raises(ValueError) as caught:
        gather_answers(rows(found), columns)
    assert expected in str(caught.value)
