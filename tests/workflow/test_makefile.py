"""The Makefile, what a newcomer meets first, and what `make demo` does around Snakemake."""

import importlib
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml


def make(repository: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=repository, capture_output=True, text=True
    )


def test_help_is_the_default_and_names_every_target(repository):
    output = make(repository).stdout
    targets = "setup demo reference test test-verl bench figures status resume lint report clean"
    for target in targets.split():
        assert f"make {target} " in output


def test_a_python_that_is_too_old_or_new_is_refused_with_its_version(repository, tmp_path):
    python = tmp_path / "python"
    # Says no to the version check and prints an old version, as python3.9 would.
    python.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    python.chmod(0o755)
    result = make(repository, "setup", f"VENV={tmp_path / 'venv'}", f"PYTHON={python}")
    assert result.returncode != 0
    assert "needs Python 3.11 to 3.13" in result.stderr
    assert "is Python 3.9.2" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_a_set_up_that_is_newer_than_what_it_installs_is_not_repeated(repository, tmp_path):
    for stamp in (".python", ".ready"):
        (tmp_path / stamp).touch()
    output = make(repository, "-n", "setup", f"VENV={tmp_path}").stdout
    assert "pip install" not in output


def test_a_push_runs_the_script_of_every_checkout_and_keeps_the_report(repository):
    workflow = yaml.safe_load((repository / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["ci"]["steps"]
    assert "bash .ci/run" in [step.get("run") for step in steps]
    [upload] = [step["with"]["path"] for step in steps if "upload" in step.get("uses", "")]
    assert "results/demo/report.html" in upload


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
    old, model = run_demo.RESULTS / "updates" / "dpo.csv", run_demo.RUNS / "base" / "final"
    old.parent.mkdir(parents=True)
    old.write_text("tensor\n")
    model.mkdir(parents=True)
    run_demo.set_aside()
    assert old.exists()  # their models are here
    model.rmdir()
    run_demo.set_aside()
    assert not run_demo.RESULTS.exists()
    [kept] = run_demo.RESULTS.parent.iterdir()
    assert (kept / "updates" / "dpo.csv").read_text() == "tensor\n"
    assert f"They are in {kept} now, complete." in capsys.readouterr().out


def test_a_lock_that_nobody_holds_is_cleared_only_when_there_is_one(
    run_demo, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run_demo.clear_stale_lock()
    assert capsys.readouterr().out == ""
    lock = tmp_path / ".snakemake/locks/0.input.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("")
    run_demo.clear_stale_lock()
    assert not lock.exists()
