"""What Snakemake plans where nothing has run yet: every scale, the order of runs, the profiles."""

import subprocess
import sys

import pytest

from rlsubnet.config.layout import item_files
from rlsubnet.items import ITEMS
from tests.workflow.projects import OLMES, SAVING, Project, job_of, plan_of

RUNS = {"base", "sft", "dpo", "dpo_sub", "dpo_seed123"}


def after(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_a_scale_of_one_file_plans(project):
    plan = project.plan(scale="gpu/short.yaml")
    assert {"all", "updates", "table1", "table6", "fig1"} <= set(plan)


def test_keys_given_to_snakemake_are_given_to_the_command(project):
    given = ("--config", "work=elsewhere", "cached=False")
    words = project.words("train", "elsewhere/runs/base/final", *given)
    assert words[:3] == ["rlsubnet", "train", "base"]
    assert words[words.index("--set") + 1 : -2] == ["work=elsewhere", "cached=False"]


def test_the_demo_plans_every_run_pair_and_comparison(project, demo):
    plan = project.plan(scale="demo")
    assert project.trained(plan) == plan["evaluate"] == set(demo.runs)
    assert plan["updates"] == set(demo.pairs)
    assert plan["overlap"] == set(demo.comparisons)
    assert plan["frozen"] == {name for name, run in demo.runs.items() if run.mask}
    assert plan["trajectory"] == plan["train_with_steps"] == {"prime"}
    assert {"dpo", "prime", "dpo__official", "dpo__random"} <= plan["mask"]
    assert "dpo_sub" not in plan["mask"]
    assert set(ITEMS) <= set(plan)


def test_items_alone_plan_what_they_read_and_what_that_is_made_of(project):
    jobs = project.jobs("fig7", "table5")
    assert plan_of(jobs) == {
        "data": {"base_text", "sft_train", "pairs", "arith"},
        "train": {"base", "sft"},
        "train_with_steps": {SAVING},
        "trajectory": {SAVING},
        "evaluate_steps": {SAVING},
        "fig7": {""},
        "table5": {""},  # no row names it
    }
    words = job_of(jobs, "evaluate_steps", SAVING).words
    assert after(words, "--config") == "config/micro/config.yaml"
    assert after(words, "--suite") == "arith=work/micro/data/arith.jsonl"


def test_the_verdicts_wait_for_the_results_of_all_other_items(project):
    scale = project.sheets.load()
    files = set(item_files(scale, "verdicts"))
    assert files == {file for item in ITEMS for file in item_files(scale, item)}
    assert {"results/micro/answers/dpo_sub.csv.gz", "results/micro/ranks/dpo.csv"} <= files
    # Its evaluation names no item of the paper.
    assert "results/micro/scores/dpo_seed123.csv" not in files
    plan = project.plan("verdicts")
    assert plan["evaluate"] == {"sft", "dpo", "dpo_sub"}
    assert {"trajectory", "frozen", "updates", "rank", "overlap", "verdicts"} <= set(plan)
    assert not {"all", "tables", *ITEMS} & set(plan) - {"verdicts"}


def test_a_run_waits_for_the_full_run_of_its_mask_and_for_the_policy_of_its_data(project):
    own = "{kind: rejection_samples, policy: sft, prompts: 4, samples: 2, per_prompt: 1, "
    own += "split: train, seed: 5}"
    project.sheets.replace("config.yaml", "data:\n", f"data:\n  own: {own}\n")
    project.sheets.add_row("runs.tsv", "rft", "rft", "base", "own", "rl", "1")
    control = ("dpo_random", "dpo", "sft", "pairs", "rl", "42", "dpo:random")
    project.sheets.add_row("runs.tsv", *control)
    finals = [f"work/micro/runs/{run}/final" for run in ("dpo_sub", "dpo_random", "rft")]
    jobs = project.jobs(*finals)
    plan = plan_of(jobs)
    assert plan["train"] == {"base", "sft", "dpo", "dpo_sub", "dpo_random", "rft"}
    assert plan["mask"] == {"dpo", "dpo__random"}
    assert job_of(jobs, "data_sampled", "own").inputs == ["work/micro/runs/sft/final"]


def test_the_overlap_command_gets_the_start_of_both_pairs_and_the_seed(project):
    project.sheets.edit("config.yaml", lambda text: text + "measure: {seed: 3}\n")
    project.sheets.set_cell("pairs.tsv", "dpo", "common_rows", "lm_head.weight")
    both = "lm_head.weight,model.embed_tokens.weight"
    project.sheets.set_cell("pairs.tsv", "dpo_seed123", "common_rows", both)
    words = project.words("overlap", "results/micro/overlap/seed.csv")
    masks = [f"work/micro/masks/{pair}__official.safetensors" for pair in ("dpo", "dpo_seed123")]
    assert words[2:4] == masks
    assert after(words, "--init") == "work/micro/runs/sft/final"
    assert after(words, "--seed") == "3"
    start = words.index("--common-rows") + 1
    assert words[start : start + 3] == [*both.split(","), "--out"]


def test_without_a_site_file_the_slurm_profile_names_no_partition_or_account(project):
    jobs = project.jobs("--profile", "slurm")
    assert project.trained(plan_of(jobs)) == RUNS
    for job in jobs:
        assert not {"slurm_partition", "slurm_account"} & set(job.resources), job.rule


@pytest.fixture
def olmes(project: Project) -> Project:
    """Return a project whose runs olmes evaluates."""
    project.sheets.replace("config.yaml", *OLMES)
    released = "models:\n  released: {source: /models/released}\n"
    project.sheets.replace("config.yaml", "models:\n", released)
    return project


def test_every_run_is_evaluated_by_olmes_after_one_prefetch(olmes):
    jobs = olmes.jobs("all", "results/micro/scores/released.csv")
    plan = plan_of(jobs)
    assert plan["evaluate_olmes"] == {*RUNS, "released"}
    assert plan["download"] == {"released"}
    assert plan["evaluate_steps_olmes"] == {SAVING}
    assert plan["prefetch_olmes"] == {""}
    assert not {"evaluate", "evaluate_steps"} & set(plan)
    words = job_of(jobs, "evaluate_olmes", "dpo").words
    assert words[:3] == ["rlsubnet", "evaluate_olmes", "work/micro/runs/dpo/final"]
    assert after(words, "--gpus") == "2"
    assert after(words, "--raw") == "work/micro/olmes/runs/dpo"


@pytest.mark.parametrize(
    ("arguments", "edits", "expected"),
    [
        ((), {"runs.tsv": ("\tdpo\tsft", "\tdop\tsft")}, "runs.tsv, row 4 (dpo), column algorithm"),
        (("--config", "cached=true"), {}, "key cached: expected true or false, found the text "
         "'true'; on the command line write True"),
        ((), {"../site.yaml": ("", "partitions: gpu")}, "config/site.yaml, top level: unknown key "
         "'partitions'"),
    ],
)  # fmt: skip
def test_a_mistake_stops_the_plan_without_a_traceback(project, arguments, edits, expected):
    for name, (old, new) in edits.items():
        (project.sheets.folder / name).touch()
        project.sheets.replace(name, old, new)
    result = project.snakemake("--dry-run", *arguments)
    output = result.stdout + result.stderr  # a dry run prints its errors on stdout
    assert result.returncode == 1
    assert expected in output
    assert "Traceback" not in output


SITE = """\
account: lab
partition: short
gpu_partition: big
gpu_type: a100
constraint: ib
kinds: {train_open_instruct: {partition: long, qos: high, extra: --exclusive}}
per_group: 3
"""


def test_the_profile_asks_slurm_for_what_the_site_file_says(project):
    (project.root / "config/site.yaml").write_text(SITE, encoding="utf-8")
    project.sheets.edit("config.yaml", lambda text: text + "resources: {train: {gpus: 2}}\n")
    slurm = ("--profile", "slurm")
    jobs = project.jobs(*slurm, "verdicts")
    training = job_of(jobs, "train", "dpo").resources
    data = job_of(jobs, "data", "pairs").resources
    assert (training["slurm_account"], training["slurm_partition"]) == ("lab", "big")
    assert (training["gres"], training["constraint"]) == ("gpu:a100:2", "ib")
    assert (data["slurm_account"], data["slurm_partition"]) == ("lab", "short")
    assert "gres" not in data
    # A kind of job may differ from the others.
    jobs = project.jobs(*slurm, "work/paper/runs/dpo/final", scale="paper")
    of_dpo = job_of(jobs, "train_open_instruct", "dpo").resources
    assert (of_dpo["slurm_partition"], of_dpo["gres"]) == ("long", "gpu:a100:8")
    assert (of_dpo["qos"], of_dpo["slurm_extra"]) == ("high", "--exclusive")


def test_the_workflow_has_no_lint(repository):
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint"], cwd=repository, capture_output=True
    )
    assert result.returncode == 0, result.stderr.decode()
