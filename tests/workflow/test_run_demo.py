"""What `make demo` does around Snakemake."""

import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def run_demo(repository: Path, monkeypatch) -> ModuleType:
    # As Python does for a script: its own folder comes first.
    monkeypatch.syspath_prepend(repository / "workflow" / "scripts")
    return importlib.import_module("run_demo")


def test_the_report_is_due_when_a_result_is_newer(run_demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_demo, "RESULTS", tmp_path)
    monkeypatch.setattr(run_demo, "REPORT", tmp_path / "report.html")
    assert run_demo.report_is_due()
    (tmp_path / "report.html").write_text("")
    assert not run_demo.report_is_due()
    (tmp_path / "table1.csv").write_text("")
    later = (tmp_path / "report.html").stat().st_mtime + 5
    os.utime(tmp_path / "table1.csv", (later, later))
    assert run_demo.report_is_due()


def test_results_of_an_older_layout_are_set_aside_whole(run_demo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    old = run_demo.RESULTS / "updates" / "dpo.csv"
    old.parent.mkdir(parents=True)
    old.write_text("tensor\n")
    run_demo.set_aside()
    assert not run_demo.RESULTS.exists()
    [kept] = run_demo.RESULTS.parent.iterdir()
    assert (kept / "updates" / "dpo.csv").read_text() == "tensor\n"
    assert f"They are in {kept} now, complete." in capsys.readouterr().out


def test_results_whose_models_are_here_stay(run_demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (run_demo.RESULTS / "metrics" / "base.csv", run_demo.RUNS / "base" / "final" / "x"):
        path.parent.mkdir(parents=True)
        path.write_text("")
    run_demo.set_aside()
    assert (run_demo.RESULTS / "metrics" / "base.csv").exists()


def test_a_lock_that_nobody_holds_is_cleared_only_when_there_is_one(
    run_demo, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    called = []
    monkeypatch.setattr(run_demo, "unlock", called.append)
    run_demo.clear_stale_lock()
    assert called == []
    (tmp_path / ".snakemake/locks").mkdir(parents=True)
    (tmp_path / ".snakemake/locks/0.input.lock").write_text("")
    run_demo.clear_stale_lock()
    assert len(called) == 1
