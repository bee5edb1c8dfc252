"""What follows from the sheets alone: how far, on what, and with which seeds a pair was trained."""

import dataclasses

import pytest

from rlsubnet.config import load_config, load_scale
from rlsubnet.config.scale import Scale
from rlsubnet.report.settings import (
    ANSWERS_OF_THE_START,
    DATA_OF_THE_START,
    DRAWN_WHILE_TRAINING,
    OTHER_DATA,
    all_but_seed,
    data_of,
    distribution_columns,
    is_sft_stage,
    recipe_of,
    runs_between,
    seed_groups,
    seed_text,
    steps_columns,
)
from rlsubnet.report.verdicts.numbers import pace_of
from tests.report.small_results import make_pair, make_run, with_rows


def test_rates_of_runs_in_a_row_add_up_and_a_linear_decay_halves_them(scale):
    first = make_run("raft_1", set="lr=2e-3")
    second = make_run("raft_2", init="raft_1", set="steps=5")
    rounds, pair = with_rows(scale, first, second), make_pair("raft", "sft", "raft_2", "RAFT++", "")
    assert runs_between(rounds, pair) == [first, second]
    assert runs_between(rounds, make_pair("other", "dpo", "raft_2", "RAFT++", "")) == []
    columns = steps_columns(rounds, pair)
    # 10 steps at 2e-3 and 5 at 1e-3, both constant: 0.02 + 0.005.
    assert (columns["lr"], columns["steps"]) == ("2e-3, 1e-3", 15)
    assert columns["lr_sum"] == pytest.approx(0.025)
    decay = with_rows(scale, make_run("dpo", set="schedule=linear"))
    # One step of warm-up, at the peak, then 1e-3 (9 + 8 + ... + 1) / 9.
    pair = make_pair("dpo", "sft", "dpo", "DPO", "")
    assert steps_columns(decay, pair)["lr_sum"] == pytest.approx(6e-3)


def test_of_a_released_model_the_sheet_says_nothing(scale):
    pair = make_pair("released", "sft", "Llama-3.1-Tulu-3-8B-DPO", "DPO", "")
    assert steps_columns(scale, pair) == distribution_columns(scale, pair) == {}
    assert seed_text(scale, [pair], "tuned") == ""
    assert seed_groups(scale, [pair, pair], "tuned") == [[pair], [pair]]


def test_data_are_in_distribution_when_drawn_by_the_policy_or_taught_to_its_start(scale):
    online = make_run("grpo", algorithm="grpo", data="arith")
    again = make_run("sft_again", algorithm="sft", data="demonstrations")
    cold = make_run("dpo_cold", init="base")
    assert data_of(scale, online) == DRAWN_WHILE_TRAINING
    # The policy of `preferences` is sft.
    assert data_of(scale, scale.runs["dpo"]) == ANSWERS_OF_THE_START
    assert data_of(scale, cold) == OTHER_DATA
    # sft was trained on `demonstrations`; base was not.
    assert data_of(scale, again) == DATA_OF_THE_START
    assert data_of(scale, scale.runs["sft"]) == OTHER_DATA
    # Word problems name a policy for the form of their prompts; their answers are people's.
    people = {"kind": "word_demonstrations", "policy": "own", "source": "rows.jsonl"}
    own = {"kind": "word_preferences", "policy": "own", "source": "rows.jsonl", "samples": 8}
    data = {**scale.config["data"], "people": people, "answers": own}
    asked = dataclasses.replace(scale, config={**scale.config, "data": data})
    assert data_of(asked, make_run("sft", init="own", data="people")) == OTHER_DATA
    assert data_of(asked, make_run("dpo", init="own", data="answers")) == ANSWERS_OF_THE_START
    # One round on other data takes a run out of distribution.
    second = make_run("round_2", init="round_1", algorithm="sft", data="demonstrations")
    rounds = with_rows(scale, make_run("round_1"), second)
    first = distribution_columns(rounds, make_pair("a", "sft", "round_1", "RFT", ""))
    both = distribution_columns(rounds, make_pair("b", "sft", "round_2", "SFT", ""))
    assert first == {"data_origin": ANSWERS_OF_THE_START, "in_distribution": "yes"}
    # Round 1 was not trained on the data of round 2.
    assert both["in_distribution"] == "no"
    assert both["data_origin"] == f"{ANSWERS_OF_THE_START}; {OTHER_DATA}"


