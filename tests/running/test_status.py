"""``rlsubnet status`` says what is there, what is not, and why."""

import itertools
import json
import os
import time

import pytest

from rlsubnet.cli import main
from tests.workflow.projects import Project

pytestmark = pytest.mark.slow


def status(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["status", *arguments]) == 0
    return capsys.readouterr().out


def states(output: str) -> dict[str, str]:
    """Return the state of each item."""
    table = itertools.takewhile(lambda line: "tables and figures" not in line, output.splitlines())
    return {line.split()[0]: line.split()[1] for line in list(table)[1:]}


def test_after_a_whole_run_everything_is_done_that_is_there(
    changed: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    output = status(capsys)
    assert set(states(output).values()) == {"done"}
    assert {"table1", "fig7", "section4", "gains", "verdicts"} <= set(states(output))
    assert "46 of 46 jobs done, ended" in output
    # What is missing, or older than what it reads, is said.
    (changed.root / "results/micro/figures/fig5.pdf").unlink()
    (changed.root / "results/micro/ranks/dpo.csv").unlink()
    os.utime(changed.root / "results/micro/overlap/seed.csv", (time.time() + 9, time.time() + 9))
    found = states(status(capsys))
    assert (found["fig5"], found["table2"], found["table4"]) == ("missing", "missing", "outdated")
    assert (found["table1"], found["fig3"]) == ("done", "done")
    table = next(line for line in status(capsys).splitlines() if line.startswith("table2"))
    assert table.split()[2] == "0/1"


def test_a_failed_job_is_named_with_its_last_words_and_the_items_that_wait_for_it(
    changed: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    changed.sheets.set_cell("runs.tsv", "dpo", "set", "batch_size=1000")
    assert changed.snakemake("--keep-going").returncode == 1
    output = status(capsys)
    found = states(output)
    assert (found["table2"], found["fig3"]) == ("failed", "failed")
    # Trained with the mask of the failed run; table6 reads both.
    assert (found["table3"], found["table6"]) == ("failed", "failed")
    assert (found["fig5"], found["fig6"]) == ("done", "done")
    assert "  train dpo: failed\n" in output
    assert "pairs.jsonl: 20 examples, expected a batch of 1000" in output
    assert "log: logs/micro/train/dpo.log" in output

    report = json.loads(status(capsys, "--json"))
    [job] = report["run"]["jobs"]
    assert (job["rule"], job["wildcards"], job["state"]) == ("train", "dpo", "failed")
    assert "expected a batch of 1000" in job["last_lines"][-1]
    waiting = {item["item"] for item in report["items"] if item["waits_for"] == ["train dpo"]}
    assert {"table2", "table3", "verdicts"} <= waiting


def test_where_nothing_ran_results_in_the_clone_count(
    finished: Project,
    tmp_path,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clone = finished.copy_to(tmp_path, "results")
    monkeypatch.chdir(clone.root)
    output = status(capsys, "--config", "config/micro/config.yaml")
    assert set(states(output).values()) == {"done"}
    assert "no run in this folder" in output
