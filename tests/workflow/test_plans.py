"""What Snakemake plans where nothing has run yet: every scale, the order of runs, the profiles."""

import subprocess
import sys

import pytest

from rlsubnet.config import Scale
from rlsubnet.config.layout import item_files
from rlsubnet.items import ITEMS
from tests.workflow.projects import OLMES, SAVING, Project

RUNS = {"base", "sft", "dpo", "dpo_sub", "dpo_seed123"}


@pytest.mark.parametrize("scale", ["gpu", "gpu/short.yaml"])
def test_every_scale_plans(project, scale):
    plan = project.plan(scale=scale)
    assert {"all", "updates", "table1", "table6", "fig1"} <= set(plan)


@pytest.mark.parametrize(
    ("run", "trainer", "start", "data"),
    [
        ("dpo", "open_instruct", "Llama-3.1-Tulu-3-8B-SFT", "tulu"),
        ("prime", "verl", "Qwen2.5-Math-7B", "gsm8k_math"),
    ],
)
def test_a_masked_run_on_gpus_waits_for_its_full_run_and_for_the_data_they_share(
    project, run, trainer, start, data
):
    plan = project.plan(f"work/paper/runs/{run}_sub/final", scale="paper")
    assert plan[f"train_{trainer}"] == {run, f"{run}_sub"}
    assert plan["mask"] == {run}
    assert plan["download"] == {start}
    assert plan["contamination"] == {data}
    assert plan.get("mix", {data}) == {data}
    assert "rollouts" not in plan["fetch"]


def test_no_run_is_evaluated_before_the_report_on_what_it_learned_from(project):
    target = "results/paper/scores/eurus2_dpo.csv"
    words = project.words("evaluate_olmes", target, scale="paper")
    assert words[words.index("--contamination") + 1] == "results/paper/contamination/rollouts.csv"
    # With the model at hand, the report is all that is missing.
    for name in ("work/paper/runs/eurus2_dpo/final", "results/paper/metrics"):
        (project.root / name).mkdir(parents=True)
    (project.root / "results/paper/metrics/eurus2_dpo.csv").touch()
    assert project.plan(target, scale="paper")["contamination"] == {"rollouts"}


def test_one_command_trains_whatever_trainer_a_run_names(project):
    for run in ("prime_steps", "dpo_sub"):
        words = project.words(f"train {run}", f"work/paper/runs/{run}/final", scale="paper")
        assert words[:-1] == [
            *("rlsubnet", "train", run, "--config", "config/paper/config.yaml", "--threads")
        ]
        # As many as the job asks for, or as there are here.
        assert 1 <= int(words[-1]) <= 64


def test_keys_given_to_snakemake_are_given_to_the_command(project):
    given = ("--config", "work=elsewhere", "cached=False")
    words = project.words("train base", "elsewhere/runs/base/final", *given)
    assert words[words.index("--set") + 1 : -2] == ["work=elsewhere", "cached=False"]


def ancestors(scale: Scale, name: str) -> set[str]:
    """Return the runs that a run waits for: its start, who made its data, what its mask is of."""
    run = scale.runs[name]
    needed = {run.init, scale.config["data"][run.data].get("policy")}
    if run.mask:
        pair = scale.pairs[run.mask_pair]
        needed |= {pair.init, pair.tuned}
    needed &= set(scale.runs)
    return needed.union(*(ancestors(scale, other) for other in needed))


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


def test_one_item_plans_only_what_it_reads(project, demo):
    pairs = {name: pair for name, pair in demo.pairs.items() if "table2" in pair.items}
    plan = project.plan("table2", scale="demo")
    assert plan["rank"] == set(pairs)
    ends = {pair.tuned for pair in pairs.values()}
    # Preferences wait for the policy, so its training is planned though no pair here is its own.
    assert project.trained(plan) == ends.union(*(ancestors(demo, name) for name in ends))
    data = {"data", "data_sampled"}
    assert set(plan) == {*data, "train", "train_with_steps", "rank", "table2"}


def test_one_ablation_of_the_demo_plans_its_run_and_what_it_starts_from(project, demo):
    plan = project.plan("-f", "work/demo/runs/grpo_noclip/final", scale="demo")
    assert plan["train"] == {"base", "sft", "grpo_noclip"}
    assert plan["data"] == {demo.runs[run].data for run in plan["train"]}
    assert set(plan) == {"data", "train"}


def test_figure_5_alone_plans_one_run_what_it_starts_from_and_its_trajectory(project):
    assert project.plan("fig5") == {
        "data": {"base_text", "sft_train", "pairs"},
        "train": {"base", "sft"},
        "train_with_steps": {SAVING},
        "trajectory": {SAVING},
        "fig5": {""},
    }
    words = project.words("evaluate_steps", "fig7")
    assert words[words.index("--config") + 1] == "config/micro/config.yaml"
    assert words[words.index("--suite") + 1] == "arith=work/micro/data/arith.jsonl"


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


def test_an_item_that_no_row_names_is_still_drawn(project):
    assert project.plan("table5") == {"table5": {""}}


