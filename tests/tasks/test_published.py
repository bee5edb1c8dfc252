"""Published data sets: fetched or linked, read, adapted, and compared with evaluation items."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlsubnet.cli import main
from rlsubnet.files import read_jsonl, write_csv, write_jsonl
from rlsubnet.tasks.published import (
    Answers,
    find_overlaps,
    gather_answers,
    graded_prompts,
    normalized_words,
    rollout_pairs,
    training_prompts,
)
from rlsubnet.tasks.rows import RowSource, read_rows
from tests.checkpoints.local_hub import COMMIT, REPOSITORY, LocalHub, serve
from tests.sheets_of_row import write_config


def conversation(prompt: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


SIDES = {"chosen": conversation("2+2?", "4"), "rejected": conversation("2+2?", "5")}
PAIR = {"id": "a", "source": "s", "prompt": "2+2?", **SIDES}
TULU = {"kind": "tulu_preferences", "source": "here"}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: extra paper")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS = {
    ".parquet": write_parquet,
    ".jsonl": write_jsonl,
    ".json": lambda path, rows: path.write_text(json.dumps(rows, indent=1), encoding="utf-8"),
    ".csv": lambda path, rows: write_csv(path, rows, list(rows[0])),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_rows_of_every_format_arrive_in_order(tmp_path, suffix):
    rows = [{"id": "a", "text": "2+2?"}, {"id": "b", "text": "3+3?"}]
    WRITERS[suffix](tmp_path / f"data{suffix}", rows)
    found = list(read_rows(tmp_path))
    assert [row for _, row in found] == rows
    assert found[1][0] == f"{tmp_path / f'data{suffix}'}, row 2"


def adapt(tmp_path: Path, spec: dict[str, Any], source: Path) -> int:
    words = ["--config", write_config(tmp_path, data={"d": spec}), "--source", str(source)]
    return main(["adapt", "d", *words, "--out", str(tmp_path / "d.jsonl")])


def test_a_preference_mixture_keeps_its_order_and_nothing_but_the_pairs(tmp_path, capsys):
    # Two shards, as on the hub: the second must come second.
    write_parquet(tmp_path / "in/data/train-00000-of-00002.parquet", [PAIR, PAIR | {"id": "b"}])
    write_parquet(tmp_path / "in/data/train-00001-of-00002.parquet", [PAIR | {"id": "c"}])
    assert adapt(tmp_path, TULU, tmp_path / "in") == 0
    records = read_jsonl(tmp_path / "d.jsonl")
    assert [record["id"] for record in records] == ["a", "b", "c"]
    assert records[0] == {"id": "a", **SIDES}
    output = capsys.readouterr().out
    assert "row 1: {id: text, source: text, prompt: text, chosen: list of 2 {" in output
    assert "d: 3 records of kind tulu_preferences, sha256 " in output


def test_a_file_without_pairs_is_refused_and_nothing_is_written(tmp_path, capsys):
    write_jsonl(tmp_path / "faulty.jsonl", [PAIR, PAIR | {"rejected": []}])
    write_jsonl(tmp_path / "none.jsonl", [])
    (tmp_path / "empty").mkdir()
    made_up = {"kind": "choices", "per_task": 1, "split": "test", "seed": 1}
    for spec, name, expected in (
        (TULU, "faulty.jsonl", "faulty.jsonl, row 2: rejected: expected a list of messages, found"),
        (TULU, "none.jsonl", "no record came out of"),
        (TULU, "empty", "no file that ends in .parquet, .jsonl, .json, .csv"),
        (made_up, "none.jsonl", "key kind: expected one of tulu_preferences, rollout_pairs"),
    ):
        assert adapt(tmp_path, spec, tmp_path / name) == 1
        assert expected in capsys.readouterr().err
        assert not (tmp_path / "d.jsonl").exists()


def test_rollouts_become_pairs_and_say_what_was_dropped(tmp_path, capsys):
    rows = [{"q": "2+2?", "a": ["4", "5"], "ok": [1, 0]}, {"q": "1+1?", "a": ["3"], "ok": [0]}]
    write_parquet(tmp_path / "in/rollouts.parquet", rows)
    columns = {"prompt": "q", "response": "a", "correct": "ok"}
    spec = {"kind": "rollout_pairs", "source": "here", "columns": columns, "seed": 1}
    assert adapt(tmp_path, spec, tmp_path / "in") == 0
    [record] = read_jsonl(tmp_path / "d.jsonl")
    assert record == SIDES
    output = capsys.readouterr().out
    assert "row 1: {q: text, a: list of 2 text, ok: list of 2 number}" in output
    assert "1 pairs from 3 answers to 2 prompts; dropped: 0 prompts with every answer" in output


def test_evaluation_items_are_chosen_by_their_columns(tmp_path):
    rows = [
        {"question": "2+2?", "category": "math", "question_id": 70},
        {"question": "Who?", "category": "law", "question_id": 71},
    ]
    write_jsonl(tmp_path / "in.jsonl", rows)
    spec = {
        **{"kind": "eval_items", "source": "here", "where": {"category": "math"}},
        "columns": {"prompt": "question", "id": "question_id"},
    }
    assert adapt(tmp_path, spec, tmp_path / "in.jsonl") == 0
    assert read_jsonl(tmp_path / "d.jsonl") == [{"id": "70", "prompt": "2+2?"}]


def fetch(spec: dict[str, Any], out: Path) -> int:
    config = write_config(out.parent / "sheets", data={"d": spec})
    return main(["fetch", "d", "--config", config, "--out", str(out)])


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    """Serve a data set with one file in a folder; the command finds it as the hub."""
    files = {"README.md": b"a card", "data/pairs.jsonl": json.dumps(PAIR).encode() + b"\n"}
    with serve(LocalHub(files, kind="datasets"), monkeypatch, tmp_path) as hub:
        monkeypatch.setattr("rlsubnet.checkpoints.hub.WAITS", (0.0, 0.0))
        yield hub


HUB = {"kind": "tulu_preferences", "source": f"hf:{REPOSITORY}", "files": "*.jsonl"}


def test_a_data_set_is_fetched_once_checked_and_recorded(dataset, tmp_path, capsys):
    out = tmp_path / "sources" / "d"
    dataset.faults["data/pairs.jsonl"] = [503, 503]  # a transient failure is tried again
    assert fetch(HUB, out) == 0
    assert dataset.fetched() == ["data/pairs.jsonl"] * 3
    record = json.loads((out / "download.json").read_text(encoding="utf-8"))
    assert (record["commit"], list(record["files"])) == (COMMIT, ["data/pairs.jsonl"])
    assert fetch(HUB, out) == 0
    assert dataset.fetched() == ["data/pairs.jsonl"] * 3
    assert "complete, nothing to do" in capsys.readouterr().out
    # Its record lies beside it and is no row.
    assert adapt(tmp_path, TULU, out) == 0
    assert len(read_jsonl(tmp_path / "d.jsonl")) == 1


def test_what_cannot_be_fetched_says_what_there_is(dataset, tmp_path, capsys):
    for spec, expected in (
        (HUB | {"files": "*.parquet"}, "found README.md, data/pairs.jsonl"),
        (HUB | {"files": "*"}, "found README.md"),
        (TULU | {"source": str(tmp_path / "nowhere")}, "nowhere: no such file or folder"),
    ):
        assert fetch(spec, tmp_path / "d") == 1
        assert expected in capsys.readouterr().err
        assert not (tmp_path / "d").exists()


def test_a_folder_or_a_file_is_linked(tmp_path):
    write_jsonl(tmp_path / "mine/more/pairs.jsonl", [PAIR])
    for source in ("mine", "mine/more/pairs.jsonl"):
        out = tmp_path / "out" / source.replace("/", "-")
        assert fetch(TULU | {"source": str(tmp_path / source), "files": "*"}, out) == 0
        assert [row for _, row in read_rows(out)] == [PAIR]


COLUMNS = {"prompt": "question", "response": "answer", "correct": "ok"}


def rows(*rows: dict[str, Any]) -> RowSource:
    return ((f"rollouts.jsonl, row {number}", row) for number, row in enumerate(rows, start=1))


def row(question: Any, answer: Any, ok: Any) -> dict[str, Any]:
    return {"question": question, "answer": answer, "ok": ok}


GROUPED = [row("2+2?", ["4", "5", "four"], [True, False, True]), row("1+1?", ["2"], [True])]
SINGLE = [row("2+2?", "4", 1), row("1+1?", "2", 1), row("2+2?", "5", 0), row("2+2?", "four", 1)]


@pytest.mark.parametrize("found", [GROUPED, SINGLE], ids=["grouped", "one a row"])
def test_lists_of_answers_and_one_answer_a_row_give_the_same_pairs(found):
    pairs, note = rollout_pairs(gather_answers(rows(*found), COLUMNS), seed=1)
    # Each right answer of the first question with its only wrong one; the second has no wrong one.
    assert pairs == [SIDES, SIDES | {"chosen": conversation("2+2?", "four")}]
    assert note.startswith("2 pairs from 4 answers to 2 prompts; dropped: 1 prompts with every")
    assert "0 with none right" in note


def test_a_system_message_and_nested_columns_are_kept():
    prompt = [{"role": "system", "content": "Think."}, {"role": "user", "content": "2+2?"}]
    columns = {"prompt": "task.messages", "response": "samples.text", "correct": "samples.label"}
    samples = [{"text": "4", "label": 1.0}, {"text": "5", "label": 0.0}]
    found = {"task": {"messages": prompt}, "samples": samples}
    [pair], _ = rollout_pairs(gather_answers(rows(found), columns), seed=1)
    assert pair["chosen"] == [*prompt, {"role": "assistant", "content": "4"}]
    assert pair["rejected"] == [*prompt, {"role": "assistant", "content": "5"}]
    # An answer may be a conversation.
    answers = [conversation("2+2?", text)[1:] for text in ("4", "5")]
    [pair], _ = rollout_pairs(gather_answers(rows(row("2+2?", answers, [1, 0])), COLUMNS), seed=1)
    assert pair == SIDES


def test_draws_follow_the_seed_and_reach_every_wrong_answer():
    prompts = [Answers([], [f"right {i}" for i in range(40)], ["a", "b", "c"])]
    drawn = [[pair["rejected"][-1]["content"] for pair in rollout_pairs(prompts, seed)[0]]
             for seed in (1, 1, 2)]  # fmt: skip
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) == {"a", "b", "c"}


def test_a_text_that_was_judged_both_ways_is_no_preference():
    pairs, note = rollout_pairs([Answers([], ["4", "5"], ["4"])], seed=1)
    assert [pair["chosen"][-1]["content"] for pair in pairs] == ["5"]
    assert note.endswith("1 right answers that equal every wrong one")


@pytest.mark.parametrize(
    ("found", "columns", "expected"),
    [
        (
            GROUPED[0],
            COLUMNS | {"correct": "label"},
            "rollouts.jsonl, row 1: no column 'label'; the row is {question: text, answer: "
            "list of 3 text, ok: list of 3 true or false}",
        ),
        (
            row("q", ["4", "5"], [1]),
            COLUMNS,
            "row 1: answer: expected 1 answers, one for each label in ok, found list of 2 text; "
            "the row is {question: text, answer: list of 2",
        ),
        (row("q", "4", [1, 0]), COLUMNS, "row 1: answer: expected 2 answers"),
        (row("q", ["4"], [0.5]), COLUMNS, "expected a label true or false, 1 or 0, found 0.5"),
        (row("q", "4", "yes"), COLUMNS, "expected a label true or false, 1 or 0, found 'yes'"),
        (row(7, "4", True), COLUMNS, "row 1: prompt: expected a list of messages, found 7"),
        (row("q", ["4", None], [1, 0]), COLUMNS, "response: expected a list of messages"),
        (row(conversation("q", "4"), "4", 1), COLUMNS, "prompt: ends with an answer"),
    ],
    ids=range(8),
)
def test_columns_that_do_not_fit_stop_at_the_first_row(found, columns, expected):
    with pytest.raises(ValueError) as caught:
        gather_answers(rows(found), columns)
    assert expected in str(caught.value)


MATH = {"problem": "What is 1 + 1?", "level": "Level 2", "solution": r"It is $\boxed{2}$."}
GSM8K = {"question": "How many?", "answer": "There are 6 * 2 = <<6*2=12>>12.\n#### 1,212"}


def made(grader: str, *problems: dict[str, Any]) -> list[dict[str, Any]]:
    return list(graded_prompts(rows(*problems), grader, "train"))


def test_a_problem_keeps_its_level_and_names_its_grader():
    first, second = made("math", MATH, {**MATH, "level": "Level ?"})
    assert first["data_source"] == "DigitalLearningGmbH/MATH-lighteval"
    assert first["reward_model"] == {"style": "rule", "ground_truth": "2"}
    assert first["extra_info"] == {"split": "train", "index": 0, "level": 2}
    assert second["extra_info"] == {"split": "train", "index": 1, "level": None}
    assert first["prompt"][0]["content"].endswith(r"within \boxed{}.")
    (record,) = made("gsm8k", GSM8K)
    assert record["data_source"] == "openai/gsm8k"
    assert record["reward_model"]["ground_truth"] == "1212"
    assert record["extra_info"]["level"] is None


@pytest.mark.parametrize(
    ("grader", "row", "message"),
    [
        ("math", {**MATH, "solution": "It is 2."}, r"row 1: solution: expected a \\boxed answer"),
        ("math", {**MATH, "solution": r"\boxed{2"}, "row 1: solution: the braces of"),
        ("math", {**MATH, "level": "Level 6"}, "row 1: level: expected Level 1 to Level 5"),
        ("math", {"problem": "?"}, "row 1: solution: expected a text, found None"),
        ("gsm8k", {**GSM8K, "answer": "12"}, "row 1: answer: expected #### and a number"),
        ("gsm8k", {**GSM8K, "question": " "}, "row 1: question: expected a text"),
    ],
)
def test_a_row_without_an_answer_is_named(grader, row, message):
    with pytest.raises(ValueError, match=message):
        made(grader, row)


def test_a_mixture_holds_its_parts_one_after_the_other(tmp_path):
    parts = {"a": made("gsm8k", GSM8K), "b": made("math", MATH, MATH)}
    for name, records in parts.items():
        write_jsonl(tmp_path / name, records)
    out = tmp_path / "mixed"
    assert main(["mix", *(str(tmp_path / name) for name in parts), "--out", str(out)]) == 0
    assert read_jsonl(out) == [*parts["a"], *parts["b"]]
    # Evaluation items are found in prompts with an answer, too.
    items = [("m", MATH["problem"])]
    assert find_overlaps(training_prompts(read_jsonl(out)), items, n=3).near == {"m": (1.0, 2)}


# Ten words each.
ITEM = "Tom has three red apples and buys two green apples"
OTHER = "how many integers lie strictly between four and ninety nine"
SHOUTED = f"  {ITEM.upper().replace(' ', ',  ')}!"
WORDS = ITEM.split()
TOM = {"tom": ITEM}


def first(count: int, *more: str) -> str:
    return " ".join([*WORDS[:count], *more])


@pytest.mark.parametrize(
    ("prompts", "items", "n", "exact", "near"),
    [
        # Case, punctuation and spacing make no difference.
        (["other", SHOUTED], TOM | {"o": OTHER}, 8, {"tom": 2}, {"tom": (1.0, 2)}),
        # Inside a longer prompt its words are found.
        ([f"Please solve: {ITEM}. Show your work."], TOM, 8, {}, {"tom": (1.0, 1)}),
        # Five of ten words are not more than half, six are; two prompts do not add up.
        ([first(5, "x", "y", "z")], TOM, 5, {}, {}),
        ([first(6, "x", "y", "z")], TOM, 5, {}, {"tom": (0.6, 1)}),
        ([first(5), " ".join(WORDS[5:])], TOM, 5, {}, {}),
        # The best prompt is named.
        ([first(6, "x"), first(8, "x"), first(7, "x")], TOM, 5, {}, {"tom": (0.8, 2)}),
        # a b c stands twice in the item: six of its seven words.
        (["x a b c y"], {"r": "a b c a b c z"}, 3, {}, {"r": (6 / 7, 1)}),
        # An item of fewer words than a run matches only as a whole.
        (["What is 2+2 in total?", "what is 2 2"], {"sum": "What is 2+2?"}, 8, {"sum": 2}, {}),
    ],
)
def test_an_item_matches_a_prompt_of_its_words_or_one_that_holds_most(
    prompts, items, n, exact, near
):
    found = find_overlaps(prompts, list(items.items()), n)
    assert (found.exact, found.near) == (exact, near)
    assert found.share == len({*exact, *near}) / len(items)
    assert found.short == sum(len(normalized_words(text)) < n for text in items.values())


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Return arguments for two items of which one stands in the first of two training pairs."""
    # An answer may quote what it likes.
    pairs = [
        {"chosen": conversation(prompt, "good"), "rejected": conversation(prompt, ITEM)}
        for prompt in (f"Q: {ITEM}?", "hello")
    ]
    write_jsonl(tmp_path / "train.jsonl", pairs)
    items = [{"id": "tom", "prompt": ITEM}, {"id": "other", "prompt": OTHER}]
    write_jsonl(tmp_path / "items.jsonl", items)
    return [
        *("contamination", str(tmp_path / "train.jsonl")),
        *("--items", f"exam={tmp_path / 'items.jsonl'}", "--out", str(tmp_path / "out.csv")),
    ]


