"""A bad results file is refused by name; nothing of it is used."""

import re
from pathlib import Path

import pytest

from rlsubnet.columns import RESULTS_FILES, names, results_file
from rlsubnet.report.results import Results, read_results
from tests.report.small_results import DPO_UPDATES, RANKS, TRAJECTORY, answers_csv, write_results


def one_file(tmp_path: Path, kind: str, text: str) -> Results:
    return Results(write_results(tmp_path, {results_file(kind, "dpo"): text}))


def test_typed_columns_and_compressed_answers_are_read(tmp_path: Path):
    ranks = one_file(tmp_path, "ranks", RANKS).get("ranks", "dpo")
    assert ranks["layer"].tolist()[0] == 0
    assert ranks["layer"].isna().tolist() == [False, True]
    row = ("arith_greedy", "1", "p1", 1, 1)
    results = one_file(tmp_path, "answers", answers_csv([row]))
    answers = results.get("answers", "dpo")
    assert answers.values.tolist() == [list(row)]
    # A file is read once.
    (tmp_path / "answers" / "dpo.csv.gz").unlink()
    assert results.get("answers", "dpo") is answers


def test_a_missing_file_or_column_is_named(tmp_path: Path):
    path = tmp_path / "updates" / "dpo.csv"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(str(path))}: .*snakemake"):
        Results(tmp_path).updates("dpo")
    text = DPO_UPDATES.replace(",rule,", ",rules,")
    with pytest.raises(ValueError, match=r"updates/dpo\.csv: columns missing: \['rule'\]"):
        one_file(tmp_path, "updates", text).updates("dpo")


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("updates", DPO_UPDATES.replace(",4,6,0.001", ",9,6,0.001", 1), "unchanged = 9.* = 8"),
        ("updates", DPO_UPDATES.replace(",4,6,0.001", ",-1,6,0.001", 1), "unchanged = -1"),
        ("updates", DPO_UPDATES.replace(",4,6,0.001", ",,6,0.001", 1), "unchanged: .*empty"),
        ("updates", DPO_UPDATES.replace(",4,6,0.001", ",four,6,0.001", 1), "column unchanged"),
        ("updates", DPO_UPDATES.replace("official", "offical"), r"rule: \['offical'\]"),
        ("updates", DPO_UPDATES + DPO_UPDATES.splitlines()[1] + "\n", "a second row with tensor="),
        ("updates", DPO_UPDATES.splitlines()[0] + "\n", "no rows"),
        ("trajectory", TRAJECTORY.replace("0.7", "70"), r"step_sparsity: 70.0, expected a ratio"),
        ("ranks", RANKS.replace(",2,2,1.5", ",3,2,1.5"), "rank = 3.*max_rank = 2"),
        ("answers", answers_csv([("arith", "1", "p1", 4, 5)]), "correct = 5.*samples = 4"),
    ],
)
def test_impossible_values_are_refused(tmp_path: Path, kind: str, text: str, message: str):
    with pytest.raises(ValueError, match=rf"dpo\.csv.*{message}"):
        one_file(tmp_path, kind, text).get(kind, "dpo")


def test_every_file_of_the_committed_demo_is_valid(repository: Path):
    folder = repository / "results" / "reference" / "demo"
    files = [(path, kind) for kind in RESULTS_FILES for path in (folder / kind).glob("*.csv*")]
    assert len(files) > 100
    assert all(len(read_results(path, kind)) for path, kind in files)


def test_results_readme_explains_every_column(repository):
    text = (repository / "results" / "README.md").read_text(encoding="utf-8")
    for kind, columns in RESULTS_FILES.items():
        [row] = [line for line in text.splitlines() if line.startswith(f"| `{kind}/")]
        assert [name for name in names(columns) if f"`{name}`" not in row] == [], kind
