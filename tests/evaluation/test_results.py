"""Scores and answers as files: rows, intervals, repeating bytes."""

from pathlib import Path

import pytest

from rlsubnet.columns import Answer, ScoreRow, names
from rlsubnet.evaluation.results import (
    clustered_interval,
    read_answers,
    score_rows,
    wilson_interval,
    write_answers,
)

ANSWERS = [
    Answer("arith_sampled", "2", "b", 4, 1),
    Answer("arith_sampled", "1", "a", 4, 4),
    Answer("arith_sampled", "2", "c", 4, 3),
    Answer("mc5_first_step", "", "x", 1, 1),
    Answer("mc5_first_step", "", "y", 1, 0),
]
DIGESTS = {"arith_sampled": "aa", "mc5_first_step": "bb"}


def test_scores_have_a_row_per_level_and_one_for_all() -> None:
    rows = score_rows(ANSWERS, DIGESTS)
    assert [(row["task"], row["level"], row["n"], row["correct"]) for row in rows] == [
        ("arith_sampled", "1", 4, 4),
        ("arith_sampled", "2", 8, 4),
        ("arith_sampled", "all", 12, 8),
        ("mc5_first_step", "all", 2, 1),
    ]
    assert [row["data_sha256"] for row in rows] == ["aa", "aa", "aa", "bb"]
    assert {row["backend"] for row in rows} == {"native"}
    assert all(tuple(row) == names(ScoreRow) for row in rows)


def test_sampled_tasks_have_clustered_intervals_and_others_wilson_s() -> None:
    rows = score_rows(ANSWERS, DIGESTS)
    assert [row["interval"] for row in rows] == ["clustered"] * 3 + ["wilson"]
    low, high = clustered_interval([1, 4, 3], 4)
    assert (float(rows[2]["ci_low"]), float(rows[2]["ci_high"])) == pytest.approx(
        (low, high), abs=1e-6
    )
    assert float(rows[3]["ci_high"]) == pytest.approx(wilson_interval(1, 2).high, abs=1e-6)


def test_unequal_numbers_of_samples_are_refused() -> None:
    answers = [Answer("a", "1", "x", 4, 1), Answer("a", "1", "y", 2, 1)]
    with pytest.raises(ValueError, match=r"task a: numbers of samples differ: \[2, 4\]"):
        score_rows(answers, {"a": ""})


def test_answers_come_back_and_the_same_answers_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one.csv.gz", tmp_path / "sub" / "two.csv.gz"
    write_answers(one, ANSWERS)
    write_answers(two, ANSWERS)
    assert read_answers(one) == ANSWERS
    assert one.read_bytes() == two.read_bytes()
    # Bytes 4 to 8 of a gzip header hold the time; flag 8 in byte 3 would announce a file name.
    assert one.read_bytes()[3:8] == bytes(5)


def test_a_file_with_other_columns_is_refused(tmp_path: Path) -> None:
    import gzip

    path = tmp_path / "a.csv.gz"
    with gzip.open(path, "wt") as stream:
        stream.write("task,item_id\n")
    with pytest.raises(ValueError, match="a.csv.gz: expected columns"):
        read_answers(path)
