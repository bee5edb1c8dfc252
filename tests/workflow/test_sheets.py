"""Each fault in a config or a sheet is refused, naming file, row and column."""

import json
from pathlib import Path

import pytest

from rlsubnet.cli import main
from rlsubnet.config import (
    SheetError,
    item_files,
    load_config,
    load_scale,
    results_files,
)


def refusal(micro) -> str:
    with pytest.raises(SheetError) as caught:
        micro.load()
    return str(caught.value)


def test_the_micro_scale_as_it_stands_is_accepted(micro):
    scale = micro.load()
    assert list(scale.runs) == ["base", "sft", "dpo", "dpo_sub", "dpo_seed123"]
    assert scale.runs["dpo_sub"].mask == "dpo"
    assert scale.runs["dpo"].seed == 42
    assert scale.pairs["base_sft"].items == ("table1", "table6", "fig1")
    assert scale.comparisons["seed"].pair2 == "dpo_seed123"


# sheet, row and column, the cell, and what the message says besides naming them.
CELLS = [
    ("runs", "dpo", "algorithm", "dop", "unknown value 'dop' (did you mean 'dpo'?)"),
    ("runs", "dpo", "init", "stf", "unknown run or model 'stf' (did you mean 'sft'?); known: tiny"),
    ("runs", "dpo", "init", "", "expected a text that is not empty"),
    ("runs", "dpo", "init", "tiny", "model 'tiny' is an architecture without weights"),
    ("runs", "dpo", "recipe", "lr", "unknown recipe 'lr'"),
    ("runs", "dpo", "data", "pears", "unknown data set 'pears' (did you mean 'pairs'?)"),
    ("runs", "dpo", "data", "sft_train", "'sft_train' is of kind demonstrations; dpo learns from"),
    ("runs", "dpo_sub", "mask", "dpo2", "unknown pair 'dpo2'"),
    ("runs", "dpo_sub", "mask", "dpo:rand", "expected a pair, or dpo:random, found 'dpo:rand'"),
    ("runs", "dpo_sub", "mask", "dpo_vs_sub", "is measured on the run 'dpo_sub' itself"),
    ("runs", "dpo", "seed", "-1", "found '-1', expected a whole number"),
    ("runs", "dpo", "set", "lrr=1", "unknown key 'lrr' (did you mean 'lr'?)"),
    ("runs", "dpo", "set", "steps=many", "steps: expected a whole number of at least 1, found the"),
    ("runs", "dpo", "set", "steps=1e3", "steps: expected a whole number of at least 1, found 1000"),
    ("runs", "dpo", "set", "samples=1", "samples: expected a whole number of at least 2, found 1"),
    ("runs", "dpo", "set", "beta=nan", "beta: expected a number above 0, found nan"),
    ("runs", "dpo", "set", "clip=inf", "clip: expected a number above 0 or null, found inf"),
    ("runs", "dpo", "set", "gamma=1", "gamma: has no effect on dpo; used by simpo"),
    ("runs", "sft", "set", "beta=5", "beta: has no effect on sft; used by dpo, dpo_norm, simpo"),
    (
        "runs",
        "dpo",
        "set",
        "accumulate=3",
        "accumulate: expected a divisor of batch_size 8, found 3",
    ),
    ("runs", "dpo_sub", "set", "weight_decay=0.1", "weight_decay: expected 0 in a run with a mask"),
    ("runs", "dpo", "set", "steps 5", "found 'steps', expected entries key=value"),
    ("runs", "dpo", "set", "steps=1 steps=2", "key 'steps' stands twice"),
    ("runs", "dpo", "label", "D\x00PO", "control character '\\x00' in 'D\\x00PO'"),
    ("runs", "dpo", "run", "dpo__x", "found 'dpo__x', expected a name"),
    ("runs", "dpo", "run", "sft", "duplicate name 'sft', first used in row 3"),
    ("runs", "dpo", "run", "tiny", "'tiny' is already the name of a model"),
    ("pairs", "dpo", "init", "nothing", "unknown run or model"),
    ("pairs", "dpo", "tuned", "sft", "the same checkpoint as init"),
    ("pairs", "dpo", "init", "tiny", "model 'tiny' is an architecture"),
    ("pairs", "dpo", "items", "table1,table9", "unknown item 'table9'"),
    ("pairs", "dpo", "items", "fig1,fig1", "fig1 stands twice"),
    ("pairs", "dpo", "items", "table1,verdicts", "verdicts reads the rows of all other items"),
    ("pairs", "dpo", "method", "DOP", "unknown value 'DOP' (did you mean 'DPO'?)"),
    ("comparisons", "seed", "pair2", "dpo_seed", "unknown pair 'dpo_seed'"),
    ("comparisons", "seed", "pair2", "dpo_vs_sub", "'dpo_vs_sub' starts from 'dpo' and 'dpo' from"),
    ("comparisons", "seed", "items", "table11", "unknown item 'table11'"),
]
# The header is line 1 of each sheet.
LINES = {"sft": 3, "dpo_sub": 5, "seed": 2}


