"""Every fault that a cluster has ready, in one run; then another run, killed and resumed.

All trainings are of one row but for their names, so that one undisturbed run has the bits that
each must have in the end.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from rlsubnet.running.runs import DONE, FAILED, Run, runs_here
from tests.slurm.cluster import NODES, Cluster
from tests.slurm.faults import Drill, Fault, SmallDisk, job_of
from tests.slurm.projects import ClusterProject, wait_for
from tests.workflow.projects import Project

pytestmark = pytest.mark.slow

SITE = "{status_seconds: 4, latency_wait: 20, retries: 1}"
LONG = "steps=600 save_every=20"
RECOVERING = ("killed", "cancelled", "requeued", "late", "lost")
STOPPING = ("torn", "full")
ORPHAN, CALM = "orphan", "calm"
SCORES = f"results/micro/scores/{CALM}.csv"
# MB for an evaluation, which takes more, but not twice as much.
TOO_LITTLE = 320


def final(run: str) -> str:
    return f"work/micro/runs/{run}/final"


@dataclass
class Outcome:
    """What happened.

    Attributes:
        drill: the project with all faults.
        undisturbed: weights and metrics of a run on this machine without a fault, and its scores.
        first: log of the run in which most faults happened, and how it ended.
        seen: what was seen on the way, by name.
        has_small_disk: whether a disk could be filled.
    """

    drill: Drill
    undisturbed: tuple[bytes, str]
    scores: bytes
    has_small_disk: bool = False
    first: Run | None = None
    status: int = 0
    seen: dict[str, str] = field(default_factory=dict)


def make_project(finished: Project, root: Path) -> tuple[Project, bytes]:
    project = finished.copy_to(root, "work", "results", "logs", ".snakemake")
    for run in (CALM, *RECOVERING, *STOPPING, ORPHAN):
        project.sheets.add_row("runs.tsv", run, "dpo", "sft", "pairs", "rl", "42", "", LONG)
    done = project.snakemake(final(CALM), SCORES)
    assert done.returncode == 0, done.stdout + done.stderr
    scores = (root / SCORES).read_bytes()
    (root / SCORES).unlink()
    little = f"resources: {{evaluate: {{mem_mb: {TOO_LITTLE}}}}}\n"
    project.sheets.edit("config.yaml", lambda text: text + little)
    return project, scores


def disturb(outcome: Outcome, small: SmallDisk) -> None:
    drill = outcome.drill
    lost: list[psutil.Process] = []
    faults: dict[str, Fault] = {
        "killed": drill.kill,
        "cancelled": drill.cancel,
        "requeued": drill.requeue,
        "late": drill.run_out_of_time,
        "torn": drill.tear("torn"),
        "lost": lost.append,
    }
    if outcome.has_small_disk:
        faults["full"] = small.fill
    others = [("evaluate", CALM), *(("train", run) for run in RECOVERING if run != "lost")]
    running = drill.on.snakemake(*map(final, faults), SCORES)
    try:
        drill.inject(faults, running)
        # Not before the others have recovered, or they might be lost with the node as well.
        wait_for(lambda: all(map(drill.has_ended, others)), "the others to end well", running)
        drill.lose_node(lost[0])
        outcome.status = running.wait()
        outcome.first = runs_here(drill.on.root)[-1]
        outcome.seen["first"] = running.said
        report = drill.on.start("rlsubnet.cli", "status")
        assert report.wait() == 0, report.said
        outcome.seen["status"] = report.said
    finally:
        running.end()
        for node in NODES:
            if drill.on.cluster.node_states()[node] == "DOWN":
                drill.on.cluster.return_node(node)


def kill_and_resume(outcome: Outcome, small: SmallDisk) -> None:
    drill = outcome.drill
    shutil.rmtree(drill.folder("torn") / "resume")
    targets = ["torn", ORPHAN]
    if outcome.has_small_disk:
        small.make_room()
        targets.append("full")
    running = drill.on.snakemake(*map(final, targets))
    try:
        # All are held, so that none ends before Snakemake does: what ends unseen is done again.
        held: list[psutil.Process] = []
        drill.inject(dict.fromkeys(targets, held.append), running)
        [process] = [process for process in held if process.cmdline()[3] == ORPHAN]
        outcome.seen["orphan"] = job_of(process)
        beside = [
            drill.on.snakemake(final(ORPHAN)),
            drill.on.start("rlsubnet.cli", "resume"),
        ]
        outcome.seen["second snakemake"], outcome.seen["second resume"] = (
            f"{under.wait()}\n{under.said}" for under in beside
        )
        outcome.seen["pid"] = str(running.process.pid)
    finally:
        running.end()  # kill -9
    outcome.seen["orphan's state"] = drill.fact(outcome.seen["orphan"], "JobState")
    [orphan] = [j for j in drill.status()["run"]["jobs"] if j["wildcards"] == ORPHAN]
    outcome.seen["orphan's status"] = f"{orphan['state']} {orphan['slurm_state']}"
    resumed = drill.on.start("rlsubnet.cli", "resume")
    outcome.seen["resumed"] = f"{resumed.wait()}\n{resumed.said}"


@pytest.fixture(scope="module")
def outcome(
    cluster: Cluster, finished: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcome]:
    project, scores = make_project(finished, tmp_path_factory.mktemp("faults"))
    drill = Drill(ClusterProject(project, cluster, SITE))
    outcome = Outcome(drill, drill.result(CALM), scores)
    small = SmallDisk(drill.folder("full"))
    try:
        outcome.has_small_disk = small.mount()
        disturb(outcome, small)
        kill_and_resume(outcome, small)
        yield outcome
    finally:
        small.unmount()


def check(outcome: Outcome, run: str) -> None:
    assert outcome.drill.resumed_after(run) >= 20
    assert outcome.drill.result(run) == outcome.undisturbed
    assert not (outcome.drill.folder(run) / "resume").exists()


def test_a_killed_training_goes_on_from_its_last_state(outcome: Outcome) -> None:
    assert outcome.drill.ends("train", "killed") == ["FAILED", "COMPLETED"]
    check(outcome, "killed")


def test_a_cancelled_job_is_submitted_again(outcome: Outcome) -> None:
    assert outcome.drill.ends("train", "cancelled") == ["CANCELLED", "COMPLETED"]
    check(outcome, "cancelled")


def test_a_requeued_job_is_not_submitted_again_and_goes_on(outcome: Outcome) -> None:
    [job] = outcome.drill.jobs("train", "requeued")
    assert outcome.drill.fact(job, "JobState") == "COMPLETED"
    assert outcome.drill.fact(job, "Restarts") == "1"
    check(outcome, "requeued")


def test_a_training_that_meets_its_time_limit_goes_on_in_another_job(outcome: Outcome) -> None:
    assert outcome.drill.ends("train", "late") == ["TIMEOUT", "COMPLETED"]
    check(outcome, "late")


def test_a_training_whose_node_is_lost_goes_on_on_another(outcome: Outcome) -> None:
    [job] = outcome.drill.jobs("train", "lost")
    assert outcome.drill.fact(job, "JobState") == "COMPLETED"
    assert int(outcome.drill.fact(job, "Restarts")) >= 1
    check(outcome, "lost")


def test_a_job_killed_for_its_memory_gets_more_and_ends_well(outcome: Outcome) -> None:
    jobs = outcome.drill.jobs("evaluate", CALM)
    log = outcome.drill.on.root / f"logs/slurm/rule_evaluate/{CALM}/{jobs[0]}.log"
    assert "exceeded memory limit" in log.read_text(encoding="utf-8")
    wanted = [outcome.drill.fact(job, "MinMemoryNode") for job in jobs]
    assert wanted == [f"{TOO_LITTLE}M", f"{2 * TOO_LITTLE}M"]
    assert outcome.drill.fact(jobs[-1], "JobState") == "COMPLETED"
    assert (outcome.drill.on.root / SCORES).read_bytes() == outcome.scores


def test_a_full_disk_is_an_error_that_names_the_file_and_loses_nothing(outcome: Outcome) -> None:
    if not outcome.has_small_disk:
        pytest.skip("to mount a disk that can be filled one must be root")
    assert outcome.status == 1
    words = "error: work/micro/runs/full/resume/state.pt: cannot be written, 0 bytes are free: "
    assert words in outcome.seen["first"]
    check(outcome, "full")


def test_a_torn_state_is_an_error_that_says_what_to_delete(outcome: Outcome) -> None:
    assert outcome.status == 1
    words = "state.pt: damaged, or not a saved state; delete work/micro/runs/torn/resume"
    assert words in outcome.seen["first"]
    # As it was told, it then started from the beginning.
    check(outcome, "torn")


def test_what_failed_for_good_stops_nothing_else_and_is_shown(outcome: Outcome) -> None:
    assert outcome.first is not None
    assert outcome.first.ended
    states = {job.name: job.state for job in outcome.first.jobs.values()}
    failed = {"torn", "full"} if outcome.has_small_disk else {"torn"}
    assert {name for name, state in states.items() if state == FAILED} == failed
    assert all(states[run] == DONE for run in (*RECOVERING, CALM))
    attempts = {job.name: job.attempt for job in outcome.first.jobs.values()}
    assert (attempts["torn"], attempts["killed"], attempts["lost"]) == (2, 2, 1)
    status = outcome.seen["status"]
    assert "  train torn: failed, attempt 2, Slurm job " in status
    assert "    | rlsubnet train: error: work/micro/runs/torn/resume/state.pt: damaged" in status


def test_a_second_snakemake_is_refused_and_harms_nothing(outcome: Outcome) -> None:
    said = outcome.seen["second snakemake"]
    assert said.startswith("1\n")
    assert "Directory cannot be locked" in said
    said, pid = outcome.seen["second resume"], outcome.seen["pid"]
    assert said.startswith("1\n")
    assert f"snakemake (process {pid}) is at work here" in said


def test_after_snakemake_was_killed_resume_cancels_its_jobs_and_ends_everything(
    outcome: Outcome,
) -> None:
    orphan = outcome.seen["orphan"]
    assert outcome.seen["orphan's state"] == "RUNNING"
    assert outcome.seen["orphan's status"] == "running RUNNING"
    said = outcome.seen["resumed"]
    assert f"cancelled Slurm job {orphan} (running)" in said
    assert "unlocked the folder" in said
    assert said.startswith("0\n"), said
    assert outcome.drill.fact(orphan, "JobState") == "CANCELLED"
    check(outcome, ORPHAN)


def test_nothing_half_written_is_left(outcome: Outcome) -> None:
    root = outcome.drill.on.root
    assert [*root.glob("work/**/.*.partial"), *root.glob("results/**/.*.partial")] == []
    assert not [*root.glob("work/micro/runs/*/resume")]