def groups(scale, *pairs, side="tuned"):
    return [[pair.pair for pair in group] for group in seed_groups(scale, pairs, side)]


def test_only_the_seed_may_differ_and_what_changes_no_bit(scale):
    pairs = [make_pair(name, "sft", name, "DPO", "") for name in ("dpo", "dpo_seed")]
    assert groups(scale, *pairs) == [["dpo", "dpo_seed"]]
    assert seed_text(scale, pairs, "tuned") == "mean of 42, 123"
    other = make_run("dpo_seed", seed=123, set="save_every=7 lr=1e-3")
    assert groups(with_rows(scale, other), *pairs) == [["dpo", "dpo_seed"]]


@pytest.mark.parametrize(
    "change",
    [{"set": "lr=5e-4"}, {"data": "arith"}, {"init": "base"}, {"algorithm": "kto"}, {"seed": 42}],
)
def test_any_other_difference_keeps_runs_apart(scale, change):
    other = dataclasses.replace(scale.runs["dpo_seed"], **change)
    pairs = [make_pair(name, "sft", name, "DPO", "") for name in ("dpo", "dpo_seed")]
    assert groups(with_rows(scale, other), *pairs) == [["dpo"], ["dpo_seed"]]


def test_full_runs_of_several_seeds_meet_their_own_subs(seeded):
    pairs = [seeded.pairs["dpo_vs_sub"], seeded.pairs["dpo_seed_vs_sub"]]
    assert groups(seeded, *pairs, side="init") == [["dpo_vs_sub", "dpo_seed_vs_sub"]]
    # Both in the subnetwork of seed 42: for seed 123 that is another run's.
    foreign = with_rows(seeded, make_run("dpo_seed_sub", seed=123, mask="dpo"))
    assert groups(foreign, *pairs, side="init") == [["dpo_vs_sub"], ["dpo_seed_vs_sub"]]


def test_a_random_subnetwork_is_no_seed_of_the_one_that_full_changed(seeded):
    random = [make_run("r", mask="dpo:random"), make_run("r2", seed=123, mask="dpo_seed:random")]
    scale = with_rows(seeded, *random)
    pairs = [
        make_pair(f"{full}_vs_{sub}", full, sub, "DPO", "")
        for full, sub in (("dpo", "dpo_sub"), ("dpo", "r"), ("dpo_seed", "r2"))
    ]
    assert groups(scale, *pairs, side="init")[1] == ["dpo_vs_r", "dpo_seed_vs_r2"]


def test_the_sft_stage_is_what_other_training_starts_from(scale):
    scale = with_rows(scale, make_run("control", algorithm="sft", data="demonstrations"))
    stages = [scale.pairs["base_sft"], make_pair("x", "base", "Llama-3.1-8B-SFT", "SFT", "")]
    controls = [make_pair("x", init, "control", "SFT", "") for init in ("sft", "base")]
    found = [is_sft_stage(scale, pair) for pair in (*stages, *controls, scale.pairs["dpo"])]
    assert found == [True, True, False, False, False]


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


def test_a_step_of_verl_counts_as_its_optimizer_steps_and_unknown_steps_are_left_out(paper):
    # 210 batches of responses, each of them four updates at 1e-6.
    columns = steps_columns(paper, paper.pairs["grpo_kl"])
    assert (columns["lr"], columns["steps"]) == ("1e-6", 840)
    assert columns["lr_sum"] == pytest.approx(840e-6)
    assert pace_of(paper, paper.pairs["prime"]).steps == 869
    assert pace_of(paper, paper.pairs["prime"]).schedule == "constant"
    assert steps_columns(paper, paper.pairs["dpo"]) == {"lr": "5e-7"}
    assert pace_of(paper, paper.pairs["dpo"]) is None
