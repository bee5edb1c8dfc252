"""Each fault in a config or a sheet is refused, naming file, row and column."""

import json
from pathlib import Path

import pytest
import yaml

from rlsubnet.cli import main
from rlsubnet.config import SheetError, load_config
from rlsubnet.config.layout import item_files, results_files
from rlsubnet.config.model import OpenInstructRecipe
from tests.workflow.projects import OLMES, SAVING

REFUSED = yaml.safe_load(Path(__file__).with_name("refusals.yaml").read_text(encoding="utf-8"))
MORE = {
    "data": """
  drill: {kind: problems, per_level: [2, 1, 1, 1, 1], split: train, seed: 3}
  large_pairs: {kind: tulu_preferences, source: here}
  one: {kind: graded_prompts, source: here, grader: gsm8k}
  two: {kind: graded_prompts, source: here, grader: math}
  both: {kind: mixture, parts: [one, two]}
  items: {kind: eval_items, source: here, columns: {prompt: question}}
""",
    "models": """
  released: {source: 'hf:a/b'}
""",
    "recipes": """
  large: {backend: open_instruct, lr: 5.0e-7, beta: 5.0}
  online: {backend: verl, lr: 5.0e-7, batch_size: 64, samples: 4}
""",
}


@pytest.fixture
def large(micro):
    """Return the micro scale with a run of GRPO, one of open-instruct and one of verl."""
    for heading, more in MORE.items():
        micro.replace("config.yaml", f"{heading}:\n", heading + ":" + more)
    micro.add_row("runs.tsv", "grpo", "grpo", "sft", "drill", "rl", "42")
    big = ("big", "dpo_norm", "released", "large_pairs", "large", "42", "", "accumulate=4")
    micro.add_row("runs.tsv", *big)
    micro.add_row("runs.tsv", "prime", "prime", "released", "both", "online", "42")
    return micro


# The header is line 1 of each sheet.
LINES = {
    "runs": ("base", "sft", "dpo", "dpo_sub", SAVING, "grpo", "big", "prime"),
    "pairs": ("base_sft", "dpo", SAVING, "dpo_vs_sub"),
    "comparisons": ("seed",),
}


@pytest.mark.parametrize(("sheet", "row", "column", "value", "expected"), REFUSED["cells"])
def test_a_bad_cell_names_file_row_and_column(large, sheet, row, column, value, expected):
    large.set_cell(f"{sheet}.tsv", row, column, value)
    name = value if column == "run" else row
    place = f"{sheet}.tsv, row {2 + LINES[sheet].index(row)} ({name}), column {column}: "
    message = large.refusal()
    assert message.startswith(f"{large.folder}/{place}")
    assert expected in message


@pytest.mark.parametrize(("sheet", "row", "cells", "expected"), REFUSED["rows"])
def test_cells_that_do_not_go_together_are_refused(large, sheet, row, cells, expected):
    # dpo_sub waits for dpo (mask dpo: sft -> dpo), which must not wait for dpo_sub.
    large.add_row("pairs.tsv", "back", "sft", "dpo_sub", "DPO")
    for column, value in cells.items():
        large.set_cell(f"{sheet}.tsv", row, column, value)
    assert expected in large.refusal()


def test_what_is_refused_elsewhere_fits_here(large):
    large.set_cell("runs.tsv", "grpo", "algorithm", "prime")
    large.set_cell("runs.tsv", "grpo", "set", "optimizer=sgd reward_lr=1e-5")
    large.add_row("runs.tsv", "tuned", "dpo", "released", "pairs", "rl", "1")
    assert large.load().backend_of("tuned") == "native"


def test_a_cycle_through_init_is_shown_whole(micro):
    micro.replace("config.yaml", "kind: base_text, documents: 40, characters: 32,", "kind: "
                  "demonstrations, style: worked, problems: 4, split: train,")  # fmt: skip
    micro.set_cell("runs.tsv", "base", "algorithm", "sft")
    micro.set_cell("runs.tsv", "base", "init", "sft")
    message = micro.refusal()
    assert "column init: runs wait for each other in a circle: " in message
    circle = message.split("circle: ")[1].split(" -> ")
    assert circle in (["base", "sft", "base"], ["sft", "base", "sft"])


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
    assert expected in micro.refusal()


@pytest.mark.parametrize(("old", "new", "expected"), REFUSED["headers"])
def test_a_sheet_with_wrong_columns_is_refused(micro, old, new, expected):
    micro.replace("runs.tsv", old, new)
    assert f"{micro.folder / 'runs.tsv'}, {expected}" in micro.refusal()


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_a_sheet_without_a_header_is_refused(micro, text):
    micro.edit("pairs.tsv", lambda _: text)
    assert f"{micro.folder / 'pairs.tsv'}: empty, expected a header" in micro.refusal()


def test_sheets_with_only_a_header_are_an_empty_scale(micro):
    for name in ("runs.tsv", "pairs.tsv", "comparisons.tsv"):
        micro.edit(name, lambda text: text.splitlines()[0] + "\n")
    scale = micro.load()
    assert (scale.runs, scale.pairs, scale.comparisons) == ({}, {}, {})
    assert results_files(scale) == []


def test_comments_do_not_shift_row_numbers(micro):
    micro.edit("runs.tsv", lambda text: "# a comment\n\n" + text)
    micro.edit("runs.tsv", lambda text: text.replace("\tdpo\tsft\tpairs", "\tdop\tsft\tpairs", 1))
    assert "row 6 (dpo), column algorithm" in micro.refusal()


