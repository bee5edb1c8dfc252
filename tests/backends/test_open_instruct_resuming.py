"""What a killed run left: used where it is whole and its own, otherwise refused or removed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from rlsubnet.backends.open_instruct.training import SCRIPT, OpenInstruct
from rlsubnet.backends.processes import mark_saved
from rlsubnet.config.layout import RunFiles
from rlsubnet.config.model import Row
from tests.backends.test_open_instruct_command import changed
from tests.sheets_of_row import checked_row

INPUTS = {"init": "1a", "data": "2b", "mask": None}


@pytest.fixture
def row(tmp_path: Path) -> Row:
    own = {"run": "dpo", "backend": "open_instruct", "algorithm": "dpo_norm", "init": "sft"}
    own |= {"data": "pairs", "recipe": {"lr": 1e-3, "beta": 5.0}, "seed": 42}
    return checked_row(tmp_path, own)


@pytest.fixture
def trainer(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenInstruct:
    checkout = tmp_path / "checkout"
    (checkout / SCRIPT).parent.mkdir(parents=True)
    (checkout / SCRIPT).touch()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "lock").touch()  # as whoever goes on has done
    files = RunFiles(*(tmp_path / name for name in ("data", "scratch", "final", "m")), tmp_path)
    return OpenInstruct(row, files, str(checkout))


def follows_from(row: Row, inputs: Mapping[str, str | None] = INPUTS) -> dict[str, Any]:
    return {**row.bits_follow_from(), "inputs_sha256": inputs}


Leave = Callable[..., Path]


@pytest.fixture
def leave(row: Row, trainer: OpenInstruct) -> Leave:
    """Return a function that leaves a save of a step, marked or not, as a killed run does."""
    assert trainer.resume_or_start(follows_from(row)) == 0

    def save(step: int, marked: bool = True) -> Path:
        folder = trainer.output / f"step_{step}"
        (folder / "pytorch_model").mkdir(parents=True)
        (folder / "pytorch_model" / "rank_0.pt").write_bytes(b"moments")
        if marked:
            mark_saved(folder, {"step": step, "metrics": []})
        else:
            (folder / "COMPLETED").write_text("COMPLETED")  # the script's word alone
        return folder

    return save


def left(trainer: OpenInstruct) -> set[str]:
    return {
        str(path.relative_to(trainer.places.scratch))
        for path in trainer.places.scratch.rglob("*")
        if path.is_file()
    }


def test_without_a_save_that_is_whole_nothing_is_kept(
    row: Row, trainer: OpenInstruct, leave: Leave
) -> None:
    leave(2, marked=False)
    (trainer.places.scratch / "tokenized").mkdir()
    (trainer.places.scratch / "tokenized" / "pairs.arrow").write_text("half")
    assert trainer.resume_or_start(follows_from(row)) == 0
    assert left(trainer) == {"lock", "belongs_to.json"}


def test_the_newest_save_that_is_whole_is_all_that_is_kept_of_the_output(
    row: Row, trainer: OpenInstruct, leave: Leave
) -> None:
    for step, marked in ((8, True), (10, True), (12, False)):
        leave(step, marked)
    for name in ("output/dpo__42/pytorch_model.bin", "records/report.json", "tokenized/a.arrow"):
        (trainer.places.scratch / name).parent.mkdir(exist_ok=True)
        (trainer.places.scratch / name).write_text("left")
    (trainer.places.output / "dpo__42__1747340000").mkdir()
    assert trainer.resume_or_start(follows_from(row)) == 10
    save = "output/dpo__42/step_10"
    kept = {f"{save}/pytorch_model/rank_0.pt", f"{save}/saved.json", f"{save}/COMPLETED"}
    assert left(trainer) == {"lock", "belongs_to.json", "tokenized/a.arrow", *kept}
    assert [path.name for path in trainer.places.output.iterdir()] == ["dpo__42"]
    # Once more: a run may be killed before it saves again.
    assert trainer.resume_or_start(follows_from(row)) == 10


def test_a_save_of_another_row_or_other_inputs_is_refused(
    row: Row, trainer: OpenInstruct, leave: Leave
) -> None:
    leave(2)
    with pytest.raises(ValueError, match=r"seed was 42 and is 123; delete"):
        trainer.resume_or_start(follows_from(row.but(seed=123)))
    other = changed(row, lr=2e-3)
    with pytest.raises(ValueError, match=r": recipe\.lr was 0\.001 and is 0\.002; delete"):
        trainer.resume_or_start(follows_from(other))
    with pytest.raises(
        ValueError, match=f"sha256.data was '2b' and is '3c'; delete {trainer.places.scratch} to"
    ):
        trainer.resume_or_start(follows_from(row, {**INPUTS, "data": "3c"}))
    assert (trainer.output / "step_2" / "saved.json").exists()


def test_how_often_a_run_saves_and_logs_may_change(
    row: Row, trainer: OpenInstruct, leave: Leave
) -> None:
    leave(2)
    other = changed(row, save_every=7).but(wandb={"mode": "offline"})
    assert trainer.resume_or_start(follows_from(other)) == 2


@pytest.mark.parametrize(
    ("damage", "found"),
    [(lambda file: file.write_bytes(b"mom"), "3 bytes"), (lambda file: file.unlink(), "none")],
)
def test_a_save_that_was_cut_short_afterwards_is_refused(
    row: Row, trainer: OpenInstruct, leave: Leave, damage: Callable[[Path], None], found: str
) -> None:
    file = leave(2) / "pytorch_model" / "rank_0.pt"
    damage(file)
    message = (
        f"{file}: damaged: 7 bytes were saved, found {found}; delete {trainer.places.scratch} to"
    )
    with pytest.raises(ValueError, match=message):
        trainer.resume_or_start(follows_from(row))