@pytest.mark.parametrize(("sheet", "row", "column", "value", "expected"), CELLS)
def test_a_bad_cell_names_file_row_and_column(micro, sheet, row, column, value, expected):
    micro.set_cell(f"{sheet}.tsv", row, column, value)
    line = LINES.get(row, 4 if sheet == "runs" else 3)
    name = value if column == "run" else row
    place = f"{micro.folder / sheet}.tsv, row {line} ({name}), column {column}: "
    message = refusal(micro)
    assert message.startswith(place)
    assert expected in message


def test_a_cycle_through_init_is_shown_whole(micro):
    micro.replace("config.yaml", "kind: base_text, documents: 40, characters: 32,", "kind: "
                  "demonstrations, style: worked, problems: 4, split: train,")  # fmt: skip
    micro.set_cell("runs.tsv", "base", "algorithm", "sft")
    micro.set_cell("runs.tsv", "base", "init", "sft")
    message = refusal(micro)
    assert "column init: runs wait for each other in a circle: " in message
    circle = message.split("circle: ")[1].split(" -> ")
    assert circle in (["base", "sft", "base"], ["sft", "base", "sft"])


def test_a_cycle_through_masks_is_refused(micro):
    # dpo_sub waits for dpo (mask dpo: sft -> dpo); now dpo waits for dpo_sub.
    micro.add_row("pairs.tsv", "back", "sft", "dpo_sub", "DPO", "", "", "", "back")
    micro.set_cell("runs.tsv", "dpo", "mask", "back")
    assert "column mask: runs wait for each other in a circle" in refusal(micro)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("dpo", "row 4 (dpo), column data: runs wait for each other in a circle: dpo -> dpo"),
        ("sftt", "key data.pairs.policy: unknown run or model 'sftt' (did you mean 'sft'?)"),
    ],
)
def test_a_policy_is_a_run_that_does_not_wait_for_its_own_data(micro, policy, expected):
    kind = "kind: demonstration_pairs, style: worked, problems: 20,"
    drawn = f"kind: preferences, policy: {policy}, prompts: 4, samples: 2,"
    micro.replace("config.yaml", kind, drawn)
    assert expected in refusal(micro)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("\tseed\t", "\t", "header: missing column seed"),
        ("\tseed\t", "\tsede\t", "header: unknown column 'sede' (did you mean 'seed'?)"),
        ("\tseed\t", "\tseed\tseed\t", "header: duplicate column 'seed'"),
        ("DPO, seed 123", "DPO\tmore", "row 6 (dpo_seed123): 10 cells, expected at most 9"),
    ],
)
def test_a_sheet_with_wrong_columns_is_refused(micro, old, new, expected):
    micro.replace("runs.tsv", old, new)
    assert f"{micro.folder / 'runs.tsv'}, {expected}" in refusal(micro)


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_a_sheet_without_a_header_is_refused(micro, text):
    micro.edit("pairs.tsv", lambda _: text)
    assert f"{micro.folder / 'pairs.tsv'}: empty, expected a header" in refusal(micro)


def test_sheets_with_only_a_header_are_an_empty_scale(micro):
    for name in ("runs.tsv", "pairs.tsv", "comparisons.tsv"):
        micro.edit(name, lambda text: text.splitlines()[0] + "\n")
    scale = micro.load()
    assert (scale.runs, scale.pairs, scale.comparisons) == ({}, {}, {})
    assert results_files(scale) == []


def test_comments_do_not_shift_row_numbers(micro):
    micro.edit("runs.tsv", lambda text: "# a comment\n\n" + text)
    micro.edit("runs.tsv", lambda text: text.replace("\tdpo\tsft\tpairs", "\tdop\tsft\tpairs", 1))
    assert "row 6 (dpo), column algorithm" in refusal(micro)


