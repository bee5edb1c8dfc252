"""Written tables: the same cells in three formats, escaped, complete or absent."""

import csv
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from rlsubnet.report.export import latex, markdown, write_table
from rlsubnet.report.results import NOT_RUN
from rlsubnet.report.tables import make_frame
from rlsubnet.report.write import make_item, write_item
from tests.report.small_results import TABLES


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = [
        {"part": "measured", "tuned": "dpo_sub|100%", "numel": 8030261248, "p_value": 0.21875},
        {"part": "measured", "tuned": "dpo"},
        {"part": NOT_RUN, "paper_model": "Tulu & co", "paper_sparsity_percent": 81.4},
    ]
    names = ["part", "tuned", "numel", "p_value", "paper_model", "paper_sparsity_percent"]
    return make_frame(rows, names)


def test_csv_keeps_counts_whole_and_leaves_missing_cells_empty(frame, tmp_path: Path):
    path, *_ = write_table(frame, tmp_path / "tables" / "t", "T")
    with path.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert rows[0]["numel"] == "8030261248"
    assert rows[0]["p_value"] == "0.21875"
    assert rows[1] == dict.fromkeys(frame.columns, "") | {"part": "measured", "tuned": "dpo"}
    # Print may show less, and a failed write leaves no file.
    csv_file, md, tex = write_table(frame, tmp_path / "t", "T", printed=frame.iloc[:1])
    assert len(pd.read_csv(csv_file)) == 3
    for path in (md, tex):
        assert "8,030,261,248" in path.read_text() and "Tulu" not in path.read_text()
    with pytest.raises(ValueError, match="no heading declared for column 'no_such_column'"):
        write_table(pd.DataFrame({"no_such_column": [1]}), tmp_path / "bad" / "t", "T")
    assert not (tmp_path / "bad").exists()


def test_print_leaves_out_empty_columns_and_escapes_bars(frame):
    text = markdown(frame, "T")
    measured, paper = text.split(f"**{NOT_RUN}**")
    assert "| Tuned | Parameters | p |" in measured
    assert "Paper" not in measured
    assert "| Paper: model | Paper: sparsity (%) |" in paper
    assert r"| dpo_sub\|100% | 8,030,261,248 | 0.219 |" in markdown(frame, "T")


@pytest.mark.parametrize(
    ("name", "values", "cells"),
    [
        # A small p is a bound and never zero, a small negative number no minus zero.
        ("p_value", [1e-85, 0.0009, 0.001, 1.0], ["< 0.001", "< 0.001", "0.001", "1.000"]),
        ("delta_points", [-0.004], ["0.00"]),
        ("gain_points", [-0.06], ["-0.1"]),
        # As the paper writes tolerances.
        ("lr_sum", [3.01e-4, 1.2009, 0.0], ["3e-4", "1.2e0", "0"]),
        # One changed weight of 310,000 does not round away.
        ("same_1e-4_percent", [100 * (1 - 1 / 310_000)], ["99.9997"]),
    ],
)
def test_numbers_in_print(name, values, cells):
    text = markdown(make_frame([{name: value} for value in values], [name]), "T")
    assert [line.strip("| ") for line in text.splitlines()[-len(cells) :]] == cells


def test_latex_escapes_numbers_a_table_and_keeps_an_empty_one(frame):
    text = latex(frame, "100 % of T_1", ["a & b"], label="t")
    assert r"\caption{100 \% of T\_1: measured}\label{tab:t}" in text
    assert r"dpo\_sub\textbar{}100\% & 8,030,261,248 & 0.219 \\" in text
    assert r"Tulu \& co & 81.4 \\" in text
    assert r"a \& b" in text
    small = latex(make_frame([{"p_value": 1e-85}], ["p_value"]), "T")
    assert r"\textless{} 0.001 \\" in small
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    text = latex(frame, "Table 6: update sparsity")
    assert r"\caption{Update sparsity (Table 6 of arXiv 2505.11711): measured}" in text
    text = latex(make_frame([], ["part", "label"]), "Gains", ["a note"], label="t")
    assert r"\caption{Gains}\label{tab:t}" in text and "a note" in text
    assert "tabular" not in text and text.endswith("\\end{table}\n")


def test_a_wide_part_lies_on_its_side_under_the_same_number():
    wide = {"label": "length-normalized, subnetwork only", "test": "paired, clustered by item"}
    texts = ("algorithm", "init", "tuned", "task", "decoding", "verdict")
    wide |= dict.fromkeys(texts, "neither the one nor the other")
    rows = [{"part": "measured", **wide}, {"part": NOT_RUN, "label": "short"}]
    text = latex(make_frame(rows, ["part", *wide]), "Table 3: accuracy", ["a note"], label="t")
    first, second = text.split(r"\end{sidewaystable}")
    assert r"\begin{sidewaystable}" in first and r"\label{tab:t}" in first
    assert r"\shortstack[l]{length-normalized,\\subnetwork only}" in first
    assert r"\begin{table}" in second and r"\ContinuedFloat" in second
    assert "a note" in second and "a note" not in first


@pytest.mark.parametrize("item", TABLES)
def test_every_table_exports_in_all_formats(item, scale, results, published):
    if item == "table3":
        scale.pairs.pop("dpo_vs_sub")  # its answers are made in test_accuracy
    paths = write_item(item, scale, results, published)
    assert [path.name for path in paths] == [f"{item}.csv", f"{item}.md", f"{item}.tex"]
    assert len(pd.read_csv(paths[0])) == len(make_item(item, scale, results, published))
    for line in paths[2].read_text().splitlines():
        if line.startswith(r"\begin{tabular}{"):
            columns = len(line.removeprefix(r"\begin{tabular}{").removesuffix("}"))
        elif line.endswith(r" \\"):
            assert line.replace(r"\&", "").count("&") == columns - 1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_compiles_and_every_part_fits_a_page(scale, results, published, tmp_path: Path):
    scale.pairs.pop("dpo_vs_sub")
    packages = "adjustbox,booktabs,caption,rotating"
    lines = [r"\documentclass{article}", rf"\usepackage{{{packages}}}", r"\begin{document}"]
    for item in TABLES:
        path = write_item(item, scale, results, published)[-1]
        shutil.copy(path, tmp_path)
        lines += [rf"\input{{{item}}}", r"\clearpage"]
    (tmp_path / "all.tex").write_text("\n".join([*lines, r"\end{document}"]))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    if missing := re.search(r"File `(.+\.sty)' not found", done.stdout):
        pytest.skip(f"LaTeX lacks {missing[1]}")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "too large" not in done.stdout
