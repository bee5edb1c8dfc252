"""What Snakemake plans where nothing has run yet: every scale, the order of runs, the profiles."""

import shlex
import subprocess
import sys

import pytest

from rlsubnet.config import Scale, item_files, load_config, load_scale
from rlsubnet.items import ITEMS


@pytest.mark.parametrize("scale", ["gpu", "gpu/short.yaml", "paper"])
def test_every_scale_plans(project, scale):
    plan = project.plan(scale=scale)
    assert {"all", "updates", "table1", "table6", "fig1"} <= set(plan)


@pytest.mark.parametrize("profile", [[], ["--profile", "slurm"]], ids=["local", "slurm"])
def test_the_paper_scale_plans_its_own_runs_after_what_they_need(project, profile):
    plan = project.plan(*profile, scale="paper")
    own = {"dpo", "dpo_sub", "dpo_b32", "dpo_b32_seed123", "dpo_b32_rollouts", "eurus2_dpo"}
    assert plan["train_open_instruct"] == own
    assert "train" not in plan
    verl = {"prime", "prime_sub", "grpo_kl", "grpo_nokl", "grpo_noclip", "grpo_nokl_noclip"}
    assert (plan["train_verl"], plan["train_verl_with_steps"]) == (verl, {"prime_steps"})
    assert {"dpo", "prime"} <= plan["mask"]
    assert plan["frozen"] == {"dpo_sub", "prime_sub"}
    assert plan["overlap"] == {"seed", "data", "stress"}
    assert plan["trajectory"] == plan["evaluate_steps_olmes"] == {"prime_steps"}
    assert plan["contamination"] == {"tulu", "rollouts", "gsm8k_math"}
    assert plan["fetch"] == plan["adapt"] >= {"tulu", "rollouts", "gsm8k", "math", "math500"}
    assert plan["mix"] == {"gsm8k_math"}
    assert {"Llama-3.1-Tulu-3-8B-SFT", "Eurus-2-7B-SFT"} <= plan["download"]


def test_a_masked_run_of_open_instruct_waits_for_its_full_run(project):
    plan = project.plan("work/paper/runs/dpo_sub/final", scale="paper")
    assert plan["train_open_instruct"] == {"dpo", "dpo_sub"}
    assert plan["mask"] == {"dpo"}
    assert plan["download"] == {"Llama-3.1-Tulu-3-8B-SFT"}
    assert plan["contamination"] == {"tulu"}


def test_a_masked_run_of_verl_waits_for_its_full_run_and_for_the_data_they_share(project):
    plan = project.plan("work/paper/runs/prime_sub/final", scale="paper")
    assert plan["train_verl"] == {"prime", "prime_sub"}
    assert plan["mask"] == {"prime"}
    assert plan["download"] == {"Qwen2.5-Math-7B"}
    assert plan["mix"] == plan["contamination"] == {"gsm8k_math"}
    assert "rollouts" not in plan["fetch"]


def test_no_run_is_evaluated_before_the_report_on_what_it_learned_from(project):
    target = "results/paper/scores/eurus2_dpo.csv"
    output = project.snakemake("--dry-run", target, scale="paper").stdout
    line = next(line for line in output.splitlines() if "rlsubnet evaluate_olmes " in line)
    words = shlex.split(line.removeprefix("Shell command: "))
    assert words[words.index("--contamination") + 1] == "results/paper/contamination/rollouts.csv"
    # With the model at hand, the report is all that is missing.
    for name in ("work/paper/runs/eurus2_dpo/final", "results/paper/metrics"):
        (project.root / name).mkdir(parents=True)
    (project.root / "results/paper/metrics/eurus2_dpo.csv").touch()
    assert project.plan(target, scale="paper")["contamination"] == {"rollouts"}


def words_of(project, target: str, start: str, *options: str, scale: str) -> list[str]:
    """Return the words of a planned command that starts with some words."""
    output = project.snakemake("--dry-run", target, *options, scale=scale).stdout
    line = next(line for line in output.splitlines() if f" {start} " in line)
    return shlex.split(line.removeprefix("Shell command: ").partition(" > ")[0])


def test_one_command_trains_whatever_trainer_a_run_names(project):
    for run in ("prime_steps", "dpo_sub"):
        words = words_of(project, f"work/paper/runs/{run}/final", f"train {run}", scale="paper")
        assert words[:-1] == [
            *("rlsubnet", "train", run, "--config", "config/paper/config.yaml", "--threads")
        ]
        # As many as the job asks for, or as there are here.
        assert 1 <= int(words[-1]) <= 64