KEYS = [
    ("recipes:", "recipies: {}\nrecipes:", "top level: unknown key 'recipies' (did you mean 'rec"),
    ("lr: 1.0e-2", "lrr: 1.0e-2", "key recipes.pretrain: unknown key 'lrr' (did you mean 'lr'?)"),
    ("lr: 1.0e-2", "lr: 1e-2", "found the text '1e-2'; YAML 1.1 reads 2e-3 as text, write 2.0e-3"),
    ("lr: 1.0e-2", "lr: .nan", "key recipes.pretrain.lr: expected a number above 0, found nan"),
    ("steps: 4,", "", "key recipes.pretrain: missing key steps"),
    ("steps: 4,", "steps: 4.0,", "key recipes.pretrain.steps: expected a whole number"),
    ("{steps: 3, batch_size: 8", "{steps: 3, batch_size: 7, accumulate: 2", "key recipes.rl.accumul"
     "ate: expected a divisor of batch_size 7, found 2"),
    ("architecture:", "source: x, architecture:", "key models.tiny: expected exactly one of the"),
    ("num_attention_heads: 2", "num_attention_heads: 3", "key models.tiny.architecture.num_attentio"
     "n_heads: expected heads of an even whole size, found 3 in hidden_size 16"),
    ("num_attention_heads: 2", "num_attention_heads: 4, num_key_value_heads: 3", "num_key_value_he"
     "ads: expected a divisor of num_attention_heads 4, found 3"),
    ("mc: {", "mc__5: {", "key data.mc__5: found 'mc__5', expected a name"),
    ("per_task: 2", "per_tusk: 2", "key data.mc: unknown key 'per_tusk' (did you mean 'per_task'"),
    ("terse_share: 0.5, ", "", "key data.sft_train: missing key terse_share"),
    ("recipes:", "measure: {table_tolerance: 3.0e-5}\nrecipes:", "key measure.table_tolerance: exp"
     "ected one of measure.tolerances (1e-08, 1e-07, 1e-06, 1e-05, 0.0001), found 3e-05"),
    ("recipes:", "cached: 'True'\nrecipes:", "key cached: expected true or false, found the text"),
    ("scale: micro", "", "top level: missing key scale"),
    ("recipes:", "models: {}\nrecipes:", "line 20: duplicate key 'models'"),
    ("results: results/micro", "results: [", "not YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "expected"), KEYS)
def test_a_bad_config_names_file_and_key(micro, old, new, expected):
    micro.replace("config.yaml", old, new)
    message = refusal(micro)
    assert message.startswith(str(micro.folder / "config.yaml"))
    assert expected in message


def test_only_newlines_end_a_row(micro):
    # str.splitlines would cut this label in two at each of these.
    label = "DPO,\u2028seed\u2029 123"
    micro.set_cell("runs.tsv", "dpo_seed123", "label", label)
    assert micro.load().runs["dpo_seed123"].label == label


@pytest.mark.parametrize("newline", [b"\r\n", b"\r"])
def test_line_ends_and_byte_order_mark_of_other_systems_change_nothing(micro, newline):
    expected = micro.load()
    path = micro.folder / "runs.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", newline))
    assert micro.load() == expected


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        ("mcc", "key evaluation.suites: unknown data set 'mcc' (did you mean 'mc'?)"),
        ("sft_train", "'sft_train' is of kind demonstrations"),
    ],
)
def test_a_suite_is_an_entry_of_data_with_questions(micro, suite, expected):
    micro.replace("config.yaml", "suites: [arith, mc]", f"suites: [{suite}]")
    assert expected in refusal(micro)


def test_table3_of_a_released_model_is_refused(micro):
    micro.replace("config.yaml", "models:", 'models:\n  released: {source: "hf:owner/name"}')
    micro.set_cell("pairs.tsv", "dpo_vs_sub", "init", "released")
    assert "column items: " in refusal(micro)
    assert "compares two runs, 'released' is a model" in refusal(micro)


def test_defaults_are_filled(micro):
    config = load_config([micro.folder / "config.yaml"])
    assert config["cached"] is False
    assert config["measure"]["tolerances"] == [1e-8, 1e-7, 1e-6, 1e-5, 1e-4]
    wanted = {"mem_mb": 1500, "runtime": 60, "threads": 1, "gpus": 0, "nodes": 1, "disk_mb": 0}
    assert config["resources"]["train"] == wanted
    assert config["models"]["tiny"]["architecture"]["num_key_value_heads"] == 1
    assert "style" not in config["data"]["mc"]


def test_a_later_file_lies_over_an_earlier_one(micro):
    over = micro.root / "over.yaml"
    over.write_text("recipes: {rl: {steps: 7}}\n", encoding="utf-8")
    config = load_config([micro.folder / "config.yaml", over])
    assert config["recipes"]["rl"]["steps"] == 7
    assert config["recipes"]["rl"]["batch_size"] == 8
    over.write_text("recipes: {rl: {steps: x}}\n", encoding="utf-8")
    with pytest.raises(SheetError, match=r"over.yaml, key recipes.rl.steps: expected a whole"):
        load_config([micro.folder / "config.yaml", over])


def test_a_model_named_at_the_top_is_the_model_called_own(micro):
    over = micro.root / "over.yaml"
    over.write_text("model: /models/mine\n", encoding="utf-8")
    models = load_config([micro.folder / "config.yaml", over])["models"]
    assert models["own"] == {"source": "/models/mine", "revision": "main", "bytes_per_parameter": 2}
    assert "tiny" in models
    over.write_text("model: ''\n", encoding="utf-8")
    with pytest.raises(SheetError, match=r"over.yaml, key model: "):
        load_config([micro.folder / "config.yaml", over])


