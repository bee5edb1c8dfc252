"""The whole micro scale, and a training on two nodes, through ``snakemake --profile slurm``."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlsubnet.running.runs import Run, runs_here
from tests.backends.tiny import changes
from tests.slurm.cluster import Cluster
from tests.slurm.masked_training import CASE
from tests.slurm.projects import ClusterProject, Under, digests
from tests.workflow.projects import Project

pytestmark = pytest.mark.slow

SITE = "{per_group: 4, status_seconds: 4, latency_wait: 20}"
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def runs(
    cluster: Cluster, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[ClusterProject, Under]]]:
    """Return both projects and what ran in them, at the same time on one cluster."""
    projects = {
        name: ClusterProject(Project(tmp_path_factory.mktemp(name), repository), cluster, SITE)
        for name in ("micro", "two_nodes")
    }
    two = projects["two_nodes"]
    shutil.copy(REPOSITORY / "tests/slurm/two_nodes.smk", two.root)
    paths = [str(REPOSITORY), str(REPOSITORY / "workflow"), os.environ.get("PYTHONPATH", "")]
    cluster.environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    started = {
        "micro": projects["micro"].snakemake(),
        "two_nodes": two.start("snakemake", "-s", "two_nodes.smk", "--profile", "slurm"),
    }
    try:
        for under in started.values():
            assert under.wait() == 0, under.said
        yield {name: (projects[name], started[name]) for name in projects}
    finally:
        for under in started.values():
            under.end()


def test_every_result_has_the_bits_of_the_local_run(runs, finished):  # type: ignore[no-untyped-def]
    local = digests(finished.root)
    assert sum(name.endswith((".csv", ".csv.gz")) for name in local) == 36
    assert digests(runs["micro"][0].root) == local


@pytest.fixture(scope="module")
def log(runs: dict[str, tuple[ClusterProject, Under]]) -> Run:
    return runs_here(runs["micro"][0].root)[-1]


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


@pytest.fixture(scope="module")
def trained(runs: dict[str, tuple[ClusterProject, Under]]) -> list[dict[str, Any]]:
    folder = runs["two_nodes"][0].root / "trained"
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_two_nodes_train_as_one_world(trained: list[dict[str, Any]]) -> None:
    assert [result["world"] for result in trained] == [2, 2]
    assert {result["node"] for result in trained} == {"n1", "n2"}


def test_each_node_sees_its_own_gpus(trained: list[dict[str, Any]]) -> None:
    assert [result["gpus"] for result in trained] == ["0,1", "0,1"]


def test_on_two_nodes_no_frozen_weight_changes_and_the_subnetwork_moves(
    trained: list[dict[str, Any]],
) -> None:
    for result in trained:
        found = changes(CASE, result["masters"])
        assert (found.frozen > 1000, found.frozen_changed) == (True, 0)
        assert found.subnetwork_changed > 0.9 * found.subnetwork
