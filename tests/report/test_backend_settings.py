"""What tables and verdicts ask of a run stands in its recipe or follows from its trainer."""

import pytest

from rlsubnet.config import load_config, load_scale
from rlsubnet.config.scale import Scale
from rlsubnet.report.settings import all_but_seed, recipe_of, steps_columns
from rlsubnet.report.verdicts.updates import pace_of


@pytest.fixture(scope="module")
def paper(repository) -> Scale:
    return load_scale(load_config([repository / "config" / "paper" / "config.yaml"]), repository)


def test_every_run_of_the_paper_tells_what_tables_ask(paper):
    asked = {"lr", "steps", "schedule", "warmup_ratio", "optimizer", "mask_at", "clip"}
    for run in paper.runs:
        assert asked <= recipe_of(paper, run).keys(), run
        hash(all_but_seed(paper, run))
    for pair in paper.pairs.values():
        steps_columns(paper, pair), pace_of(paper, pair)


def test_a_step_of_verl_counts_as_its_optimizer_steps(paper):
    # 210 batches of responses, each of them four updates at 1e-6.
    columns = steps_columns(paper, paper.pairs["grpo_kl"])
    assert (columns["lr"], columns["steps"]) == ("1e-6", 840)
    assert columns["lr_sum"] == pytest.approx(840e-6)
    assert pace_of(paper, paper.pairs["prime"]).steps == 869
    assert pace_of(paper, paper.pairs["prime"]).schedule == "constant"


def test_where_only_the_data_tell_the_steps_the_rate_stands_alone(paper):
    assert steps_columns(paper, paper.pairs["dpo"]) == {"lr": "5e-7"}
    assert pace_of(paper, paper.pairs["dpo"]) is None