def test_the_command_counts_and_names_examples_without_their_text(files, tmp_path, capsys):
    assert main(files) == 0
    with (tmp_path / "out.csv").open(newline="") as stream:
        [row] = csv.DictReader(stream)
    assert row == {
        **{"items": "exam", "n": "2", "short": "0", "exact": "0", "near": "1", "matched": "1"},
        **{"share": "0.5", "examples": "tom@1"},
    }
    output = capsys.readouterr().out
    assert "exam: 1 of 2 items (50.00%) stand in" in output
    assert "warning: " in output
    assert "apples" not in output


def test_above_the_threshold_the_command_can_refuse(files, tmp_path, capsys):
    assert main([*files, "--action", "refuse"]) == 1
    assert "train.jsonl: holds more than 2.00% of exam" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
    assert main([*files, "--action", "refuse", "--threshold", "0.5"]) == 0
    assert (tmp_path / "out.csv").exists()


def test_bad_options_are_refused(files, capsys):
    for option, value, expected in (
        ("--ngram", "0", "--ngram: expected a whole number of at least 1"),
        ("--enough", "1", "--enough: expected a number from 0 to below 1, found 1.0"),
        ("--items", "exam", "--items: expected NAME=FILE, found 'exam'"),
    ):
        assert main([*files, option, value]) == 1
        assert expected in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected different names, found 2 items"):
        find_overlaps([], [("a", "x"), ("a", "y")])
