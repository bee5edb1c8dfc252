"""README.md and docs/RESULTS.md say what the committed results and the programs say."""

import csv
import re
from pathlib import Path

import pytest
import yaml

from rlsubnet.cli import build_parser

# What users make lies elsewhere: another machine gives other digits.
REFERENCE = Path("results/reference/demo")
PAGES = ("README.md", "docs/RESULTS.md")
DEMO = yaml.safe_load(Path(__file__).with_name("demo_numbers.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results(repository: Path) -> str:
    return (repository / "docs" / "RESULTS.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=PAGES)
def page(request: pytest.FixtureRequest, repository: Path) -> Path:
    return repository / request.param


def rows(repository: Path, name: str) -> list[dict[str, str]]:
    with (repository / REFERENCE / name).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def cell(repository: Path, table: str, column: str, **row: str) -> float:
    """Return one cell of a table of the reference, found by the values of other columns."""
    found = [r for r in rows(repository, f"tables/{table}.csv") if row.items() <= r.items()]
    assert len(found) == 1, f"{table}: {row}: {len(found)} rows"
    return float(found[0][column])


@pytest.mark.parametrize("row", DEMO)
def test_a_number_of_the_table_is_a_cell_of_the_committed_results(row, results, repository):
    [line] = [line for line in results.splitlines() if line.startswith(f"| {row}")]
    printed = re.findall(r"-?[\d,]*\d(?:\.\d+)?", line.split("|")[3])
    expected = [
        f"{cell(repository, table, column, **where):,.{digits}f}"
        for table, column, where, digits in DEMO[row]
    ]
    assert printed == expected


def test_every_row_of_the_table_is_checked(results):
    table = results.split("| | paper | demo |")[1].split("\n\n")[0]
    lines = [line for line in table.splitlines()[2:] if line.startswith("|")]
    assert len(lines) == len(DEMO)


def test_verdicts_are_counted(results, repository):
    words = [row["verdict"] for row in rows(repository, "verdicts.csv")]
    counts = [words.count(w) for w in ("agrees", "differs", "not comparable", "not run")]
    agree, differ, neither, absent = counts
    assert f"claim by claim, {len(words)} rows." in results
    assert f"{agree} agree, {differ} differ, {neither} are not comparable" in results
    assert f"at this scale, {absent} are not run" in results
    assert results.split("**What differs**")[1].split("One more")[0].count("\n* ") == 6
    # Two of the seven are one sentence: DPO and SFT out of distribution.
    assert differ == 7


def test_the_readmes_findings_are_in_the_committed_results(readme, repository):
    of_rl = [
        row
        for row in rows(repository, "tables/table1.csv")
        if row["tuned"] and row["algorithm"] != "SFT" and "SGD" not in row["label"]
    ]
    sparse = [float(row["sparsity_percent"]) for row in of_rl]
    low, high = round(min(sparse)), round(max(sparse))
    stage = cell(repository, "table1", "sparsity_percent", tuned="sft")
    again = cell(repository, "table1", "sparsity_percent", tuned="sft_rl_lr")
    assert f"leave {low} to {high} % of the weights unchanged" in readme
    assert f"the SFT stage leaves {stage:.1f} %" in readme
    assert f"even sparser update ({again:.1f} %)" in readme


def test_the_readmes_output_is_the_demos(readme, repository):
    """Each number follows from the counts of the committed ``updates/dpo.csv``."""
    [output] = [block for block in readme.split("```") if "differ in their bits" in block]
    found = rows(repository, "updates/dpo.csv")
    tensors = {row["tensor"]: row for row in found}
    weights = sum(int(row["numel"]) for row in tensors.values())
    changed = sum(int(row["bitwise_changed"]) for row in tensors.values())
    assert f"{weights:,} weights in {len(tensors)} tensors; {changed:,}" in output
    assert f"({changed / weights:.2%}) differ" in output

    def sparsity(rule: str, atol: str, matrix: str = "") -> str:
        of = [r for r in found if (r["rule"], r["atol"]) == (rule, atol)]
        of = [r for r in of if matrix in ("", r["matrix"])]
        share = sum(int(r["unchanged"]) for r in of) / sum(int(r["numel"]) for r in of)
        return f"{100 * share:.2f}"

    for line in re.findall(r"^(\S+) +(\d+\.\d+) +(\d+\.\d+)$", output, re.MULTILINE):
        assert line[1:] == (sparsity("official", line[0]), sparsity("exact", line[0]))
    kinds = re.findall(r"^(\w+) +[\d,]+ +([\d.]+) +([\d.]+) +[\d.]+$", output, re.MULTILINE)
    assert kinds
    for kind, official, exact in kinds:
        assert (official, exact) == tuple(sparsity(r, "1e-05", kind) for r in ("official", "exact"))


def test_the_readme_is_read_in_four_minutes(readme):
    assert len(readme.split()) <= 900


def test_commands_and_targets_exist(page, repository):
    text = page.read_text(encoding="utf-8")
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z]+)\b", text)) - {"and"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
    known = build_parser().format_help()
    for command in set(re.findall(r"\brlsubnet ([a-z]+[0-9]?)\b", text)):
        assert re.search(rf"^  {command}\b", known, re.MULTILINE), f"rlsubnet {command}"


def test_paths_exist(page, repository):
    text = page.read_text(encoding="utf-8")
    paths = set(re.findall(r"`((?:config|notebooks|docs|profiles|workflow)/[\w./-]+)`", text))
    missing = [path for path in sorted(paths) if not (repository / path).exists()]
    assert missing == []


@pytest.mark.parametrize("folder", ["", "docs", "config", "envs", "results"])
def test_links_lead_somewhere(folder, repository):
    for page in (repository / folder).glob("*.md"):
        links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        missing = [link for link in links if not (page.parent / link).exists()]
        assert missing == [], page.name


def test_headings_that_pages_link_to_exist(repository):
    for page in [*repository.glob("*.md"), *repository.glob("docs/*.md")]:
        text = page.read_text(encoding="utf-8")
        for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", text):
            target = (page.parent / link if link else page).read_text(encoding="utf-8")
            headings = re.findall(r"^#+ (.*)$", target, re.MULTILINE)
            slugs = [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings]
            assert anchor in slugs, f"{page.name}: {link}#{anchor}"


def test_modules_that_pages_name_exist(repository):
    folders = ("workflow", "tests", "benchmarks", "envs")
    modules = {p.as_posix() for folder in folders for p in (repository / folder).rglob("*.py")}
    # Of another project.
    modules.add("/open_instruct/dpo_tune_cache.py")
    pages = [*repository.glob("*.md"), *repository.glob("*/README.md"), *repository.glob("docs/*")]
    # These two speak of their day.
    for page in pages:
        if page.name not in ("LOG.md", "CHANGELOG.md"):
            names = set(re.findall(r"[\w/]+\.py\b", page.read_text(encoding="utf-8")))
            missing = [name for name in names if not any(m.endswith(f"/{name}") for m in modules)]
            assert missing == [], page
