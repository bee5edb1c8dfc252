"""Every fault that a cluster has ready, in one run, which is killed in the end and resumed.

All trainings are of one row but for their names, so that an undisturbed one has the bits that each
must have in the end.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import pytest

from rlsubnet.running.runs import DONE, FAILED, RUNNING, Job, runs_here
from tests.slurm.cluster import NODES, Cluster
from tests.slurm.faults import Drill, Fault, SmallDisk, job_of, node_of
from tests.slurm.projects import wait_for
from tests.workflow.projects import Project

pytestmark = pytest.mark.slow

SITE = "{status_seconds: 4, latency_wait: 20, retries: 1}"
LONG = "steps=600 save_every=20"
CALM, LOST = "calm", "lost"
RECOVERING = ("killed", "cancelled", "requeued", "late")
STOPPING = ("torn", "full")
SCORES = "results/micro/scores/dpo.csv"
# MB for an evaluation, which takes more, but not twice as much.
TOO_LITTLE = 320


def final(run: str) -> str:
    return f"work/micro/runs/{run}/final"


@dataclass
class Outcome:
    """What happened to the project of a drill."""

    drill: Drill
    scores: bytes  # of an evaluation with memory enough
    jobs: dict[str, Job] = field(default_factory=dict)  # by name, as their Snakemake was killed
    seen: dict[str, str] = field(default_factory=dict)  # on the way
    has_small_disk: bool = False  # whether a disk could be filled


def jobs_of(project: Drill) -> dict[str, Job]:
    return {job.name: job for job in runs_here(project.root)[-1].jobs.values()}


def disturb_and_kill(outcome: Outcome, small: SmallDisk) -> None:
    drill, seen = outcome.drill, outcome.seen
    held: list[psutil.Process] = []
    faults: dict[str, Fault] = {
        "killed": psutil.Process.kill,
        "cancelled": drill.cancel,
        "requeued": drill.requeue,
        "late": drill.run_out_of_time,
        "torn": drill.tear,
        LOST: held.append,
    }
    if outcome.has_small_disk:
        faults["full"] = small.fill

    def only_the_lost_is_left() -> bool:
        others = [job for name, job in jobs_of(drill).items() if name != LOST]
        return all(job.state == DONE or (job.state, job.attempt) == (FAILED, 2) for job in others)

    running = drill.snakemake(*map(final, [CALM, *faults]), SCORES)
    try:
        drill.inject(faults, running)
        # Not before the others have ended, or they might be lost with the node as well.
        wait_for(only_the_lost_is_left, "the others to end", running)
        seen["lost on"] = node_of(held[0])
        drill.cluster.lose_node(seen["lost on"])
        wait_for(lambda: drill.resumed_after(LOST), "the lost one to go on", running)
        # Held, so that it does not end before Snakemake does: what ends unseen is done again.
        drill.inject({LOST: held.append}, running)
        outcome.jobs, seen["goes on on"] = jobs_of(drill), node_of(held[-1])
        beside = drill.snakemake(final(LOST)), drill.start("rlsubnet.cli", "resume")
        seen["second snakemake"], seen["second resume"] = (u.end_and_words() for u in beside)
        seen["pid"] = str(running.process.pid)
    finally:
        running.end()  # kill -9
        for node in NODES:
            if drill.cluster.node_states()[node] == "DOWN":
                drill.cluster.return_node(node)
    seen["orphan"] = job_of(held[-1])
    seen["orphan's state"] = drill.fact(seen["orphan"], "JobState")
    seen["status"] = drill.start("rlsubnet.cli", "status").end_and_words()


@pytest.fixture(scope="module")
def outcome(
    cluster: Cluster, finished: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outcome]:
    root = tmp_path_factory.mktemp("faults")
    project = finished.copy_to(root, "work", "results", "logs", ".snakemake")
    for run in (CALM, LOST, *RECOVERING, *STOPPING):
        project.sheets.add_row("runs.tsv", run, "dpo", "sft", "pairs", "rl", "42", "", LONG)
    little = f"resources: {{evaluate: {{mem_mb: {TOO_LITTLE}}}}}\n"
    project.sheets.edit("config.yaml", lambda text: text + little)
    outcome = Outcome(Drill(project, cluster, SITE), (root / SCORES).read_bytes())
    (root / SCORES).unlink()
    small = SmallDisk(outcome.drill.folder("full"))
    try:
        outcome.has_small_disk = small.mount()
        disturb_and_kill(outcome, small)
        shutil.rmtree(outcome.drill.folder("torn") / "resume")
        if outcome.has_small_disk:
            small.make_room()
        outcome.seen["resumed"] = outcome.drill.start("rlsubnet.cli", "resume").end_and_words()
        yield outcome
    finally:
        small.unmount()


def check(outcome: Outcome, run: str, from_the_start: bool = False) -> None:
    assert (outcome.drill.resumed_after(run) >= 20) is not from_the_start
    assert outcome.drill.result(run) == outcome.drill.result(CALM)
    assert not (outcome.drill.folder(run) / "resume").exists()


@pytest.mark.parametrize(
    ("run", "end"), [("killed", "FAILED"), ("cancelled", "CANCELLED"), ("late", "TIMEOUT")]
)
def test_a_training_goes_on_from_its_last_state_in_another_job(
    outcome: Outcome, run: str, end: str
) -> None:
    assert outcome.drill.ends("train", run) == [end, "COMPLETED"]
    check(outcome, run)


def test_a_requeued_job_is_not_submitted_again_and_goes_on(outcome: Outcome) -> None:
    [job] = outcome.drill.jobs("train", "requeued")
    assert outcome.drill.fact(job, "JobState") == "COMPLETED"
    assert outcome.drill.fact(job, "Restarts") == "1"
    check(outcome, "requeued")


def test_a_training_whose_node_is_lost_goes_on_on_another(outcome: Outcome) -> None:
    assert {outcome.seen["lost on"], outcome.seen["goes on on"]} == set(NODES)
    [job, _] = outcome.drill.jobs("train", LOST)  # the other one is that of the resumed run
    assert job == outcome.seen["orphan"]
    assert int(outcome.drill.fact(job, "Restarts")) >= 1
    assert (outcome.jobs[LOST].state, outcome.jobs[LOST].attempt) == (RUNNING, 1)


def test_a_job_killed_for_its_memory_gets_more_and_ends_well(outcome: Outcome) -> None:
    jobs = outcome.drill.jobs("evaluate", "dpo")
    log = outcome.drill.root / f"logs/slurm/rule_evaluate/dpo/{jobs[0]}.log"
    assert "exceeded memory limit" in log.read_text(encoding="utf-8")
    wanted = [outcome.drill.fact(job, "MinMemoryNode") for job in jobs]
    assert wanted == [f"{TOO_LITTLE}M", f"{2 * TOO_LITTLE}M"]
    assert outcome.drill.fact(jobs[-1], "JobState") == "COMPLETED"
    assert (outcome.drill.root / SCORES).read_bytes() == outcome.scores


def test_a_full_disk_is_an_error_that_names_the_file_and_loses_nothing(outcome: Outcome) -> None:
    if not outcome.has_small_disk:
        pytest.skip("to mount a disk that can be filled one must be root")
    words = "error: work/micro/runs/full/resume/state.pt: cannot be written, 0 bytes are free: "
    assert words in outcome.seen["status"]
    check(outcome, "full")


def test_a_torn_state_is_an_error_that_says_what_to_delete(outcome: Outcome) -> None:
    words = "state.pt: damaged, or not a saved state; delete work/micro/runs/torn/resume"
    assert words in outcome.seen["status"]
    # Its user did so.
    check(outcome, "torn", from_the_start=True)


def test_what_failed_for_good_stops_nothing_else_and_is_shown(outcome: Outcome) -> None:
    failed = {name for name, job in outcome.jobs.items() if job.state == FAILED}
    assert failed == set(STOPPING if outcome.has_small_disk else STOPPING[:1])
    assert all(outcome.jobs[run].state == DONE for run in (*RECOVERING, CALM, "dpo"))
    assert (outcome.jobs["torn"].attempt, outcome.jobs["killed"].attempt) == (2, 2)
    status = outcome.seen["status"]
    assert status.startswith("0\n")
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
    orphan, said = outcome.seen["orphan"], outcome.seen["resumed"]
    assert outcome.seen["orphan's state"] == "RUNNING"
    assert f"  train {LOST}: running, Slurm job {orphan}, " in outcome.seen["status"]
    assert f"cancelled Slurm job {orphan} (running)" in said
    assert "unlocked the folder" in said
    assert said.startswith("0\n"), said
    assert outcome.drill.fact(orphan, "JobState") == "CANCELLED"
    check(outcome, LOST)


def test_nothing_half_written_is_left(outcome: Outcome) -> None:
    root = outcome.drill.root
    assert [*root.glob("work/**/.*.partial"), *root.glob("results/**/.*.partial")] == []
    assert not [*root.glob("work/micro/runs/*/resume")]