def test_keys_given_to_snakemake_are_given_to_the_command(project):
    given = ("--config", "work=elsewhere", "cached=False")
    words = words_of(project, "elsewhere/runs/base/final", "train base", *given, scale="micro")
    assert words[words.index("--set") + 1 : -2] == ["work=elsewhere", "cached=False"]


@pytest.fixture
def demo(repository) -> Scale:
    return load_scale(load_config([repository / "config" / "demo" / "config.yaml"]), repository)


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
        "train_with_steps": {"dpo_seed123"},
        "trajectory": {"dpo_seed123"},
        "fig5": {""},
    }


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


def test_a_masked_run_waits_for_the_mask_of_the_full_run(project):
    plan = project.plan("work/micro/runs/dpo_sub/final")
    assert plan["train"] == {"base", "sft", "dpo", "dpo_sub"}
    assert plan["mask"] == {"dpo"}


def test_a_control_with_a_random_mask_waits_for_the_full_run_too(project):
    project.sheets.set_cell("runs.tsv", "dpo_sub", "mask", "dpo:random")
    plan = project.plan("work/micro/runs/dpo_sub/final")
    assert plan["train"] == {"base", "sft", "dpo", "dpo_sub"}
    assert plan["mask"] == {"dpo__random"}


def test_a_run_on_a_policy_s_own_answers_waits_for_the_policy(project):
    project.sheets.replace(
        "config.yaml",
        "data:\n",
        "data:\n  own: {kind: rejection_samples, policy: sft, prompts: 4, samples: 2, "
        "per_prompt: 1, split: train, seed: 5}\n",
    )
    recipe = project.sheets.load().runs["dpo"].recipe
    project.sheets.add_row("runs.tsv", "rft", "rft", "base", "own", recipe, "1", "", "", "RFT")
    plan = project.plan("work/micro/runs/rft/final")
    assert plan["train"] == {"base", "sft", "rft"}
    assert plan["data_sampled"] == {"own"}


def test_the_overlap_command_gets_the_start_of_both_pairs_and_the_seed(project):
    project.sheets.edit("config.yaml", lambda text: text + "measure: {seed: 3}\n")
    project.sheets.set_cell("pairs.tsv", "dpo", "common_rows", "lm_head.weight")
    both = "lm_head.weight,model.embed_tokens.weight"
    project.sheets.set_cell("pairs.tsv", "dpo_seed123", "common_rows", both)
    output = project.snakemake("--dry-run", "results/micro/overlap/seed.csv").stdout
    line = next(line for line in output.splitlines() if "rlsubnet overlap " in line)
    words = shlex.split(line.removeprefix("Shell command: "))
    masks = [f"work/micro/masks/{pair}__official.safetensors" for pair in ("dpo", "dpo_seed123")]
    assert words[2:4] == masks
    assert words[words.index("--init") + 1] == "work/micro/runs/sft/final"
    assert words[words.index("--seed") + 1] == "3"
    start = words.index("--common-rows") + 1
    assert words[start : start + 3] == [*both.split(","), "--out"]


def test_the_slurm_profile_plans(project):
    assert project.trained(project.plan("--profile", "slurm")) == {
        "base",
        "sft",
        "dpo",
        "dpo_sub",
        "dpo_seed123",
    }


def refusal(project, *arguments: str) -> str:
    # A dry run prints its errors on stdout.
    result = project.snakemake("--dry-run", *arguments)
    assert result.returncode == 1
    return result.stdout + result.stderr


def test_a_bad_sheet_stops_the_plan_without_a_traceback(project):
    project.sheets.set_cell("runs.tsv", "dpo", "algorithm", "dop")
    message = refusal(project)
    assert "config/micro/runs.tsv, row 4 (dpo), column algorithm" in message
    assert "Traceback" not in message


def test_a_text_given_for_a_truth_value_is_explained(project):
    message = refusal(project, "--config", "cached=true")
    assert "key cached: expected true or false, found the text 'true'" in message
    assert "on the command line write True" in message


def test_the_workflow_has_no_lint(repository):
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint"], cwd=repository, capture_output=True
    )
    assert result.returncode == 0, result.stderr.decode()
