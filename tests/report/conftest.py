"""A scale and a results folder small enough to check by eye; see `small_results`."""

import dataclasses
from pathlib import Path

import pytest

from rlsubnet.config import Comparison, Scale
from rlsubnet.data import load_published
from rlsubnet.report.results import Results
from tests.report import small_results as small


@pytest.fixture
def published():
    return load_published()


@pytest.fixture
def results(tmp_path: Path) -> Results:
    files = {
        "updates/base_sft.csv": small.SFT_UPDATES,
        "updates/dpo.csv": small.DPO_UPDATES,
        "updates/dpo_seed.csv": small.DPO_UPDATES,
        "updates/dpo_vs_sub.csv": small.SUB_UPDATES,
        "ranks/dpo.csv": small.RANKS,
        "frozen/dpo_sub.csv": small.FROZEN,
        "metrics/dpo.csv": small.METRICS,
        "metrics/dpo_sub.csv": small.SUB_METRICS,
        "overlap/seed.csv": small.OVERLAP,
        "trajectory/dpo.csv": small.TRAJECTORY,
        "step_scores/dpo.csv": small.STEP_SCORES,
    }
    return Results(small.write_results(tmp_path / "results", files))


@pytest.fixture
def scale() -> Scale:
    """Return SFT, DPO, its masked run and a second seed."""
    tulu = "Llama-3.1-Tulu-3-8B-DPO"
    pairs = [
        small.make_pair("base_sft", "base", "sft", "SFT", "table1,fig1"),
        small.make_pair("dpo", "sft", "dpo", "DPO", "table1,table2,table6,fig1,fig3", tulu),
        small.make_pair("dpo_seed", "sft", "dpo_seed", "DPO", ""),
        small.make_pair("dpo_vs_sub", "dpo", "dpo_sub", "DPO", "table3,section4,fig4"),
    ]
    seeds = Comparison("seed", "dpo", "dpo_seed", "Seed", ("table4",), "42", "123", "")
    runs = [
        small.make_run("sft", algorithm="sft", init="base", data="demonstrations"),
        small.make_run("dpo", label="DPO"),
        small.make_run("dpo_sub", mask="dpo", label="DPO, sub"),
        small.make_run("dpo_seed", seed=123),
    ]
    evaluation = {"backend": "native", "suites": ["arith", "choices"], "samples": 4}
    return Scale(
        config={
            "measure": {"tolerances": [1e-5, 1e-4], "table_tolerance": 1e-5},
            "recipes": {"rl": small.make_recipe()},
            "data": {
                "demonstrations": {"kind": "demonstrations"},
                "preferences": {"kind": "preferences", "policy": "sft"},
                "arith": {"kind": "problems"},
                "choices": {"kind": "choices"},
            },
            "evaluation": {**evaluation, "step_suites": ["arith"]},
        },
        runs={run.run: run for run in runs},
        pairs={pair.pair: pair for pair in pairs},
        comparisons={"seed": seeds},
    )


@pytest.fixture
def seeded(scale: Scale) -> Scale:
    """Return the scale with a masked run of the second seed: two pairs of full and sub."""
    return small.with_rows(
        scale,
        small.make_run("dpo_seed", seed=123, label="DPO, seed 123"),
        small.make_run("dpo_seed_sub", seed=123, mask="dpo_seed"),
        small.make_pair("dpo_seed_vs_sub", "dpo_seed", "dpo_seed_sub", "DPO", "table3,fig4"),
    )


@pytest.fixture
def nothing(scale: Scale) -> Scale:
    """Return the scale with no pair or comparison, as a scale that runs nothing."""
    return dataclasses.replace(scale, pairs={}, comparisons={})
