"""The README says what the committed results and the programs say."""

import csv
import re
from pathlib import Path

import pytest

from rlsubnet.cli import build_parser

# What users make lies elsewhere: another machine gives other digits.
REFERENCE = Path("results/reference/demo")


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


def cell(repository: Path, table: str, column: str, **row: str) -> float:
    """Return one cell of a table of the reference, found by the values of other columns."""
    path = repository / REFERENCE / "tables" / f"{table}.csv"
    with path.open(encoding="utf-8") as stream:
        found = [r for r in csv.DictReader(stream) if row.items() <= r.items()]
    assert len(found) == 1, f"{path}: {row}: {len(found)} rows"
    return float(found[0][column])


def pair(tuned: str, **row: str) -> dict[str, str]:
    return {"tuned": tuned, "init": "sft", **row}


FULL_AGAINST_SUB = {"compared": "full against sub", "tuned": "prime_sub"}
PRIME_SEEDS = {"label": "PRIME, two seeds"}
UNIFORM = {**PRIME_SEEDS, "null": "uniform (the paper's)"}
MATCHED = {**PRIME_SEEDS, "null": "same density in each tensor and bf16 exponent"}
SAMPLED = {"decoding": "sampled, 32 an item"}
MEAN = {**SAMPLED, "row": "mean of seeds"}
SUB = {"algorithm": "PRIME", "level": "Overall", **MEAN}
COURSE = {"label": "PRIME", "part": "(b) course of training"}
# Beginning of a row of the README's first table -> the numbers in its column `demo`, in order.
DEMO = {
    "update sparsity, SFT to DPO": [("table1", "sparsity_percent", pair("dpo"), 1)],
    "update sparsity, SFT to GRPO": [("table1", "sparsity_percent", pair("grpo"), 1)],
    "update sparsity, SFT to PRIME": [("table1", "sparsity_percent", pair("prime"), 1)],
    "update sparsity, base to SFT": [("table1", "sparsity_percent", {"tuned": "sft"}, 1)],
    "*control:* SFT again": [("table1", "sparsity_percent", pair("sft_rl_lr"), 1)],
    "mean rank of the update matrices": [("table2", "update_rank_percent", pair("dpo"), 1)],
    "*control:* the same changes": [("table2", "control_rank_percent", pair("dpo"), 1)],
    "weights that full and subnetwork": [("section4", "same_1e-5_percent", FULL_AGAINST_SUB, 2)],
    "*null:* weights that start": [("section4", "same_1e-5_percent", pair("prime"), 2)],
    "frozen weights that masked": [
        ("section4", "frozen_changed", FULL_AGAINST_SUB, 0),
        ("section4", "frozen_weights", FULL_AGAINST_SUB, 0),
    ],
    "accuracy, sub minus full": [("table3", "delta_points", SUB, 2)],
    "overlap o1 of two seeds": [("table4", "o1_percent", UNIFORM, 1)],
    "*null:* as many weights anywhere": [("table4", "o1_null_percent", UNIFORM, 1)],
    "*null:* as many in each tensor": [("table4", "o1_null_percent", MATCHED, 1)],
    "never updated, cancelled": [
        ("section6", "never_percent", COURSE, 1),
        ("section6", "cancelled_percent", COURSE, 1),
        ("section6", "subnetwork_percent", COURSE, 1),
    ],
    "gain in sampled accuracy over SFT, DPO": [
        ("gains", "gain_points", {"label": "DPO, mean of 3 seeds", **MEAN}, 1)
    ],
    "gain, GRPO": [("gains", "gain_points", {"label": "GRPO, mean of 3 seeds", **MEAN}, 1)],
    "gain, PRIME": [("gains", "gain_points", {"label": "PRIME, mean of 3 seeds", **MEAN}, 1)],
    "*other optimizer:*": [
        ("gains", "gain_points", pair("dpo_sgd", **SAMPLED), 1),
        ("gains", "sparsity_percent", pair("dpo_sgd", **SAMPLED), 1),
    ],
}


@pytest.mark.parametrize("row", DEMO)
def test_a_number_of_the_first_table_is_a_cell_of_the_committed_results(row, readme, repository):
    [line] = [line for line in readme.splitlines() if line.startswith(f"| {row}")]
    printed = re.findall(r"-?[\d,]*\d(?:\.\d+)?", line.split("|")[3])
    expected = [
        f"{cell(repository, table, column, **where):,.{digits}f}"
        for table, column, where, digits in DEMO[row]
    ]
    assert printed == expected


def test_every_row_of_the_first_table_is_checked(readme):
    table = readme.split("| | paper | demo |")[1].split("\n\n")[0]
    rows = [line for line in table.splitlines()[2:] if line.startswith("|")]
    assert len(rows) == len(DEMO)


def test_the_readme_counts_the_verdicts(readme, repository):
    with (repository / REFERENCE / "verdicts.csv").open(encoding="utf-8") as stream:
        words = [row["verdict"] for row in csv.DictReader(stream)]
    counts = [words.count(w) for w in ("agrees", "differs", "not comparable", "not run")]
    agree, differ, neither, absent = counts
    assert f"claim by claim, {len(words)} rows," in readme
    assert f"{agree} agree, {differ} differ, {neither} are not comparable" in readme
    assert f"at this scale, {absent} are not run" in readme


def test_commands_and_targets_in_the_readme_exist(readme, repository):
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z]+)\b", readme)) - {"and"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    known = build_parser().format_help()
    for command in set(re.findall(r"\brlsubnet ([a-z]+[0-9]?)\b", readme)):
        assert re.search(rf"^    {command}\b", known, re.MULTILINE), f"rlsubnet {command}"


def test_paths_in_the_readme_exist(readme, repository):
    paths = set(
        re.findall(r"(?:`|\()((?:config|notebooks|docs|profiles|workflow)/[\w./-]+)", readme)
    )
    assert paths
    missing = [path for path in sorted(paths) if not (repository / path).exists()]
    assert missing == []