@pytest.mark.parametrize(("cell", "mask"), [("dpo", "dpo"), ("dpo:random", "dpo__random")])
def test_a_masked_run_and_its_control_wait_for_the_mask_of_the_full_run(project, cell, mask):
    if cell != "dpo":
        project.sheets.set_cell("runs.tsv", "dpo_sub", "mask", cell)
    plan = project.plan("work/micro/runs/dpo_sub/final")
    assert plan["train"] == {"base", "sft", "dpo", "dpo_sub"}
    assert plan["mask"] == {mask}


def test_a_run_on_a_policy_s_own_answers_waits_for_the_policy(project):
    project.sheets.replace(
        "config.yaml",
        "data:\n",
        "data:\n  own: {kind: rejection_samples, policy: sft, prompts: 4, samples: 2, "
        "per_prompt: 1, split: train, seed: 5}\n",
    )
    project.sheets.add_row("runs.tsv", "rft", "rft", "base", "own", "rl", "1", "", "", "RFT")
    plan = project.plan("work/micro/runs/rft/final")
    assert plan["train"] == {"base", "sft", "rft"}
    assert plan["data_sampled"] == {"own"}


def test_the_overlap_command_gets_the_start_of_both_pairs_and_the_seed(project):
    project.sheets.edit("config.yaml", lambda text: text + "measure: {seed: 3}\n")
    project.sheets.set_cell("pairs.tsv", "dpo", "common_rows", "lm_head.weight")
    both = "lm_head.weight,model.embed_tokens.weight"
    project.sheets.set_cell("pairs.tsv", "dpo_seed123", "common_rows", both)
    words = project.words("overlap", "results/micro/overlap/seed.csv")
    masks = [f"work/micro/masks/{pair}__official.safetensors" for pair in ("dpo", "dpo_seed123")]
    assert words[2:4] == masks
    assert words[words.index("--init") + 1] == "work/micro/runs/sft/final"
    assert words[words.index("--seed") + 1] == "3"
    start = words.index("--common-rows") + 1
    assert words[start : start + 3] == [*both.split(","), "--out"]


def test_the_slurm_profile_plans(project):
    assert project.trained(project.plan("--profile", "slurm")) == RUNS


@pytest.fixture
def olmes(project: Project) -> Project:
    """Return a project whose runs olmes evaluates."""
    project.sheets.replace("config.yaml", *OLMES)
    released = "models:\n  released: {source: /models/released}\n"
    project.sheets.replace("config.yaml", "models:\n", released)
    return project


def test_every_run_is_evaluated_by_olmes_after_one_prefetch(olmes):
    plan = olmes.plan()
    assert plan["evaluate_olmes"] == RUNS
    assert plan["evaluate_steps_olmes"] == {SAVING}
    assert plan["prefetch_olmes"] == {""}
    assert not {"evaluate", "evaluate_steps"} & set(plan)
    words = olmes.words("evaluate_olmes", "results/micro/scores/dpo.csv")
    assert words[2] == "work/micro/runs/dpo/final"
    assert words[words.index("--gpus") + 1] == "2"
    assert words[words.index("--raw") + 1] == "work/micro/olmes/runs/dpo"
    plan = olmes.plan("results/micro/scores/released.csv")
    assert plan["evaluate_olmes"] == plan["download"] == {"released"}


@pytest.mark.parametrize(
    ("arguments", "edits", "expected"),
    [
        ((), {"runs.tsv": ("\tdpo\tsft", "\tdop\tsft")}, "runs.tsv, row 4 (dpo), column algorithm"),
        (("--config", "cached=true"), {}, "key cached: expected true or false, found the text "
         "'true'; on the command line write True"),
        ((), {"config.yaml": ("recipes:", "resources: {train: {nodes: 2}}\nrecipes:")},
         "resources.train.nodes: expected 1"),
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


def resources(project: Project, *arguments: str, scale: str = "micro") -> dict[str, dict[str, str]]:
    """Return the resources of a job of each rule."""
    jobs = project.jobs("--profile", "slurm", *arguments, scale=scale)
    return {job.rule: job.resources for job in jobs}


def test_the_profile_asks_slurm_for_what_the_site_file_says(project):
    (project.root / "config/site.yaml").write_text(SITE, encoding="utf-8")
    project.sheets.edit("config.yaml", lambda text: text + "resources: {train: {gpus: 2}}\n")
    found = resources(project, "verdicts")
    training, data = found["train"], found["data"]
    assert (training["slurm_account"], training["slurm_partition"]) == ("lab", "big")
    assert (training["gres"], training["constraint"]) == ("gpu:a100:2", "ib")
    assert (data["slurm_account"], data["slurm_partition"]) == ("lab", "short")
    assert "gres" not in data
    # A kind of job may differ from the others.
    of_dpo = resources(project, "work/paper/runs/dpo/final", scale="paper")["train_open_instruct"]
    assert (of_dpo["slurm_partition"], of_dpo["gres"]) == ("long", "gpu:a100:8")
    assert (of_dpo["qos"], of_dpo["slurm_extra"]) == ("high", "--exclusive")


@pytest.mark.parametrize("scale", ["micro", "demo"])
def test_without_a_site_file_jobs_name_no_partition_or_account(project, scale):
    found = resources(project, "fig1", scale=scale)["train"]
    assert not {"slurm_partition", "slurm_account"} & set(found)


def test_the_workflow_has_no_lint(repository):
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint"], cwd=repository, capture_output=True
    )
    assert result.returncode == 0, result.stderr.decode()
