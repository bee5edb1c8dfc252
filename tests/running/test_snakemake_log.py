"""What Snakemake 9.27 and its Slurm plugin 2.8 write, line by line as they do."""

from pathlib import Path

from rlsubnet.running.snakemake_log import DONE, FAILED, RUNNING, WAITING, Run, parse_run

GROUPS = """\
  Host: login1
  Command: /venv/bin/snakemake --profile slurm --configfile config/micro/config.yaml
SLURM run ID: 7f0e
[Sat Nov 21 08:05:48 2026] Group job measure (jobs in lexicogr. order):

    [Sat Nov 21 08:05:48 2026]
    rule rank:
        input: work/runs/sft/final
        output: ranks/dpo.csv
        log: logs/rank/dpo.log
        jobid: 14
        wildcards: pair=dpo

    rule updates:
        output: updates/dpo.csv
        jobid: 11
        wildcards: pair=dpo

[Sat Nov 21 08:05:48 2026] Group job measure (jobs in lexicogr. order):

    rule updates:
        output: updates/base_sft.csv
        jobid: 10
        wildcards: pair=base_sft

Job 9f2d has been submitted with SLURM jobid 15 (log: /p/group_measure_rank_updates/15.log).
Job 654a has been submitted with SLURM jobid 16 (log: /p/group_measure_updates/16.log).
"""
TRAIN = """\
[Sat Nov 21 08:05:48 2026]
rule train:
    output: runs/dpo/final, metrics/dpo.csv
    log: logs/train/dpo.log
    jobid: 5
    wildcards: run=dpo
Job 5 has been submitted with SLURM jobid 21 (log: /p/rule_train/dpo/21.log).
"""
FAILURE = """\
[Sat Nov 21 08:06:48 2026]
Error in rule train:
    message: SLURM-job '21' failed, SLURM status is: 'FAILED'.
    jobid: 5
    output: runs/dpo/final, metrics/dpo.csv
    log: logs/train/dpo.log (check log file(s) for error details)
"""


def read(*parts: str) -> Run:
    return parse_run(Path("log"), "".join(parts).splitlines(keepends=True))


def test_members_of_a_group_have_its_slurm_job_and_not_that_of_a_group_like_it() -> None:
    jobs = read(GROUPS).jobs
    assert {number: job.slurm for number, job in jobs.items()} == {
        "14": "15",
        "11": "15",
        "10": "16",
    }
    assert jobs["14"].log == "logs/rank/dpo.log"
    assert jobs["10"].slurm_log == "/p/group_measure_updates/16.log"


def test_a_group_that_is_started_again_counts_for_each_member() -> None:
    jobs = read(GROUPS, "Trying to restart job 9f2d.\n").jobs
    assert [(job.state, job.attempt) for job in jobs.values()] == [
        *((WAITING, 2), (WAITING, 2), (RUNNING, 1))
    ]


GROUP_FAILURE = """\
[Sat Nov 21 08:06:48 2026]
    message: Error in group measure
    log: /p/group_measure_rank_updates/15.log (check log file(s) for error details)
    jobs:
        rule rank:
            jobid: 14
            output: ranks/dpo.csv
            log: logs/rank/dpo.log (check log file(s) for error details)
        rule updates:
            jobid: 11
            output: updates/dpo.csv
[Sat Nov 21 08:06:48 2026]
    Error in rule rank:
        jobid: 14
"""


def test_a_group_that_fails_is_all_of_its_jobs_and_their_slurm_job_stays_known() -> None:
    jobs = read(GROUPS, GROUP_FAILURE).jobs
    assert [(job.name, job.state, job.slurm) for job in jobs.values()] == [
        *(("dpo", FAILED, "15"), ("dpo", FAILED, "15"), ("base_sft", RUNNING, "16"))
    ]


def test_a_job_fails_is_started_again_and_ends_well() -> None:
    states = []
    parts: list[str] = []
    for part in (
        *(TRAIN, FAILURE, "Trying to restart job 5.\n", TRAIN.replace("21", "22")),
        "Finished jobid: 5 (Rule: train)\n",
    ):
        parts.append(part)
        job = read(*parts).jobs["5"]
        states.append((job.state, job.attempt, job.slurm))
    assert states == [
        *((RUNNING, 1, "21"), (FAILED, 1, "21"), (WAITING, 2, "21")),
        *((RUNNING, 2, "22"), (DONE, 2, "22")),
    ]
    assert (job.name, job.outputs) == ("dpo", ("runs/dpo/final", "metrics/dpo.csv"))


ECHO = """\
Logfile logs/train/dpo.log:
==================================================
rlsubnet train: error: no
==================================================
Logfile /p/rule_train/dpo/21.log:
==================================================
SNAKEMAKE
=========
  Command: /venv/bin/snakemake --target-jobs train:run=dpo
rule train:
    output: runs/dpo/final, metrics/dpo.csv
    jobid: 0
Logfile logs/train/dpo.log:
==================================================
rlsubnet train: error: no
==================================================
Error in rule train:
    jobid: 0
Complete log(s): /p/.snakemake/log/inner.log
==================================================
"""
FIRST = """\
rule train:
    output: runs/sft/final
    jobid: 0
    wildcards: run=sft
"""


def test_what_a_failed_job_said_is_not_taken_for_what_this_snakemake_says() -> None:
    run = read(GROUPS, FIRST, TRAIN, FAILURE, ECHO, "Trying to restart job 5.\n")
    assert (run.jobs["0"].state, run.jobs["0"].name) == (RUNNING, "sft")
    assert (run.jobs["5"].state, run.ended) == (WAITING, False)
    assert run.arguments[:2] == ["--profile", "slurm"]


def test_a_killed_run_has_not_ended() -> None:
    assert not read(TRAIN).ended
    assert read(TRAIN, "Complete log(s): /p/.snakemake/log/x.log\n").ended
