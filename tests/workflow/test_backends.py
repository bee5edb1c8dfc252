"""A recipe belongs to one trainer, which decides its keys, its algorithms and its data."""

import json

import pytest

from rlsubnet.config import SheetError, resolved_row
from rlsubnet.config.model import OpenInstructRecipe

LARGE = """\
data:
  large_pairs: {kind: tulu_preferences, source: here}
  items: {kind: eval_items, source: here, columns: {prompt: question}}
"""


@pytest.fixture
def large(micro):
    """Return the micro scale with a run `big` of open-instruct, from a released model."""
    micro.replace("config.yaml", "data:\n", LARGE)
    micro.replace("config.yaml", "models:\n", "models:\n  released: {source: 'hf:a/b'}\n")
    micro.replace(
        "config.yaml",
        "recipes:\n",
        "recipes:\n  large: {backend: open_instruct, lr: 5.0e-7, beta: 5.0}\n",
    )
    micro.add_row(
        "runs.tsv",
        "big",
        "dpo_norm",
        "released",
        "large_pairs",
        "large",
        "42",
        "",
        "accumulate=4",
        "big",
    )
    return micro


def refusal(sheets) -> str:
    with pytest.raises(SheetError) as caught:
        sheets.load()
    return str(caught.value)


def test_a_row_names_its_trainer_and_has_its_keys(large):
    scale = large.load()
    assert scale.runs_of("open_instruct") == ["big"]
    assert scale.runs_of("native") == ["base", "sft", "dpo", "dpo_sub", "dpo_seed123"]
    row = resolved_row(scale, "big")
    assert row["backend"] == "open_instruct"
    assert row["recipe"]["accumulate"] == 4
    assert list(row["recipe"]) == list(OpenInstructRecipe.model_fields)[1:]
    assert json.loads(json.dumps(row)) == row


def test_the_defaults_are_those_of_appendix_b(large):
    recipe = resolved_row(large.load(), "big")["recipe"]
    assert (recipe["processes"], recipe["per_process"], recipe["epochs"]) == (8, 1, 1)
    assert OpenInstructRecipe.model_fields["accumulate"].default == 16
    assert (recipe["schedule"], recipe["warmup_ratio"], recipe["weight_decay"]) == (
        "linear",
        0.1,
        0,
    )
    assert recipe["max_length"] == 2048


def test_a_native_row_has_the_keys_it_always_had(micro):
    row = resolved_row(micro.load(), "dpo")
    assert row["backend"] == "native"
    assert "backend" not in row["recipe"]
    assert list(row["recipe"])[:3] == ["steps", "batch_size", "lr"]


def test_a_native_run_may_start_from_a_released_model(large):
    large.add_row("runs.tsv", "tuned", "dpo", "released", "pairs", "rl", "1", "", "", "tuned")
    assert large.load().backend_of("tuned") == "native"


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("set", "steps=3", "column set: unknown key 'steps'"),
        ("set", "backend=native", "column set: unknown key 'backend'"),
        ("set", "accumulate=many", "column set: accumulate: expected a whole number of at least 1"),
        ("set", "commit=main", "column set: commit: found 'main', expected the full commit"),
        ("algorithm", "simpo", "column recipe: 'large' is for open_instruct, which trains dpo, "
         "dpo_norm; the row's algorithm is simpo"),
        ("data", "pairs", "column data: 'pairs' is of kind demonstration_pairs; dpo_norm of "
         "open_instruct learns from tulu_preferences or rollout_pairs"),
        ("data", "items", "column data: 'items' is of kind eval_items"),
        ("recipe", "rl", "column data: 'large_pairs' is of kind tulu_preferences; dpo_norm learns "
         "from preferences or demonstration_pairs"),
        ("init", "tiny", "column init: model 'tiny' is an architecture without weights"),
    ],
)  # fmt: skip
def test_a_cell_that_does_not_fit_the_trainer_is_refused(large, column, value, expected):
    if column == "recipe":
        large.set_cell("runs.tsv", "big", "set", "")
    large.set_cell("runs.tsv", "big", column, value)
    assert expected in refusal(large)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("backend: open_instruct", "backend: opn_instruct", "key recipes.large.backend: unknown "
         "value 'opn_instruct' (did you mean 'open_instruct'?); known: native, open_instruct"),
        ("beta: 5.0}", "beta: 5.0, steps: 3}", "key recipes.large: unknown key 'steps'; known: "
         "backend, commit, processes"),
        (", beta: 5.0}", "}", "key recipes.large: missing key beta"),
        ("rl: {steps: 3", "rl: {processes: 8, steps: 3", "key recipes.rl: unknown key 'processes'"),
        ("source: here}\n", "sauce: here}\n", "key data.large_pairs: unknown key "
         "'sauce' (did you mean 'source'?)"),
        ("{prompt: question}", "{prmpt: question}", "key data.items.columns: unknown "
         "key 'prmpt' (did you mean 'prompt'?)"),
    ],
)  # fmt: skip
def test_a_key_of_another_trainer_is_refused(large, old, new, expected):
    large.replace("config.yaml", old, new)
    assert expected in refusal(large)


def test_weight_decay_in_a_masked_run_is_refused_for_every_trainer(large):
    large.set_cell("runs.tsv", "big", "mask", "dpo")
    large.set_cell("runs.tsv", "big", "set", "weight_decay=0.1")
    assert "row 7 (big), column set: weight_decay: expected 0 in a run with a mask" in refusal(
        large
    )


def test_a_process_needs_a_gpu(large):
    large.edit("config.yaml", lambda text: text + "resources: {train_open_instruct: {gpus: 4}}\n")
    expected = (
        "processes: expected one per GPU, resources.train_open_instruct.gpus x nodes = 4, found 8"
    )
    assert expected in refusal(large)
    large.set_cell("runs.tsv", "big", "set", "processes=4")
    assert large.load().runs["big"].set == "processes=4"


def test_only_evaluation_items_are_looked_for_in_prompts(large):
    large.edit("config.yaml", lambda text: text + "contamination: {items: [pairs]}\n")
    assert "key contamination.items: 'pairs' is of kind demonstration_pairs" in refusal(large)
    large.replace("config.yaml", "items: [pairs]", "items: [itms]")
    assert "unknown data set 'itms' (did you mean 'items'?)" in refusal(large)
