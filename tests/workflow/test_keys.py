"""A key of a config stands in one place; what is made from it is up to date, and costs no run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from rlsubnet.config.model import Recipe, learning_rate

KEY = '    clip: Positive | None = key("largest norm of the gradient;'
NEW_KEY = '    novelty: Count = key("something new", 3)\n'


@pytest.fixture
def with_new_key(repository: Path, tmp_path: Path) -> Path:
    """Return a folder with a copy of the package whose native recipes have one key more."""
    folder = tmp_path / "new"
    shutil.copytree(repository / "workflow/rlsubnet", folder / "rlsubnet")
    file = folder / "rlsubnet/config/model.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace(KEY, NEW_KEY + KEY, 1), encoding="utf-8")
    return folder


def printed(code: str, package: Path, repository: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(package)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CHECK = """
from rlsubnet.cli import main
from rlsubnet.config import Scale, load_config, load_scale
files = ["config/demo/config.yaml"]
assert main(["check", "--config", *files]) == main(["plan", "--config", *files]) == 0
scale = load_scale(load_config(files))
for run in scale.runs:
    print(run, scale.row(run).provenance())
"""


def test_a_new_key_with_a_default_changes_no_check_no_plan_and_no_provenance(
    repository, with_new_key
):
    before = printed(CHECK, repository / "workflow", repository)
    assert "prime_sub {'run': 'prime_sub'" in before
    assert printed(CHECK, with_new_key, repository) == before
    assert "3" in printed(
        "from rlsubnet.config.model import Recipe;"
        "print(Recipe(steps=1, batch_size=1, lr=1.0).novelty)",
        with_new_key,
        repository,
    )


@pytest.mark.slow
def test_a_new_key_with_a_default_plans_nothing_again(finished, with_new_key, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(with_new_key), prepend=os.pathsep)
    assert finished.plan() == {}


def test_what_is_made_from_the_keys_is_up_to_date(repository, monkeypatch):
    monkeypatch.chdir(repository)
    monkeypatch.syspath_prepend(str(repository / "workflow/scripts"))
    import document_keys

    for path, content in document_keys.documents().items():
        assert path.read_text(encoding="utf-8") == content, f"{path}: run {document_keys.__file__}"


def another(key: str, value: Any) -> Any:
    """Return a value of a native recipe's key that fits all others of the demo's DPO."""
    match value:
        case bool():
            return not value
        case str():
            choices = get_args(Recipe.model_fields[key].annotation)
            return next(choice for choice in choices if choice != value)
        case int():
            return 2 * value or 4
    return (value or 1.0) / 2


def test_a_run_is_repeated_for_every_key_but_those_that_are_marked(demo):
    row, marks = demo.row("dpo"), Recipe.marked("changes")
    assert marks == {
        **dict.fromkeys(("save_every", "recompute"), "nothing"),
        # Files more of the same run.
        **dict.fromkeys(("checkpoint_every", "sparsity_every"), "files"),
    }
    for key in Recipe.model_fields.keys() - {"backend"}:
        recipe = row.recipe.but(**{key: another(key, getattr(row.recipe, key))})
        other = row.but(recipe=recipe)
        repeated = other.provenance() != row.provenance()
        assert repeated == (marks.get(key) != "nothing"), key
        # A killed run goes on only as what it was.
        assert repeated == (other.bits_follow_from() != row.bits_follow_from()), key
        assert (recipe.bits() != row.recipe.bits()) == (key not in marks), key
    assert row.but(wandb={"mode": "offline"}).provenance() == row.provenance()
    for key, value in {"seed": 1, "mask": "dpo", "init": "base", "algorithm": "kto"}.items():
        assert row.but(**{key: value}).provenance() != row.provenance(), key


def test_learning_rates_by_hand():
    def rates(steps: int, warmup_ratio: float, schedule: str = "linear") -> list[float]:
        keys = {"warmup_ratio": warmup_ratio, "schedule": schedule}
        recipe = Recipe(steps=steps, batch_size=1, lr=1.0, **keys)
        return [learning_rate(recipe, step) for step in range(1, steps + 1)]

    assert rates(20, 0.2, "constant") == [0.25, 0.5, 0.75, 1.0] + [1.0] * 16
    # One step of warm-up at the peak, then 3/3, 2/3, 1/3.
    assert rates(4, 0.0) == [1.0, 1.0, 2 / 3, 1 / 3]
    assert rates(1, 0.1) == [1.0]
