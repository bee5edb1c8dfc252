"""The paper scale: its rows are the runs of the paper, its jobs what the sheet declares."""

import dataclasses

import pytest

from rlsubnet.config.layout import contamination_files
from rlsubnet.suites import tasks_of
from tests.workflow.projects import Job, Project, job_of

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


def test_each_trainer_has_its_runs_and_masked_runs_what_they_need(jobs):
    dpo = {"dpo", "dpo_sub", "dpo_b32", "dpo_b32_seed123", "dpo_b32_rollouts", "eurus2_dpo"}
    verl = {"prime", "prime_sub", "grpo_kl", "grpo_nokl", "grpo_noclip", "grpo_nokl_noclip"}
    assert of(jobs, "run", "train_open_instruct") == dpo
    assert of(jobs, "run", "train_verl") == verl
    saving = ("train_verl_with_steps", "trajectory", "evaluate_steps_olmes")
    assert [of(jobs, "run", rule) for rule in saving] == [{"prime_steps"}] * 3
    assert {"dpo", "prime"} <= of(jobs, "pair", "mask")
    assert of(jobs, "run", "frozen") == {"dpo_sub", "prime_sub"}
    assert of(jobs, "data", "contamination") == {"tulu", "rollouts", "gsm8k_math"}
    assert of(jobs, "data", "mix") == {"gsm8k_math"}


@pytest.mark.parametrize(
    ("run", "trainer", "data"),
    [("dpo", "open_instruct", "tulu"), ("prime", "verl", "gsm8k_math")],
)
def test_a_masked_run_waits_for_its_full_run_and_for_the_data_they_share(jobs, run, trainer, data):
    full, sub = (job_of(jobs, f"train_{trainer}", name) for name in (run, f"{run}_sub"))
    assert set(sub.inputs) - set(full.inputs) == {f"work/paper/masks/{run}.safetensors"}
    assert f"work/paper/runs/{run}/final" in job_of(jobs, "mask", run).inputs
    assert f"work/paper/data/{data}.jsonl" in full.inputs
    assert f"results/paper/contamination/{data}.csv" in full.inputs


def test_no_run_is_evaluated_before_the_report_on_what_it_learned_from(jobs):
    evaluated = job_of(jobs, "evaluate_olmes", "eurus2_dpo")
    report = "results/paper/contamination/rollouts.csv"
    assert report in evaluated.inputs
    assert evaluated.words[evaluated.words.index("--contamination") + 1] == report


def test_one_command_trains_whatever_trainer_a_run_names(jobs):
    for rule, run in (("train_verl_with_steps", "prime_steps"), ("train_open_instruct", "dpo_sub")):
        words = job_of(jobs, rule, run).words
        assert words[:-1] == [
            *("rlsubnet", "train", run, "--config", "config/paper/config.yaml", "--threads")
        ]
        # As many as the job asks for, or as there are here.
        assert 1 <= int(words[-1]) <= 64


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


def test_the_paper_scale_names_every_dpo_run_of_the_paper(paper):
    rows = {run: paper.row(run).as_dict() for run in paper.runs_of("open_instruct")}
    assert [run for run, row in rows.items() if row["mask"]] == ["dpo_sub"]
    full, sub = rows["dpo"], rows["dpo_sub"]
    assert {**sub, "run": "dpo", "mask": ""} == full
    seeds = [rows[run]["seed"] for run in ("dpo_b32", "dpo_b32_seed123")]
    assert seeds == [42, 123]
    axes = {c.axis: (c.pair1, c.pair2) for c in paper.comparisons.values()}
    assert axes == {
        "Seed": ("dpo_b32", "dpo_b32_seed123"),
        "Data": ("dpo_b32", "dpo_b32_rollouts"),
        "Seed + Data + Algo.": ("eurus2_dpo", "eurus2_prime"),
    }


def test_the_paper_scale_names_prime_full_and_sub_and_the_run_of_21_checkpoints(paper):
    full, sub, steps = (paper.row(run).as_dict() for run in ("prime", "prime_sub", "prime_steps"))
    assert {**sub, "run": "prime", "mask": ""} == full
    assert paper.pairs[sub["mask"]].init == full["init"] == "Qwen2.5-Math-7B"
    assert steps["init"] == "Eurus-2-7B-SFT"
    every, last = steps["recipe"]["checkpoint_every"], steps["recipe"]["steps"]
    assert len({*range(every, last, every), last}) == 21
    for item in ("fig2", "fig5", "fig6", "fig7"):
        assert [pair.pair for pair in paper.pairs.values() if item in pair.items] == ["prime_steps"]


def test_the_runs_of_section_6_differ_in_kl_and_clipping_alone(paper):
    names = ("grpo_kl", "grpo_nokl", "grpo_noclip", "grpo_nokl_noclip")
    rows = [paper.row(run).as_dict() for run in names]
    switches = [(row["recipe"].pop("kl_coef"), row["recipe"].pop("clip")) for row in rows]
    assert switches == [(0.001, 1.0), (0.0, 1.0), (0.001, None), (0.0, None)]
    assert all({**row, "run": ""} == {**rows[0], "run": ""} for row in rows)


def test_what_a_model_learned_from_is_what_its_start_learned_from_too(paper):
    report = "results/paper/contamination/{}.csv".format
    assert contamination_files(paper, "eurus2_dpo") == [report("rollouts")]
    assert contamination_files(paper, "prime_sub") == [report("gsm8k_math")]
    assert contamination_files(paper, "Eurus-2-7B-PRIME") == []
    run = dataclasses.replace(paper.runs["dpo"], init="prime")
    further = dataclasses.replace(paper, runs={**paper.runs, "dpo": run})
    assert contamination_files(further, "dpo") == [report("tulu"), report("gsm8k_math")]


def test_whatever_is_asked_is_looked_for_in_training_prompts(paper):
    config = paper.config
    asked = [*config["evaluation"]["suites"], *config["evaluation"]["step_suites"]]
    names = {task.name.removeprefix("table3a_") for task in tasks_of(asked)}
    assert names == set(config["contamination"]["items"])
