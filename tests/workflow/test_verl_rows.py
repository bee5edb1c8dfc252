"""What rows and data sets of verl must be, found before any job starts."""

import pytest

from rlsubnet.config import SheetError

DATA = """\
data:
  one: {kind: graded_prompts, source: here, grader: gsm8k}
  two: {kind: graded_prompts, source: here, grader: math}
  both: {kind: mixture, parts: [one, two]}
  items: {kind: eval_items, source: here, columns: {prompt: question}}
"""
RECIPES = """\
recipes:
  online: {backend: verl, lr: 5.0e-7, batch_size: 64, samples: 4}
"""


@pytest.fixture
def verl(micro):
    """Return the micro scale with a run `big` of verl, from a released model."""
    micro.replace("config.yaml", "data:\n", DATA)
    micro.replace("config.yaml", "models:\n", "models:\n  released: {source: 'hf:a/b'}\n")
    micro.replace("config.yaml", "recipes:\n", RECIPES)
    row = ("big", "prime", "released", "both", "online", "42", "", "", "big")
    micro.add_row("runs.tsv", *row)
    return micro


def refusal(sheets) -> str:
    with pytest.raises(SheetError) as caught:
        sheets.load()
    return str(caught.value)


def test_a_run_of_verl_learns_from_graded_prompts_and_from_mixtures_of_them(verl):
    assert verl.load().runs_of("verl") == ["big"]
    verl.set_cell("runs.tsv", "big", "data", "one")
    assert verl.load().mixtures == ["both"]


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("algorithm", "ppo", "'online' is for verl, which trains prime, grpo; the row's algorithm"),
        ("data", "pairs", "'pairs' is of kind demonstration_pairs; prime of verl learns from"),
        ("set", "kl_coef=0.1", "column set: kl_coef: has no effect on prime; used by grpo"),
        ("set", "beta=5.0", "column set: unknown key 'beta'"),
        ("set", "reward_update=never", "column set: reward_update: unknown value 'never'"),
        ("set", "per_process=3", "updates: expected 256 responses to be a multiple of"),
        ("set", "checkpoint_every=42", "steps: expected a number in a run with checkpoint_every"),
    ],
)
def test_a_cell_that_does_not_fit_verl_is_refused(verl, column, value, expected):
    verl.set_cell("runs.tsv", "big", column, value)
    assert expected in refusal(verl)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("[one, tow]", "key data.both.parts: unknown data set 'tow' (did you mean 'two'?)"),
        ("[one, items]", "expected data sets of one kind, found graded_prompts, eval_items"),
        ("[one, both]", "expected data sets of one kind, found graded_prompts, mixture"),
    ],
)
def test_a_mixture_has_parts_of_one_kind(verl, parts, expected):
    verl.replace("config.yaml", "parts: [one, two]", f"parts: {parts}")
    assert expected in refusal(verl)


def test_a_mixture_is_asked_for_evaluation_items_as_its_parts_would_be(verl):
    from rlsubnet.config import contamination_files

    verl.edit("config.yaml", lambda text: text + "contamination: {items: [items]}\n")
    assert contamination_files(verl.load(), "big") == ["results/micro/contamination/both.csv"]
