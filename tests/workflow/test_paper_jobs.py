"""The jobs of the paper scale: what its sheet declares, all of it, and nothing else."""

import pytest

from rlsubnet.config import Scale, load_config, load_scale
from tests.workflow.projects import Job, Project

# Rule -> whose `resources` of the config it asks for; others are light, or run on the spot.
KINDS = {
    **dict.fromkeys(("download", "fetch"), "download"),
    **dict.fromkeys(("adapt", "mix", "contamination"), "data"),
    **dict.fromkeys(("updates", "rank", "mask", "overlap", "frozen", "trajectory"), "measure"),
    **dict.fromkeys(("evaluate_olmes", "evaluate_steps_olmes"), "evaluate"),
    **dict.fromkeys(("train_verl", "train_verl_with_steps"), "train_verl"),
    "train_open_instruct": "train_open_instruct",
}


@pytest.fixture(scope="module")
def paper(repository) -> Scale:
    return load_scale(load_config([repository / "config/paper/config.yaml"]), repository)


@pytest.fixture(scope="module")
def jobs(tmp_path_factory, repository) -> list[Job]:
    """Return all jobs that Slurm would be given where nothing has run."""
    project = Project(tmp_path_factory.mktemp("paper"), repository)
    return project.jobs("--profile", "slurm", scale="paper")


def of(jobs: list[Job], wildcard: str, *rules: str) -> set[str]:
    return {job.wildcards[wildcard] for job in jobs if job.rule in rules}


def test_every_row_and_data_set_of_the_sheet_has_its_job_and_no_other_has_one(paper, jobs):
    sides = {side for pair in paper.pairs.values() for side in (pair.init, pair.tuned)}
    starts = {run.init for run in paper.runs.values()}
    assert of(jobs, "model", "download") == (sides | starts) - set(paper.runs)
    assert of(jobs, "model", "download") == set(paper.config["models"]), "one is never used"
    data = set(paper.config["data"])
    assert of(jobs, "data", "adapt") == of(jobs, "data", "fetch")
    assert of(jobs, "data", "adapt", "mix") == data
    trains = [rule for rule in KINDS if rule.startswith("train")]
    assert of(jobs, "run", *trains) == of(jobs, "run", "evaluate_olmes") == set(paper.runs)
    assert of(jobs, "pair", "updates") == set(paper.pairs)
    assert of(jobs, "pair", "rank", "mask") <= set(paper.pairs)
    assert of(jobs, "comparison", "overlap") == set(paper.comparisons)


def test_no_job_reads_what_no_other_job_makes(jobs):
    made = {file for job in jobs for file in job.outputs}
    read = {file for job in jobs for file in job.inputs}
    assert read <= made


def test_every_job_asks_for_what_the_config_says_of_its_kind(paper, jobs):
    for job in jobs:
        if job.rule not in KINDS:
            assert "gres" not in job.resources, job.rule
            assert (job.resources["mem_mb"], job.resources["runtime"]) == ("2000", "60"), job.rule
            continue
        wanted = paper.config["resources"][KINDS[job.rule]]
        assert job.resources["mem_mb"] == str(wanted["mem_mb"])
        assert job.resources["runtime"] == str(wanted["runtime"])
        if wanted["disk_mb"]:
            assert job.resources["disk_mb"] == str(wanted["disk_mb"])
        gpus = f"gpu:{wanted['gpus']}" if wanted["gpus"] else None
        assert job.resources.get("gres") == gpus, job.rule


def test_a_training_job_has_a_gpu_for_each_process_of_its_recipe(paper, jobs):
    trained = [job for job in jobs if job.rule.startswith("train")]
    assert len(trained) == len(paper.runs)
    for job in trained:
        processes = paper.row(job.wildcards["run"]).as_dict()["recipe"]["processes"]
        assert job.resources["gres"] == f"gpu:{processes}"
