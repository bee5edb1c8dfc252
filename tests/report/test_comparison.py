"""`rlsubnet compare`: the committed reference beside copies of it in which single cells differ."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from rlsubnet.cli import main
from rlsubnet.report import comparison
from rlsubnet.report.comparison import HEADLINES, NUMBERS, WORDS, compare, counted, headline_numbers
from tests import test_readme


@pytest.fixture
def reference(repository: Path) -> Path:
    return repository / test_readme.REFERENCE


@pytest.fixture
def yours(reference: Path, tmp_path: Path) -> Path:
    """Return a results folder that is the reference, to be changed."""
    (tmp_path / "tables").mkdir()
    for path in reference.glob("tables/*.csv"):
        shutil.copy(path, tmp_path / "tables")
    shutil.copy(reference / "machines.csv", tmp_path)
    return tmp_path


def edit(path: Path, rows: str, **cells: str) -> None:
    """Set cells of the rows of a table that a query of pandas names."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.loc[frame.query(rows).index, list(cells)] = list(cells.values())
    frame.to_csv(path, index=False)


# The mean sampled gain of DPO
DPO = "label.str.startswith('DPO, mean of') and decoding.str.startswith('sampled')"


def test_a_copy_has_the_same_words_and_digits_and_another_word_is_named(yours, reference, capsys):
    frame = compare(yours, reference)
    assert set(frame["comparison"]) == {comparison.SAME}
    assert counted(frame, WORDS) == {comparison.SAME: 88}
    assert sum(counted(frame, NUMBERS).values()) > 250
    # Another word is named, and results of before machines were recorded can be compared.
    (yours / "machines.csv").unlink()
    edit(yours / "tables" / "verdicts.csv", "id == 'takeaway1/sparse'", verdict="differs")
    assert main(["compare", str(yours), str(reference)]) == 0
    printed = capsys.readouterr().out
    assert "87 of 88 verdicts have the reference's word" in printed
    assert "takeaway1/sparse: differs, reference agrees" in printed
    assert "yours      not recorded" in printed


@pytest.mark.parametrize(("gain", "word"), [("0.001", "outside"), ("middle", "inside")])
def test_a_gain_is_inside_or_outside_the_interval_of_the_reference(gain, word, yours, reference):
    [headline] = [h for h in HEADLINES if h.column == "gain_points"]
    found = headline_numbers(comparison.read_table(reference, "gains"), headline)
    [name] = [name for name in found if re.match("DPO, mean of.*sampled", name)]
    interval = found[name][1]
    if gain == "middle":
        gain = f"{sum(map(float, interval.split(' to '))) / 2 + 0.01:.6g}"
    edit(yours / "tables" / "gains.csv", DPO, gain_points=gain)
    frame = compare(yours, reference)
    [row] = frame[frame["comparison"] != comparison.SAME].to_dict("records")
    assert (row["yours"], row["comparison"]) == (gain, word)
    assert row["reference_interval"] == interval


def test_a_number_without_an_interval_is_neither_inside_nor_outside(yours, reference):
    edit(yours / "tables" / "table2.csv", "update_rank_percent != ''", update_rank_percent="3")
    frame = compare(yours, reference)
    other = frame[frame["comparison"] != comparison.SAME]
    assert set(other["comparison"]) == {comparison.NO_INTERVAL}
    assert set(other["where"]) == {"table2, update_rank_percent"}


def test_a_row_of_one_folder_alone_is_said(yours, reference):
    edit(yours / "tables" / "table1.csv", "index == 0", label="Mine")
    words = counted(compare(yours, reference), NUMBERS)
    assert words[comparison.HERE_ONLY] == words[comparison.REFERENCE_ONLY] == 1


def test_a_missing_table_is_an_error_that_says_what_makes_it(yours, reference, capsys):
    (yours / "tables" / "table4.csv").unlink()
    assert main(["compare", str(yours), str(reference)]) == 1
    assert "tables/table4.csv: no such file; table4 is made by: snakemake table4" in (
        capsys.readouterr().err
    )
    assert not (yours / "tables" / "comparison.csv").exists()


def test_all_is_written_as_csv_markdown_latex_and_a_page(yours, reference):
    edit(yours / "tables" / "gains.csv", DPO, gain_points="-7.5")
    assert main(["compare", str(yours), str(reference)]) == 0
    page, text = ((yours / "tables" / f"comparison.{x}").read_text() for x in ("html", "md"))
    assert (yours / "tables" / "comparison.tex").is_file()
    for written in (page, text):
        assert "0 lie inside and 1 outside" in written
        assert "-7.5" in written and "one start" in written
    # What differs stands first in its part.
    part = page.split(f"<h2>{NUMBERS}</h2>")[1]
    assert "-7.5" in part.split("</tr>")[1]


@pytest.mark.parametrize("row", test_readme.DEMO)
def test_a_number_of_the_readme_is_compared(row, reference):
    compared = {(h.table, h.column): h for h in HEADLINES}
    for table, column, where, _ in test_readme.DEMO[row]:
        frame = comparison.read_table(reference, table)
        for name, value in where.items():
            frame = frame[frame[name] == value]
        assert len(headline_numbers(frame, compared[table, column])) == 1