def test_no_run_learns_from_problems_that_are_held_out(micro):
    micro.set_cell("runs.tsv", "dpo", "algorithm", "grpo")
    micro.set_cell("runs.tsv", "dpo", "data", "arith")
    assert "row 4 (dpo), column data: 'arith' is of split test, which is held out" in refusal(micro)
    micro.replace("config.yaml", "split: test, seed: 3", "split: train, seed: 3")
    assert micro.load().runs["dpo"].algorithm == "grpo"


@pytest.fixture
def online(micro):
    """Return the micro scale whose run `dpo` is one of GRPO."""
    micro.set_cell("runs.tsv", "dpo", "algorithm", "grpo")
    micro.set_cell("runs.tsv", "dpo", "data", "arith")
    micro.replace("config.yaml", "split: test, seed: 3", "split: train, seed: 3")
    return micro


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        ("accumulate=2 updates=8", "updates: expected updates * accumulate to divide batch_size 8"),
        ("accuracy_low=0.5 accuracy_high=0.4", "accuracy_low: expected at most accuracy_high 0.4"),
        ("gae_lambda=1", "gae_lambda: has no effect on grpo; used by ppo"),
        ("optimizer=sgd eps=1e-6", "eps: has no effect on optimizer sgd; used by adamw"),
        ("optimizer=sgd weight_decay=0.1", "weight_decay: expected 0 with optimizer sgd"),
    ],
)
def test_recipe_keys_of_an_online_run_are_checked_against_each_other(online, overrides, fault):
    online.set_cell("runs.tsv", "dpo", "set", overrides)
    assert f"row 4 (dpo), column set: {fault}" in refusal(online)


def test_prime_under_sgd_needs_a_rate_of_its_own_for_the_reward_model(online):
    online.set_cell("runs.tsv", "dpo", "algorithm", "prime")
    online.set_cell("runs.tsv", "dpo", "set", "optimizer=sgd")
    assert "row 4 (dpo), column set: reward_lr: expected a number" in refusal(online)
    online.set_cell("runs.tsv", "dpo", "set", "optimizer=sgd reward_lr=1e-5")
    assert online.load().runs["dpo"].algorithm == "prime"


def test_a_row_spells_out_recipe_overrides_and_architecture(micro):
    micro.set_cell("runs.tsv", "dpo", "set", "lr=1e-6 clip=null")
    scale = micro.load()
    row = scale.row("dpo").as_dict()
    assert row["recipe"]["lr"] == 1e-6
    assert row["recipe"]["clip"] is None
    assert row["recipe"]["steps"] == 3
    assert row["architecture"] is None
    assert scale.row("base").as_dict()["architecture"]["hidden_size"] == 16
    assert "label" not in row
    assert json.loads(json.dumps(row)) == row


def test_items_read_the_files_of_the_rows_that_name_them(micro):
    scale = micro.load()
    assert item_files(scale, "table1") == [
        "results/micro/updates/base_sft.csv",
        "results/micro/updates/dpo.csv",
    ]
    assert item_files(scale, "table4") == [
        "results/micro/overlap/seed.csv",
        "results/micro/updates/dpo.csv",
        "results/micro/updates/dpo_seed123.csv",
    ]
    # Full and sub, and the proof that sub left its frozen weights alone.
    assert item_files(scale, "fig4") == [
        "results/micro/metrics/dpo.csv",
        "results/micro/metrics/dpo_sub.csv",
        "results/micro/frozen/dpo_sub.csv",
    ]
    assert "results/micro/answers/dpo_sub.csv.gz" in item_files(scale, "table3")
    assert item_files(scale, "table5") == []


def test_every_item_reads_only_files_that_target_all_makes(repository):
    scale = load_scale(load_config([repository / "config/demo/config.yaml"]), repository)
    for item in ("table1", "table2", "table3", "table4", "table6", "section4", "fig1", "fig4"):
        files = item_files(scale, item)
        assert files
        assert set(files) <= set(results_files(scale))


def test_check_prints_counts_and_the_plan(micro, monkeypatch, capsys):
    monkeypatch.chdir(micro.root)
    assert main(["check", "--config", "config/micro/config.yaml"]) == 0
    output = capsys.readouterr().out
    assert "5 runs, 1 of them masked" in output
    assert "dpo_sub: dpo of sft on pairs inside the subnetwork of dpo" in output


def test_check_of_a_bad_sheet_is_one_line_and_exit_1(micro, monkeypatch, capsys):
    monkeypatch.chdir(micro.root)
    micro.set_cell("runs.tsv", "dpo", "init", "stf")
    assert main(["check", "--config", str(Path("config/micro/config.yaml"))]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "config/micro/runs.tsv, row 4 (dpo), column init" in error
