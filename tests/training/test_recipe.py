import json
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from rlsubnet.config.model import RULES, Recipe, learning_rate, parse_row
from rlsubnet.config.scale import recipe_schemas

ROW: dict[str, Any] = {
    "run": "dpo",
    "algorithm": "dpo",
    "init": "sft",
    "data": "preferences",
    "recipe": {"steps": 200, "batch_size": 64, "lr": 3e-6},
    "seed": 42,
    "mask": "",
    "architecture": None,
    "wandb": {"mode": "disabled", "project": "rlsubnet"},
}


def changed(**changes: Any) -> str:
    return json.dumps(ROW | changes)


def test_a_row_becomes_a_recipe_with_all_defaults() -> None:
    row = parse_row("dpo", json.dumps(ROW))
    assert row.recipe == Recipe(steps=200, batch_size=64, lr=3e-6)
    assert (row.seed, row.mask, row.architecture) == (42, "", None)


def test_a_row_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "row.json"
    file.write_text(json.dumps(ROW))
    assert parse_row("dpo", f"@{file}") == parse_row("dpo", json.dumps(ROW))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "run dpo, --row: not JSON"),
        ("[1]", "expected a JSON object"),
        (changed(run="sft"), "key run: expected 'dpo', found 'sft'"),
        (changed(seed=-1), "key seed: expected a whole number of at least 0, found -1"),
        (changed(seed=True), "key seed"),
        (changed(speed=1), r"unknown keys \['speed'\]; known: run, algorithm"),
        (changed(mask=3), "key mask: found 3"),
        (changed(wandb={"mode": "on"}), "key wandb.mode: expected one of .* found 'on'"),
        (changed(recipe={"steps": 5}), r"recipe: missing keys \['batch_size', 'lr'\]"),
        (changed(recipe=ROW["recipe"] | {"lrr": 1}), r"recipe: unknown keys \['lrr'\]"),
        (changed(recipe=ROW["recipe"] | {"lr": "3e-6"}), "lr: expected a number above 0, found '3"),
        (changed(recipe=ROW["recipe"] | {"lr": float("nan")}), "lr: expected"),
        (changed(recipe=ROW["recipe"] | {"steps": 1.5}), "steps: expected a whole number"),
        (changed(recipe=ROW["recipe"] | {"steps": 0}), "steps: expected a whole number"),
        (changed(recipe=ROW["recipe"] | {"schedule": "cosine"}), "expected linear or constant"),
        (changed(recipe=ROW["recipe"] | {"clip": 0}), "clip: expected a number above 0, or null"),
        (changed(recipe=ROW["recipe"] | {"compute": "float16"}), "float32 or bfloat16"),
        (changed(recipe=ROW["recipe"] | {"mask_at": "never"}), "post_clip or pre_clip"),
        (changed(recipe=ROW["recipe"] | {"beta1": 1.0}), "from 0 to below 1, found 1.0"),
        (changed(recipe=ROW["recipe"] | {"gamma": -1}), "gamma: expected a number of at least 0"),
        (
            changed(recipe=ROW["recipe"] | {"odds_weight": 0}),
            "odds_weight: expected a number above",
        ),
        (changed(recipe=ROW["recipe"] | {"accumulate": 3}), "a divisor of batch_size 64, found 3"),
    ],
)
def test_a_bad_row_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_row("dpo", text)


def test_every_key_of_a_recipe_has_a_rule() -> None:
    assert [item.name for item in fields(Recipe)] == list(RULES)


def test_defaults_are_those_of_the_schema() -> None:
    schema = recipe_schemas("native")
    defaults = {item.name: item.default for item in fields(Recipe) if item.default is not MISSING}
    assert defaults == {
        key: value["default"] for key, value in schema.items() if "default" in value
    }
    assert [item.name for item in fields(Recipe)] == list(schema)


def test_a_constant_schedule_rises_and_stays() -> None:
    recipe = Recipe(steps=20, batch_size=1, lr=1.0, schedule="constant", warmup_ratio=0.2)
    rates = [learning_rate(recipe, step) for step in range(1, 21)]
    assert rates == [0.25, 0.5, 0.75, 1.0] + [1.0] * 16


def test_a_schedule_without_warm_up_starts_at_the_peak() -> None:
    recipe = Recipe(steps=4, batch_size=1, lr=1.0, warmup_ratio=0.0)
    # One step of warm-up at the peak, then 3/3, 2/3, 1/3.
    assert [learning_rate(recipe, step) for step in range(1, 5)] == [1.0, 1.0, 2 / 3, 1 / 3]


def test_a_run_of_one_step_has_the_peak_rate() -> None:
    assert learning_rate(Recipe(steps=1, batch_size=1, lr=0.5), 1) == 0.5
