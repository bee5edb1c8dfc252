"""The configurations of config/gpu run from end to end on a CPU, in a small size."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from rlsubnet.config import load_config, load_scale
from rlsubnet.config.read import merged, read_yaml
from rlsubnet.files import read_jsonl
from rlsubnet.tasks.words import is_correct
from tests.workflow.projects import Project, Sheets, keep_runs, rows_of

HERE = Path(__file__).parent


CONFIGS = ("config/gpu/config.yaml", "config/gpu/own-model.yaml")


def test_of_the_data_only_what_a_policy_samples_takes_the_gpu(project: Project) -> None:
    specs = load_config([project.root / "config/gpu/config.yaml"])["data"]
    jobs = project.jobs("all", scale="gpu")
    data = [job for job in jobs if job.rule.startswith("data")]
    on_gpu = {job.wildcards["data"] for job in data if "gpu_slots" in job.resources}
    assert on_gpu == {name for name, spec in specs.items() if "policy" in spec}
    assert "base_text" in {job.wildcards["data"] for job in data} - on_gpu


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("algorithm", ["dpo", "grpo", "prime"])
def test_rl_has_two_seeds_its_own_mask_and_a_random_one(
    repository: Path, config: str, algorithm: str
) -> None:
    scale = load_scale(load_config([repository / config]), repository)
    runs = [run for run in scale.runs.values() if (run.algorithm, run.set) == (algorithm, "")]
    runs += [run for run in scale.runs.values() if run.run == algorithm and run not in runs]
    full = {run.seed for run in runs if not run.mask}
    masks = {run.mask for run in runs if run.seed == 42 and run.mask}
    assert (full, masks) == ({42, 123}, {algorithm, f"{algorithm}:random"})
    # As many steps at the same learning rate, without reinforcement.
    assert scale.runs["sft_rl_lr"].recipe == scale.runs["dpo"].recipe


def test_the_short_scale_has_the_tasks_and_the_rl_of_the_demo(repository: Path) -> None:
    short, demo = (
        load_config([repository / f"config/{name}.yaml"]) for name in ("gpu/short", "demo/config")
    )
    # A GPU takes more at a time, and more texts for larger batches of pretraining and SFT.
    counts = {"batch_size", "documents", "problems"}

    def tasks(settings: dict[str, Any]) -> dict[str, Any]:
        return {
            name: {key: value for key, value in spec.items() if key not in counts}
            for name, spec in settings["data"].items()
        }

    own = {name: spec for name, spec in tasks(short).items() if name != "preferences_l"}
    assert own == {name: tasks(demo)[name] for name in own}
    for kind in ("rl", "online", "prime"):
        recipes = short["recipes"][kind], demo["recipes"][kind]
        differing = {key for key in recipes[0] if recipes[0][key] != recipes[1][key]}
        assert differing == {"accumulate", "compute", "save_every", "sparsity_every"}


@pytest.mark.parametrize("config", CONFIGS)
def test_no_job_of_a_gpu_may_take_ten_minutes_or_lose_more_than_half(
    repository: Path, config: str
) -> None:
    settings = load_config([repository / config])
    for kind in ("data", "train", "evaluate"):
        wanted = settings["resources"][kind]
        assert (wanted["gpus"], wanted["runtime"]) == (1, 9)
    for recipe in settings["recipes"].values():
        assert 0 < recipe["save_every"] <= recipe["steps"] / 2
        assert recipe["accumulate"] is None  # as the memory allows


@pytest.mark.parametrize("config", CONFIGS)
def test_vllm_draws_what_is_sampled_where_its_file_is_laid_over(
    repository: Path, config: str
) -> None:
    def rows(*files: str) -> dict[str, dict[str, Any]]:
        scale = load_scale(load_config([repository / file for file in files]), repository)
        return {run: scale.row(run).as_dict()["recipe"] for run in scale.runs}

    settings = load_config([repository / config, repository / "config/gpu/vllm.yaml"])
    assert settings["evaluation"]["sampler"] == "vllm"
    assert settings["data"]["preferences"]["sampler"] == "vllm"
    before, after = rows(config), rows(config, "config/gpu/vllm.yaml")
    assert {run for run in after if after[run]["sampler"] == "vllm"} == {
        run for run in before if run.startswith(("grpo", "prime", "raft"))
    }
    for run, recipe in before.items():
        assert recipe | {"sampler": after[run]["sampler"]} == after[run]


@pytest.mark.slow
def test_ones_own_model_learns_word_problems_by_every_rule(project: Project, shared: Path) -> None:
    pytest.importorskip("math_verify", reason="the extra `words` is not installed")
    runs = ("sft", "dpo", "dpo_sub", "dpo_random", "grpo", "prime")
    root = project.root
    own, smaller = root / "config/gpu/own-model.yaml", HERE / "gpu/own.yaml"
    settings = merged(read_yaml(own), read_yaml(smaller))
    own.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    keep_runs(root, settings, ("own", *runs))
    Sheets(root, "gpu/own-model").set_cell("runs.tsv", "prime", "set", "checkpoint_every=1")
    (root / "own").mkdir()
    for name, file in {
        "model": "stories260k",
        "train.jsonl": "gsm8k/train.jsonl",
        "test.jsonl": "gsm8k/test.jsonl",
        "svamp.json": "svamp/SVAMP.json",
    }.items():
        (root / "own" / name).symlink_to(shared / "data" / file)
    results = "results/own-model"
    masked = [f"{results}/frozen/{run}.csv" for run in ("dpo_random", "dpo_sub")]
    result = project.snakemake("table1", "table3", "fig7", *masked, scale="gpu/own-model.yaml")
    assert result.returncode == 0, result.stdout + result.stderr
    pairs = read_jsonl(root / "work/own-model/data/preferences.jsonl")
    solutions = {
        problem["prompt"]: problem["solution"]
        for problem in read_jsonl(root / "work/own-model/data/problems.jsonl")
    }
    assert len(pairs) >= 2
    for pair in pairs:
        assert is_correct(pair["chosen"], solutions[pair["prompt"]])
        assert not is_correct(pair["rejected"], solutions[pair["prompt"]])
    for file in masked:
        rows = rows_of(root / file)
        assert sum(int(row["frozen"]) for row in rows) > 0
        assert [row["tensor"] for row in rows if int(row["frozen_changed"])] == []
    assert len(rows_of(root / results / "metrics/grpo.csv")) == 2
    scores = rows_of(root / results / "scores/dpo_sub.csv")
    assert {row["task"] for row in scores} == {"gsm8k_sampled", "gsm8k_greedy", "prefacc"}
    (whole,) = (r for r in scores if (r["task"], r["level"]) == ("gsm8k_sampled", "all"))
    assert int(whole["n"]) == 6 * 2
