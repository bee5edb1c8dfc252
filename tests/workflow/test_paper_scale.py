"""The rows of config/paper are the runs of the paper."""

import dataclasses

from rlsubnet.config import contamination_files, load_config, load_scale
from rlsubnet.suites import tasks_of


def paper(repository):
    return load_scale(load_config([repository / "config/paper/config.yaml"]), repository)


def test_the_paper_scale_names_every_dpo_run_of_the_paper(repository):
    scale = paper(repository)
    rows = {run: scale.row(run).as_dict() for run in scale.runs_of("open_instruct")}
    assert [run for run, row in rows.items() if row["mask"]] == ["dpo_sub"]
    full, sub = rows["dpo"], rows["dpo_sub"]
    assert {**sub, "run": "dpo", "mask": ""} == full
    seeds = [rows[run]["seed"] for run in ("dpo_b32", "dpo_b32_seed123")]
    assert seeds == [42, 123]
    axes = {c.axis: (c.pair1, c.pair2) for c in scale.comparisons.values()}
    assert axes == {
        "Seed": ("dpo_b32", "dpo_b32_seed123"),
        "Data": ("dpo_b32", "dpo_b32_rollouts"),
        "Seed + Data + Algo.": ("eurus2_dpo", "eurus2_prime"),
    }


def test_the_paper_scale_names_prime_full_and_sub_and_the_run_of_21_checkpoints(repository):
    scale = paper(repository)
    full, sub, steps = (scale.row(run).as_dict() for run in ("prime", "prime_sub", "prime_steps"))
    assert {**sub, "run": "prime", "mask": ""} == full
    assert scale.pairs[sub["mask"]].init == full["init"] == "Qwen2.5-Math-7B"
    assert steps["init"] == "Eurus-2-7B-SFT"
    every, last = steps["recipe"]["checkpoint_every"], steps["recipe"]["steps"]
    assert len({*range(every, last, every), last}) == 21
    for item in ("fig2", "fig5", "fig6", "fig7"):
        assert [pair.pair for pair in scale.pairs.values() if item in pair.items] == ["prime_steps"]


def test_the_runs_of_section_6_differ_in_kl_and_clipping_alone(repository):
    scale = paper(repository)
    names = ("grpo_kl", "grpo_nokl", "grpo_noclip", "grpo_nokl_noclip")
    rows = [scale.row(run).as_dict() for run in names]
    switches = [(row["recipe"].pop("kl_coef"), row["recipe"].pop("clip")) for row in rows]
    assert switches == [(0.001, 1.0), (0.0, 1.0), (0.001, None), (0.0, None)]
    assert all({**row, "run": ""} == {**rows[0], "run": ""} for row in rows)


def test_what_a_model_learned_from_is_what_its_start_learned_from_too(repository):
    scale = paper(repository)
    report = "results/paper/contamination/{}.csv".format
    assert contamination_files(scale, "eurus2_dpo") == [report("rollouts")]
    assert contamination_files(scale, "prime_sub") == [report("gsm8k_math")]
    assert contamination_files(scale, "Eurus-2-7B-PRIME") == []
    run = dataclasses.replace(scale.runs["dpo"], init="prime")
    further = dataclasses.replace(scale, runs={**scale.runs, "dpo": run})
    assert contamination_files(further, "dpo") == [report("tulu"), report("gsm8k_math")]


def test_whatever_is_asked_is_looked_for_in_training_prompts(repository):
    config = paper(repository).config
    asked = [*config["evaluation"]["suites"], *config["evaluation"]["step_suites"]]
    names = {task.name.removeprefix("table3a_") for task in tasks_of(asked)}
    assert names == set(config["contamination"]["items"])
