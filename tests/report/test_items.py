"""`rlsubnet table1` .. `fig7`: files where they belong, clear errors, no torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from docutils.core import publish_parts
from jinja2 import Template

from rlsubnet.cli import main
from rlsubnet.config import load_config, load_scale
from rlsubnet.config.layout import item_files
from rlsubnet.config.plan import item_costs
from rlsubnet.data import load_published
from rlsubnet.items import ITEMS, Item
from rlsubnet.report import export
from rlsubnet.report.results import check_paper_models

RUNS = "run\talgorithm\tinit\tdata\trecipe\tseed\tmask\tset\tlabel\n"
PAIRS = "pair\tinit\ttuned\tmethod\titems\tpaper_model\tcommon_rows\tlabel\n"
COMPARISONS = "comparison\tpair1\tpair2\taxis\titems\tsetting1\tsetting2\tlabel\n"


@pytest.fixture
def config(repository: Path, results, tmp_path: Path, monkeypatch) -> Path:
    """Return a config of the repository's demo whose sheets hold two downloaded models."""
    text = (repository / "config" / "demo" / "config.yaml").read_text()
    (tmp_path / "base.yaml").write_text(text)
    (tmp_path / "runs.tsv").write_text(RUNS)
    row = "dpo\tsft\tdpo\tDPO\ttable1,fig1\tLlama-3.1-Tulu-3-8B-DPO\t\tSFT to DPO\n"
    (tmp_path / "pairs.tsv").write_text(PAIRS + row)
    (tmp_path / "comparisons.tsv").write_text(COMPARISONS)
    models = {name: {"source": f"hf:owner/{name}", "revision": "main"} for name in ("sft", "dpo")}
    overlay = {
        "runs": "runs.tsv",
        "pairs": "pairs.tsv",
        "comparisons": "comparisons.tsv",
        "models": models,
        "data": {"preferences": {"policy": "sft"}, "prefacc": {"policy": "sft"}},
    }
    (tmp_path / "over.yaml").write_text(json.dumps(overlay))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(item: str, *more: str) -> int:
    return main([item, "--config", "base.yaml", "over.yaml", "--results", "results", *more])


def test_a_table_and_a_figure_are_written_and_listed(config: Path, capsys):
    assert call("table1") == 0
    assert call("fig1") == 0
    listed = capsys.readouterr().out.split()
    names = ["tables/table1.csv", "tables/table1.md", "tables/table1.tex"]
    names += ["figures/fig1.png", "figures/fig1.pdf"]
    assert listed == [f"results/{name}" for name in names]
    assert all((config / path).stat().st_size > 0 for path in listed)
    assert "| DPO | SFT to DPO | sft | dpo | 60.0 |" in (config / listed[1]).read_text()


def test_absent_files_and_models_are_one_line_on_stderr(config: Path, capsys):
    (config / "results" / "updates" / "dpo.csv").unlink()
    assert call("table1") == 1
    error = capsys.readouterr().err
    assert error.startswith("rlsubnet table1: error: results/updates/dpo.csv: no such file")
    assert error.count("\n") == 1
    assert not (config / "results" / "tables").exists()
    pairs = config / "pairs.tsv"
    pairs.write_text(pairs.read_text().replace("Tulu-3-8B", "Tulu-4-8B"))
    assert call("table1") == 1
    error = capsys.readouterr().err
    assert "pair dpo, column paper_model" in error
    assert "'Llama-3.1-Tulu-4-8B-DPO'" in error


def test_every_scale_names_models_that_the_paper_has(repository: Path):
    for config in repository.glob("config/*/config.yaml"):
        scale = load_scale(load_config([config]), repository)
        models = [(pair.pair, pair.paper_model) for pair in scale.pairs.values()]
        check_paper_models(models, load_published())


def test_published_numbers_without_a_table_are_refused(tmp_path: Path):
    path = tmp_path / "published.yaml"
    path.write_text("table1: {rows: []}\n")
    with pytest.raises(ValueError, match=r"published\.yaml: keys missing: .*'table2'"):
        load_published(path)


def test_reporting_loads_no_torch_and_nothing_that_trains():
    code = (
        "import sys, rlsubnet.commands.report, rlsubnet.report.write; "
        "from importlib import import_module as load; from rlsubnet.items import ITEMS; "
        "[load('rlsubnet.report.' + i.function.rpartition('.')[0]) for i in ITEMS.values()]; "
        "heavy = {'torch', 'transformers', 'tokenizers', 'matplotlib.pyplot', 'rlsubnet.tasks', "
        "'rlsubnet.backends', 'rlsubnet.training', 'rlsubnet.checkpoints'} & set(sys.modules); "
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_new_table_is_a_function_a_caption_and_an_entry(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    function = "tables.weights.table1"
    new = Item("table9", "a new table", "New", function, "Table 9: new", pair=("updates",))
    monkeypatch.setitem(ITEMS, "table9", new)
    captions = config / "captions"
    captions.mkdir()
    (captions / "shared_notes.txt").write_text("percent: All are per cent.\n")
    caption = "**Table 9: new.**\n\n..\n   Below:\n\n   * {percent}\n   * Two\n     lines.\n"
    (captions / "table9.rst").write_text(caption)
    monkeypatch.setattr(export, "_CAPTIONS", captions)
    sheet = config / "pairs.tsv"
    sheet.write_text(sheet.read_text().replace("table1,fig1", "table9"))
    scale = load_scale(load_config([config / "base.yaml", config / "over.yaml"]))
    assert item_files(scale, "table9") == item_files(scale, "verdicts")
    assert [Path(file).name for file in item_files(scale, "table9")] == ["dpo.csv"]
    assert "table9" in item_costs(scale)
    assert call("table9") == 0
    markdown = (config / "results" / "tables" / "table9.md").read_text()
    assert markdown.startswith("# Table 9: new\n")
    assert markdown.endswith("* All are per cent.\n* Two lines.\n")


@pytest.mark.parametrize("item", [*ITEMS, "comparison", "workflow"])
def test_caption_is_valid_and_says_how_to_read_it(item: str, repository: Path):
    text = (repository / "workflow/rlsubnet/report/captions" / f"{item}.rst").read_text()

    class Snakemake:
        config = {"scale": "demo", "results": "results/demo"}

    rendered = Template(text).render(snakemake=Snakemake)
    # Warnings would be printed into the report: make them errors.
    html = publish_parts(rendered, writer="html", settings_overrides={"halt_level": 2})["body"]
    assert "{{" not in html
    if item != "workflow":
        kind, number = item.rstrip("0123456789"), item[-1]
        words = {"table": f"Table {number}", "fig": f"Figure {number}"}
        words |= {"section": f"Section {number}", "gains": "Gains", "verdicts": "Verdicts"}
        words |= {"comparison": "Comparison"}
        assert f"<strong>{words[kind]}" in html
        assert "How to read it" in html