@pytest.mark.parametrize(("old", "new", "expected"), REFUSED["keys"])
def test_a_bad_config_names_file_and_key(large, old, new, expected):
    large.replace("config.yaml", old, new)
    message = large.refusal()
    # What keys say of each other is a fault of the scale.
    assert message.startswith((f"{large.folder}/config.yaml", "scale micro, key "))
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


def test_every_item_reads_only_files_that_target_all_makes(demo):
    for item in ("table1", "table2", "table3", "table4", "table6", "section4", "fig1", "fig4"):
        files = item_files(demo, item)
        assert files
        assert set(files) <= set(results_files(demo))


def test_check_prints_counts_and_the_plan_or_one_line_and_exit_1(micro, monkeypatch, capsys):
    monkeypatch.chdir(micro.root)
    words = ["check", "--config", "config/micro/config.yaml"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "5 runs, 1 of them masked" in lines
    assert "  dpo_sub: dpo of sft on pairs inside the subnetwork of dpo" in lines
    assert f"  {SAVING}: dpo of sft on pairs, saving steps" in lines
    assert sum("saving steps" in line for line in lines) == 1
    assert "saved steps are evaluated on arith" in lines
    micro.set_cell("runs.tsv", "dpo", "init", "stf")
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "config/micro/runs.tsv, row 4 (dpo), column init" in error


def test_figures_of_saved_steps_read_files_that_target_all_makes(micro):
    scale = micro.load()
    trajectory = f"results/micro/trajectory/{SAVING}.csv"
    scores = f"results/micro/step_scores/{SAVING}.csv"
    for item in ("fig2", "fig5", "fig6"):
        assert item_files(scale, item) == [trajectory]
    assert item_files(scale, "fig7") == [trajectory, scores]
    assert [file for file in results_files(scale) if "/trajectory/" in file] == [trajectory]
    assert scores in results_files(scale)
    # Without suites for steps nothing is evaluated, and the figure does not ask for it.
    micro.replace("config.yaml", "step_suites: [arith], ", "")
    assert item_files(micro.load(), "fig7") == [trajectory]
    assert scores not in results_files(micro.load())


def test_a_row_names_its_trainer_and_spells_out_recipe_and_architecture(large):
    large.set_cell("runs.tsv", "dpo", "set", "lr=1e-6 clip=null")
    scale = large.load()
    assert scale.runs_of("open_instruct") == ["big"]
    assert scale.runs_of("verl") == ["prime"]
    assert scale.runs_of("native") == [*LINES["runs"][:6]]
    big, dpo = (scale.row(run).as_dict() for run in ("big", "dpo"))
    assert (big["backend"], big["recipe"]["accumulate"]) == ("open_instruct", 4)
    assert list(big["recipe"]) == list(OpenInstructRecipe.model_fields)[1:]
    recipe = dpo["recipe"]
    assert (recipe["lr"], recipe["clip"], recipe["steps"]) == (1e-6, None, 3)
    assert not {"label", "backend"} & {*dpo, *recipe}
    assert dpo["architecture"] is None
    assert scale.row("base").as_dict()["architecture"]["hidden_size"] == 16
    for row in (big, dpo):
        assert json.loads(json.dumps(row)) == row


def test_the_defaults_of_open_instruct_are_those_of_appendix_b():
    recipe = OpenInstructRecipe(backend="open_instruct", lr=5e-7, beta=5.0)
    assert (recipe.processes, recipe.per_process, recipe.accumulate) == (8, 1, 16)
    assert (recipe.batch_size, recipe.epochs, recipe.max_length) == (128, 1, 2048)
    assert (recipe.schedule, recipe.warmup_ratio, recipe.weight_decay) == ("linear", 0.1, 0)


def test_a_process_needs_a_gpu(large):
    large.edit("config.yaml", lambda text: text + "resources: {train_open_instruct: {gpus: 4}}\n")
    expected = "processes: expected one per GPU, resources.train_open_instruct.gpus x nodes = 4"
    assert expected in large.refusal()
    large.set_cell("runs.tsv", "big", "set", "processes=4")
    assert large.load().runs["big"].set == "processes=4"


def test_every_node_has_as_many_processes(large):
    large.edit("config.yaml", lambda text: text + "resources: {train_open_instruct: {nodes: 3}}\n")
    expected = "processes: expected a multiple of resources.train_open_instruct.nodes = 3, found 8"
    assert expected in large.refusal()


@pytest.fixture
def olmes(large):
    large.replace("config.yaml", *OLMES)
    return large


def test_a_released_checkpoint_is_evaluated_where_a_gain_over_it_is_printed(olmes):
    olmes.set_cell("pairs.tsv", "base_sft", "init", "released")
    olmes.set_cell("pairs.tsv", "base_sft", "items", "table1,gains")
    scale = olmes.load()
    assert "results/micro/scores/released.csv" in item_files(scale, "gains")
    assert "results/micro/scores/released.csv" not in item_files(scale, "table1")


@pytest.mark.parametrize(("old", "new", "expected"), REFUSED["olmes"])
def test_a_mistake_in_the_block_is_named(olmes, old, new, expected):
    olmes.replace("config.yaml", old, new)
    assert expected in olmes.refusal()
