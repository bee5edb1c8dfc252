"""All that follows from SFT, and a training on two nodes, through ``snakemake --profile slurm``."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rlsubnet.running.runs import Run, runs_here
from tests.backends.tiny import changes
from tests.slurm.cluster import Cluster
from tests.slurm.masked_training import CASE
from tests.slurm.projects import ClusterProject, digests
from tests.workflow.projects import Project

pytestmark = pytest.mark.slow

SITE = "{per_group: 4, status_seconds: 4, latency_wait: 20}"
# By these, every rule that the micro scale has is one of the run.
AGAIN = ("data/arith.jsonl", "runs/dpo/final", "runs/dpo_seed123/final")
TARGETS = ("table1", "table2", "table3", "table4", "fig2", "fig7")
RULES = {
    *("data", "train", "train_with_steps", "mask", "evaluate", "evaluate_steps"),
    *("updates", "rank", "trajectory", "overlap", "frozen"),
}


@pytest.fixture(scope="module")
def roots(
    cluster: Cluster, finished: Project, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Path]]:
    """Return the folders of both projects, which ran at the same time on one cluster."""
    root, two_nodes = (tmp_path_factory.mktemp(name) for name in ("micro", "two_nodes"))
    made = "work", "results", ".snakemake"
    micro = ClusterProject(finished.copy_to(root, *made), cluster, SITE)
    two = ClusterProject(finished.copy_to(two_nodes), cluster, SITE)
    shutil.copy(Path(__file__).with_name("two_nodes.smk"), two_nodes)
    again = [f"work/micro/{file}" for file in AGAIN]
    started = [
        micro.snakemake(*TARGETS, "--forcerun", *again),
        two.start("snakemake", "-s", "two_nodes.smk", "--profile", "slurm"),
    ]
    try:
        for under in started:
            assert under.wait() == 0, under.said
        yield root, two_nodes
    finally:
        for under in started:
            under.end()


@pytest.fixture(scope="module")
def log(roots: tuple[Path, Path]) -> Run:
    return runs_here(roots[0])[-1]


def test_every_result_has_the_bits_of_the_local_run(
    log: Run, roots: tuple[Path, Path], finished: Project
) -> None:
    assert {job.rule for job in log.jobs.values()} >= RULES
    assert digests(roots[0]) == digests(finished.root)


def test_every_job_but_tables_and_figures_is_one_of_slurm(log: Run) -> None:
    drawn = re.compile(r"(table|fig|section)\d|gains|verdicts|machines|all")
    for job in log.jobs.values():
        assert bool(job.slurm) is not bool(drawn.match(job.rule)), job


def test_small_jobs_share_one_of_slurm_and_trainings_do_not(log: Run) -> None:
    shared: dict[str, list[str]] = {}
    for job in log.jobs.values():
        shared.setdefault(job.slurm, []).append(job.rule)
    groups = [rules for number, rules in shared.items() if number and len(rules) > 1]
    assert max(map(len, groups)) == 4
    assert not {"train", "train_with_steps", "mask"} & {rule for rules in groups for rule in rules}


def test_slurm_logs_lie_where_the_site_file_says(log: Run) -> None:
    assert all("/logs/slurm/" in job.slurm_log for job in log.jobs.values() if job.slurm)
    assert all(Path(job.slurm_log).is_file() for job in log.jobs.values() if job.slurm)


def test_two_nodes_train_one_subnetwork_on_their_own_gpus(roots: tuple[Path, Path]) -> None:
    trained = [torch.load(roots[1] / f"trained/{rank}.pt") for rank in range(2)]
    assert [result["world"] for result in trained] == [2, 2]
    assert {result["node"] for result in trained} == {"n1", "n2"}
    assert [result["gpus"] for result in trained] == ["0,1", "0,1"]
    for result in trained:
        found = changes(CASE, result["masters"])
        assert (found.frozen > 1000, found.frozen_changed) == (True, 0)
        assert found.subnetwork_changed > 0.9 * found.subnetwork
