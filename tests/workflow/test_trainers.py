"""A recipe belongs to one trainer, which decides its keys, its algorithms and its data."""

import json

import pytest

from rlsubnet.config import SheetError, contamination_files
from rlsubnet.config.model import OpenInstructRecipe

DATA = """\
data:
  large_pairs: {kind: tulu_preferences, source: here}
  one: {kind: graded_prompts, source: here, grader: gsm8k}
  two: {kind: graded_prompts, source: here, grader: math}
  both: {kind: mixture, parts: [one, two]}
  items: {kind: eval_items, source: here, columns: {prompt: question}}
"""
RECIPES = """\
recipes:
  large: {backend: open_instruct, lr: 5.0e-7, beta: 5.0}
  online: {backend: verl, lr: 5.0e-7, batch_size: 64, samples: 4}
"""
MODELS = "models:\n  released: {source: 'hf:a/b'}\n"


@pytest.fixture
def large(micro):
    """Return the micro scale with a run of open-instruct and one of verl."""
    for heading, more in (("data", DATA), ("models", MODELS), ("recipes", RECIPES)):
        micro.replace("config.yaml", f"{heading}:\n", more)
    dpo = ("big", "dpo_norm", "released", "large_pairs", "large", "42", "", "accumulate=4")
    micro.add_row("runs.tsv", *dpo, "big")
    micro.add_row("runs.tsv", "prime", "prime", "released", "both", "online", "42", "", "", "")
    return micro


def refusal(sheets) -> str:
    with pytest.raises(SheetError) as caught:
        sheets.load()
    return str(caught.value)


def test_a_row_names_its_trainer_and_has_its_keys(large):
    scale = large.load()
    assert scale.runs_of("open_instruct") == ["big"]
    assert scale.runs_of("verl") == ["prime"]
    assert scale.runs_of("native") == ["base", "sft", "dpo", "dpo_sub", "dpo_seed123"]
    row = scale.row("big").as_dict()
    assert row["backend"] == "open_instruct"
    assert row["recipe"]["accumulate"] == 4
    assert list(row["recipe"]) == list(OpenInstructRecipe.model_fields)[1:]
    assert json.loads(json.dumps(row)) == row
    assert "backend" not in scale.row("dpo").as_dict()["recipe"]


def test_the_defaults_of_open_instruct_are_those_of_appendix_b():
    recipe = OpenInstructRecipe(backend="open_instruct", lr=5e-7, beta=5.0)
    assert (recipe.processes, recipe.per_process, recipe.accumulate) == (8, 1, 16)
    assert (recipe.batch_size, recipe.epochs, recipe.max_length) == (128, 1, 2048)
    assert (recipe.schedule, recipe.warmup_ratio, recipe.weight_decay) == ("linear", 0.1, 0)


def test_a_native_run_may_start_from_a_released_model(large):
    large.add_row("runs.tsv", "tuned", "dpo", "released", "pairs", "rl", "1", "", "", "tuned")
    assert large.load().backend_of("tuned") == "native"


@pytest.mark.parametrize(
    ("run", "column", "value", "expected"),
    [
        ("big", "set", "steps=3", "unknown key 'steps'"),
        ("big", "set", "backend=native", "unknown key 'backend'"),
        ("big", "set", "accumulate=many", "accumulate: expected a whole number of at least 1"),
        ("big", "set", "commit=main", "commit: found 'main', expected the full commit"),
        ("big", "algorithm", "simpo", "'large' is for open_instruct, which trains dpo, dpo_norm"),
        ("big", "data", "pairs", "dpo_norm of open_instruct learns from tulu_preferences or"),
        ("big", "data", "items", "'items' is of kind eval_items"),
        ("big", "recipe", "rl", "'large_pairs' is of kind tulu_preferences; dpo_norm learns from"),
        ("big", "init", "tiny", "column init: model 'tiny' is an architecture without weights"),
        ("prime", "algorithm", "ppo", "'online' is for verl, which trains prime, grpo"),
        ("prime", "data", "pairs", "prime of verl learns from graded_prompts"),
        ("prime", "set", "kl_coef=0.1", "kl_coef: has no effect on prime; used by grpo"),
        ("prime", "set", "beta=5.0", "unknown key 'beta'"),
        ("prime", "set", "reward_update=never", "reward_update: unknown value 'never'"),
        ("prime", "set", "per_process=3", "updates: expected 256 responses to be a multiple of"),
        (
            "prime",
            "set",
            "checkpoint_every=42",
            "steps: expected a number in a run with checkpoint",
        ),
    ],
)
def test_a_cell_that_does_not_fit_the_trainer_is_refused(large, run, column, value, expected):
    if column == "recipe":
        large.set_cell("runs.tsv", run, "set", "")
    large.set_cell("runs.tsv", run, column, value)
    message = refusal(large)
    assert f"({run}), column " in message
    assert expected in message


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
        ("[one, two]", "[one, tow]", "key data.both.parts: unknown data set 'tow' (did you mean"),
        ("[one, two]", "[one, items]", "of one kind, found graded_prompts, eval_items"),
        ("[one, two]", "[one, both]", "of one kind, found graded_prompts, mixture"),
        ("[one, two]", "[one, one]", "key data.both.parts: 'one' stands twice"),
    ],
)  # fmt: skip
def test_a_key_that_does_not_fit_is_refused(large, old, new, expected):
    large.replace("config.yaml", old, new)
    assert expected in refusal(large)


def test_weight_decay_in_a_masked_run_is_refused_for_every_trainer(large):
    large.set_cell("runs.tsv", "big", "mask", "dpo")
    large.set_cell("runs.tsv", "big", "set", "weight_decay=0.1")
    assert "(big), column set: weight_decay: expected 0 in a run with a mask" in refusal(large)


def test_a_process_needs_a_gpu(large):
    large.edit("config.yaml", lambda text: text + "resources: {train_open_instruct: {gpus: 4}}\n")
    expected = "processes: expected one per GPU, resources.train_open_instruct.gpus x nodes = 4"
    assert expected in refusal(large)
    large.set_cell("runs.tsv", "big", "set", "processes=4")
    assert large.load().runs["big"].set == "processes=4"


def test_only_evaluation_items_are_looked_for_in_prompts_of_mixtures_too(large):
    large.edit("config.yaml", lambda text: text + "contamination: {items: [items]}\n")
    assert contamination_files(large.load(), "prime") == ["results/micro/contamination/both.csv"]
    large.replace("config.yaml", "items: [items]", "items: [pairs]")
    assert "key contamination.items: 'pairs' is of kind demonstration_pairs" in refusal(large)
    large.replace("config.yaml", "items: [pairs]", "items: [itms]")
    assert "unknown data set 'itms' (did you mean 'items'?)" in refusal(large)
