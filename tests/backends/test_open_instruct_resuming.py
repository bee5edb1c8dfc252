"""What a killed run left: used where it is whole and its own, otherwise refused or removed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlsubnet.backends.open_instruct.command import Places
from rlsubnet.backends.open_instruct.training import go_on_or_begin, output_folder
from rlsubnet.backends.processes import mark_saved
from rlsubnet.backends.rows import open_instruct_row
from rlsubnet.config.model import OpenInstructRecipe, Row

INPUTS = {"init": "1a", "data": "2b", "mask": None}


@pytest.fixture
def row() -> Row[OpenInstructRecipe]:
    values = {
        **{"run": "dpo", "backend": "open_instruct", "algorithm": "dpo_norm", "init": "sft"},
        **{"data": "pairs", "recipe": {"backend": "open_instruct", "lr": 1e-3, "beta": 5.0}},
        **{"seed": 42, "mask": "", "architecture": None},
        "wandb": {"mode": "disabled", "project": "rlsubnet"},
    }
    return open_instruct_row("dpo", json.dumps(values))


@pytest.fixture
def places(tmp_path: Path) -> Places:
    files = {name: tmp_path / name for name in ("checkout", "python", "init", "data", "scratch")}
    files["scratch"].mkdir()
    (files["scratch"] / "lock").touch()  # as whoever goes on has done
    return Places(**files)


Leave = Callable[..., Path]


@pytest.fixture
def leave(row: Row[OpenInstructRecipe], places: Places) -> Leave:
    """Return a function that leaves a save of a step, marked or not, as a killed run does."""
    assert go_on_or_begin(row, places, INPUTS) == 0

    def save(step: int, marked: bool = True) -> Path:
        folder = output_folder(row, places) / f"step_{step}"
        (folder / "pytorch_model").mkdir(parents=True)
        (folder / "pytorch_model" / "rank_0.pt").write_bytes(b"moments")
        if marked:
            mark_saved(folder, {"step": step, "metrics": []})
        else:
            (folder / "COMPLETED").write_text("COMPLETED")  # the script's word alone
        return folder

    return save


def left(places: Places) -> set[str]:
    return {
        str(path.relative_to(places.scratch))
        for path in places.scratch.rglob("*")
        if path.is_file()
    }


def test_without_a_save_that_is_whole_nothing_is_kept(
    row: Row[OpenInstructRecipe], places: Places, leave: Leave
) -> None:
    leave(2, marked=False)
    (places.scratch / "tokenized").mkdir()
    (places.scratch / "tokenized" / "pairs.arrow").write_text("half")
    assert go_on_or_begin(row, places, INPUTS) == 0
    assert left(places) == {"lock", "belongs_to.json"}


def test_the_newest_save_that_is_whole_is_all_that_is_kept_of_the_output(
    row: Row[OpenInstructRecipe], places: Places, leave: Leave
) -> None:
    for step, marked in ((8, True), (10, True), (12, False)):
        leave(step, marked)
    for name in ("output/dpo__42/pytorch_model.bin", "records/report.json", "tokenized/a.arrow"):
        (places.scratch / name).parent.mkdir(exist_ok=True)
        (places.scratch / name).write_text("left")
    (places.output / "dpo__42__1747340000").mkdir()
    assert go_on_or_begin(row, places, INPUTS) == 10
    save = "output/dpo__42/step_10"
    kept = {f"{save}/pytorch_model/rank_0.pt", f"{save}/saved.json", f"{save}/COMPLETED"}
    assert left(places) == {"lock", "belongs_to.json", "tokenized/a.arrow", *kept}
    assert [path.name for path in places.output.iterdir()] == ["dpo__42"]
    # Once more: a run may be killed before it saves again.
    assert go_on_or_begin(row, places, INPUTS) == 10


def test_a_save_of_another_row_or_other_inputs_is_refused(
    row: Row[OpenInstructRecipe], places: Places, leave: Leave
) -> None:
    leave(2)
    with pytest.raises(ValueError, match=r"seed was 42 and is 123; delete"):
        go_on_or_begin(row.but(seed=123), places, INPUTS)
    other = row.but(recipe=row.recipe.but(lr=2e-3))
    with pytest.raises(ValueError, match=r": recipe\.lr was 0\.001 and is 0\.002; delete"):
        go_on_or_begin(other, places, INPUTS)
    with pytest.raises(
        ValueError, match=f"sha256.data was '2b' and is '3c'; delete {places.scratch} to"
    ):
        go_on_or_begin(row, places, {**INPUTS, "data": "3c"})
    assert (output_folder(row, places) / "step_2" / "saved.json").exists()


def test_how_often_a_run_saves_and_logs_may_change(
    row: Row[OpenInstructRecipe], places: Places, leave: Leave
) -> None:
    leave(2)
    other = row.but(recipe=row.recipe.but(save_every=7), wandb={"mode": "offline"})
    assert go_on_or_begin(other, places, INPUTS) == 2


@pytest.mark.parametrize(
    ("damage", "found"),
    [(lambda file: file.write_bytes(b"mom"), "3 bytes"), (lambda file: file.unlink(), "none")],
)
def test_a_save_that_was_cut_short_afterwards_is_refused(
    row: Row[OpenInstructRecipe],
    places: Places,
    leave: Leave,
    damage: Callable[[Path], None],
    found: str,
) -> None:
    file = leave(2) / "pytorch_model" / "rank_0.pt"
    damage(file)
    message = f"{file}: damaged: 7 bytes were saved, found {found}; delete {places.scratch} to"
    with pytest.raises(ValueError, match=message):
        go_on_or_begin(row, places, INPUTS)
