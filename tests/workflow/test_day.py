"""The command for a quarter of an hour of one GPU runs in miniature on a CPU, by every rule."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from benchmarks.device import results
from rlsubnet.config import load_config, load_scale
from rlsubnet.config.layout import results_files
from rlsubnet.items import ITEMS
from tests.workflow.projects import Project, Sheets, keep_runs, rows_of

CONFIG = "config/gpu/short.yaml"
RUNS = ("base", "sft", "base_l", "sft_l", "dpo", "grpo", "prime", "prime_sub")


def prepare(project: Project, repository: Path) -> None:
    """Make of a project what a copy of the checkout is, without git, with some of the runs."""
    for folder in ("benchmarks", "workflow/rlsubnet"):
        ignored = shutil.ignore_patterns("__pycache__")
        target = project.root / folder  # of which the project has a part
        shutil.copytree(repository / folder, target, ignore=ignored, dirs_exist_ok=True)
    # The overlap of two runs that are here, instead of two seeds.
    sheets = Sheets(project.root, "gpu/short")
    sheets.set_cell("comparisons.tsv", "algorithm", "pair2", "prime")
    keep_runs(project.root, load_config([project.root / CONFIG]), RUNS)


def day(root: Path, out: Path, seconds: int, **settings: str) -> str:
    """Run the command in a copy and return what it printed."""
    environment = {**os.environ, "DAY_DEVICE": "cpu", "DAY_JOBS": "2", "OUT": str(out)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "benchmarks/device/day.sh", str(seconds)],
        cwd=root,
        env=environment | {"RLSUBNET_COMMIT": "4f04122"} | settings,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    return done.stdout + done.stderr


def check_bench(text: str) -> None:
    """Check that every figure is there, and none is said to be a GPU's."""
    for what in (
        "SFT step, miniature |",
        "DPO step, miniature |",
        "GRPO, learning, miniature |",
        "more time of a DPO step, miniature |",
        "rollouts, 8 responses of 8 tokens, miniature |",
        "counting changed weights beside a copy",
        "beside torch.linalg.matrix_rank",
        ", TRL ",
    ):
        assert what in text
    # No share of a peak, and no goal but that two ranks agree.
    assert "MFU" not in text
    goals = [line.split("|")[3].strip() for line in text.splitlines() if line.startswith("| ")]
    assert [goal for goal in goals if goal not in ("", "goal")] == ["at most 0 : met"]


@pytest.mark.slow
def test_the_whole_command_runs_on_a_cpu_and_its_results_are_unpacked(
    project: Project, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prepare(project, repository)
    root, out = project.root, tmp_path_factory.mktemp("out")
    # The chain is cut off, by SIGTERM or else by SIGKILL, and takes no other part along.
    printed = day(root, out, 1500, DAY_CHAIN="5", DAY_SCALE="900", DAY_CHECKS="900")
    print(printed)  # pytest shows it where something below fails
    assert re.findall(r"snakemake ended with (\d+)", printed) in (["124", "0"], ["137", "0"])
    assert len(list(out.iterdir())) <= 8
    assert sum(file.stat().st_size for file in out.iterdir()) < 8 << 20

    unpacked = root / "unpacked"
    arguments = ["unpack", str(out), "--results", str(unpacked), "--page", str(root / "page.md")]
    results.main(arguments)
    config = load_config([root / CONFIG, root / "benchmarks/device/miniature.yaml"])
    files = results_files(load_scale(config, root))
    assert {Path(file).parent.name for file in files} >= {
        *("updates", "ranks", "overlap", "trajectory", "metrics", "scores")
    }
    for file in files:
        assert (unpacked / Path(file).relative_to("results/short")).stat().st_size > 0
    for item in ITEMS:
        folder, kind = ("figures", "pdf") if item.startswith("fig") else ("tables", "csv")
        assert (unpacked / folder / f"{item}.{kind}").stat().st_size > 0

    frozen = rows_of(unpacked / "frozen/prime_sub.csv")
    assert sum(int(row["frozen"]) for row in frozen) > 0
    assert [row["tensor"] for row in frozen if int(row["frozen_changed"])] == []
    # Counted on the way every five of fifteen steps; the last count is that of the table.
    cells = [row["sparsity"] for row in rows_of(unpacked / "metrics/prime.csv")]
    assert [number for number, cell in enumerate(cells, start=1) if cell] == [5, 10, 15]
    (row,) = (r for r in rows_of(unpacked / "tables/table1.csv") if r["tuned"] == "prime")
    assert 100 * float(cells[-1]) == pytest.approx(float(row["sparsity_percent"]), abs=1e-3)
    assert {row["git_commit"] for row in rows_of(unpacked / "machines.csv")} == {"4f04122"}
    assert {"train/dpo", "evaluate/dpo"} <= {row["job"] for row in rows_of(unpacked / "times.csv")}

    for what in ("checks", "limits"):
        ends = [line for line in results.findings(out / f"{what}.jsonl") if "ok" in line]
        assert [line for line in ends if not line["ok"]] == []
    page = (root / "page.md").read_text(encoding="utf-8")
    assert "not figures of a GPU" in page
    check_bench((out / "bench.md").read_text(encoding="utf-8"))
    assert "whole_runs" in page
    assert "bfloat16 product" in page
    # The logs are there, those of the part that was cut off, too.
    logs = [*root.glob("logs/short/**/*.log"), *root.glob(".snakemake/log/*.snakemake.log")]
    with tarfile.open(out / results.ARCHIVE) as archive:
        assert {str(log.relative_to(root)) for log in logs} <= set(archive.getnames())


def test_logs_stay_behind_where_the_archive_would_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(results, "MOST", 10_000)
    (tmp_path / "results/short/tables").mkdir(parents=True)
    (tmp_path / "results/short/tables/table1.csv").write_text("a\n1\n", encoding="utf-8")
    (tmp_path / "logs/short").mkdir(parents=True)
    (tmp_path / "logs/short/train.log").write_bytes(os.urandom(20_000))
    out = tmp_path / "out"
    out.mkdir()
    results.pack(out)
    assert (out / results.ARCHIVE).stat().st_size < 10_000
    results.unpack([out], tmp_path / "kept", tmp_path / "page.md")
    assert (tmp_path / "kept/tables/table1.csv").read_text(encoding="utf-8") == "a\n1\n"
