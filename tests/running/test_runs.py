"""The runs of a folder: their events, and what is left of them; tests/slurm has a real cluster."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rlsubnet.cli import main
from rlsubnet.running.runs import (
    DONE,
    FAILED,
    RUNNING,
    WAITING,
    Run,
    kill_strays,
    read_run,
    runs_here,
    unknown_run,
)

Event = Mapping[str, Any]


def job(number: int, rule: str, pair: str, **more: object) -> Event:
    files = {"output": [f"{rule}/{pair}.csv"], "log": [f"logs/{rule}/{pair}.log"], "indent": False}
    names = {"jobid": number, "rule_name": rule, "wildcards": {"pair": pair}}
    return {"event": "job_info", **names, **files, **more}


def said(words: str) -> Event:
    return {"event": "message", "msg": words}


def submitted(number: object, slurm: int, folder: str) -> Event:
    log = f"/p/{folder}/{slurm}.log"
    return said(f"Job {number} has been submitted with SLURM jobid {slurm} (log: {log}).")


def read(*events: Event) -> Run:
    run = Run(Path("log"))
    for event in events:
        run.add(event)
    return run


def test_members_of_a_group_share_its_slurm_job_and_its_new_start_with_no_group_like_it() -> None:
    group = {"event": "group_info", "group_id": "measure"}
    jobs = read(
        *(group, job(14, "rank", "dpo", indent=True), job(11, "updates", "dpo", indent=True)),
        *(group, job(10, "updates", "base_sft", indent=True)),
        # Two groups of one name, told from each other by the folder of their logs.
        submitted("9f2d", 15, "group_measure_rank_updates"),
        submitted("654a", 16, "group_measure_updates"),
        said("Trying to restart job 9f2d."),
    ).jobs
    assert [(job.number, job.slurm, job.state, job.attempt) for job in jobs.values()] == [
        ("14", "15", WAITING, 2),
        ("11", "15", WAITING, 2),
        ("10", "16", RUNNING, 1),
    ]
    assert jobs["14"].log == "logs/rank/dpo.log"
    assert jobs["10"].slurm_log == "/p/group_measure_updates/16.log"


def test_a_job_fails_is_started_again_and_ends_well() -> None:
    events = [
        *(job(5, "train", "dpo"), submitted(5, 21, "rule_train/dpo")),
        *({"event": "job_error", "jobid": 5}, said("Trying to restart job 5.")),
        *(job(5, "train", "dpo"), submitted(5, 22, "rule_train/dpo")),
        {"event": "job_finished", "job_id": 5},
    ]
    found = [read(*events[:end]).jobs["5"] for end in (2, 3, 4, 6, 7)]
    assert [(job.state, job.attempt, job.slurm) for job in found] == [
        *((RUNNING, 1, "21"), (FAILED, 1, "21"), (WAITING, 2, "21")),
        *((RUNNING, 2, "22"), (DONE, 2, "22")),
    ]
    assert (found[0].name, found[0].outputs) == ("dpo", ("train/dpo.csv",))
    assert read(*events).submitted == {"21", "22"}


def test_the_last_line_of_a_killed_run_may_be_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps(job(7, "train", "dpo")) + "\n" + '{"eve')
    assert read_run(file).jobs["7"].title == "train dpo"


SNAKEFILE = """
rule all:
    input: "good.txt", "bad.txt"
rule make:
    output: "{x}.txt"
    log: "{x}.log"
    shell: "[ {wildcards.x} = good ] && touch {output} || {{ echo no such luck > {log}; exit 1; }}"
"""


@pytest.fixture
def folder(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a small workflow and the profile of all calls here."""
    (tmp_path / "profiles").symlink_to(repository / "profiles")
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snakemake(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--keep-going", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_plain_call_of_snakemake_leaves_what_status_and_resume_read(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert snakemake("--dry-run").returncode == 0
    assert runs_here() == []
    assert snakemake("--quiet", "all", "--config", "words=two words").returncode == 1
    [run] = runs_here()
    assert {job.name: (job.rule, job.state, job.log) for job in run.jobs.values()} == {
        "good": ("make", DONE, "good.log"),
        "bad": ("make", FAILED, "bad.log"),
    }
    assert run.ended
    assert run.file.is_file()
    assert run.arguments[-2:] == ["--config", "words=two words"]
    # A run without the logger is not taken for one without jobs.
    assert unknown_run() is None
    snakemake("--workflow-profile", "none", "--force", "good.txt")
    assert main(["resume"]) == 1
    assert f"{unknown_run()}: this run was started without" in capsys.readouterr().err


def test_who_follows_the_jobs_sees_each_start_and_end_and_every_error(folder: Path) -> None:
    follow = ("--logger", "rlsubnet", "--logger-rlsubnet-progress", "none.yaml")
    lines = snakemake(*follow).stdout.splitlines()
    assert "  0:00           make bad ..." in lines
    assert [line for line in lines if "make good: done in 0:00" in line]
    assert {"Error in rule make:", "no such luck"} <= set(lines)
    assert not [line for line in lines if "Select jobs" in line or "Execute" in line]
    (folder / "Snakefile").write_text(SNAKEFILE.replace("output:", "outptu:"))
    broken = snakemake(*follow)
    assert "outptu" in broken.stdout + broken.stderr


def test_only_what_slurm_left_of_this_folders_jobs_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    waiting = [sys.executable, "-c", "print(flush=True); input()"]
    with ExitStack() as stack:

        def start(program: str, job: str) -> "subprocess.Popen[bytes]":
            environment = {**os.environ, **({"SLURM_JOB_ID": job} if job else {})}
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            process = subprocess.Popen([*waiting, program], env=environment, **pipes)
            stack.callback(process.communicate)
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
            return process

        stray = start("bin/rlsubnet", "35")
        beside = [start("bin/rlsubnet", "36"), start("bin/rlsubnet", ""), start("bin/vim", "35")]
        kill_strays([Run(Path("log"), submitted={"35"}), Run(Path("other"))])
        assert stray.poll() is not None
        assert [process.poll() for process in beside] == [None, None, None]
    assert f"killed process {stray.pid}, which Slurm left of job 35" in capsys.readouterr().out
