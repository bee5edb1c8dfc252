"""The Makefile: what a newcomer meets first."""

import subprocess
from pathlib import Path

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
