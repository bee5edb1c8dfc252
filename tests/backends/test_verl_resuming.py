"""What a run on verl saves, and how one that was killed goes on. Needs no verl."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlsubnet.backends.processes import mark_saved
from rlsubnet.backends.verl.command import Places
from rlsubnet.backends.verl.saves import Save, finished_saves, logged_steps, save_folder
from rlsubnet.backends.verl.training import Keeper, resume_or_start
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta import PatchedCheckpoint
from tests.checkpoints.checkpoint_files import make_weights, nudge, write_checkpoint


def saved(scratch: Path, *steps: int, resumable: tuple[int, ...] = (), last: int = 0) -> None:
    for step in steps:
        folder = save_folder(scratch / "saves", step)
        (folder / "actor").mkdir(parents=True)
        (folder / "actor" / "model.pt").write_text(f"weights of step {step}")
        mark_saved(folder, {"resumable": step in resumable, "last": step == last})
    log(scratch, steps[-1])


def log(scratch: Path, count: int) -> None:
    lines = (json.dumps({"step": step, "data": {}}) + "\n" for step in range(1, count + 1))
    (scratch / "steps.jsonl").write_text("".join(lines))


def test_a_save_counts_once_it_is_marked_and_its_step_is_logged(tmp_path):
    saves = tmp_path / "saves"
    assert finished_saves(saves, 200) == []
    saved(tmp_path, 20, 100, 120, resumable=(100,))
    (saves / "global_step_140" / "actor").mkdir(parents=True)  # killed while it was written
    found = finished_saves(saves, logged_steps(tmp_path / "steps.jsonl"))
    assert [(save.step, save.resumable) for save in found] == [(20, 0), (100, 1), (120, 0)]
    assert [save.step for save in finished_saves(saves, 119)] == [20, 100]


def test_a_line_that_was_cut_off_is_no_step_of_the_log(tmp_path):
    log(tmp_path, 3)
    path = tmp_path / "steps.jsonl"
    path.write_text(path.read_text()[:-1])
    assert logged_steps(path) == 2
    assert logged_steps(tmp_path / "absent") == 0


# Going on.

ROW = {"run": "r", "seed": 42, "wandb": {"mode": "disabled"}, "recipe": {"save_every": 4}}


def begun(scratch: Path, belongs_to: dict[str, Any] = ROW) -> Save | None:
    places = Places(scratch / "init", scratch)
    places.package.mkdir(parents=True, exist_ok=True)
    return resume_or_start(places, belongs_to)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_goes_on_from_its_newest_whole_save_and_forgets_what_came_later(tmp_path):
    assert begun(tmp_path) is None
    saved(tmp_path, 3, 4, 6, 7, resumable=(4, 7))
    log(tmp_path, 6)  # killed between saving step 7 and logging it
    with (tmp_path / "steps.jsonl").open("a") as stream:
        stream.write('{"step": 7, "da')
    (tmp_path / "saves" / "global_step_1").mkdir()
    # verl reads this wherever it goes on from, and fails if it was killed before it wrote a number.
    (tmp_path / "saves" / "latest_checkpointed_iteration.txt").touch()
    (tmp_path / "steps").mkdir()
    for name in ("step-000002.delta", "step-000006.delta", ".step-000003.delta.partial"):
        (tmp_path / "steps" / name).touch()
    for name in ("merged", ".final.partial", "huggingface"):
        (tmp_path / name).mkdir()
    save = begun(tmp_path)
    assert save is not None and (save.step, save.last) == (4, False)
    assert names(tmp_path / "saves") == {"global_step_3", "global_step_4"}, "3 is to be packed"
    assert names(tmp_path / "steps") == {"step-000002.delta"}
    assert len((tmp_path / "steps.jsonl").read_text().splitlines()) == 4
    assert names(tmp_path) == {"package", "saves", "steps", "steps.jsonl", "belongs_to.json"}


def test_weights_alone_are_nothing_to_go_on_from_but_those_of_the_last_step(tmp_path):
    begun(tmp_path)
    saved(tmp_path, 3, 6)
    assert begun(tmp_path) is None
    assert names(tmp_path) == {"package", "belongs_to.json"}
    saved(tmp_path, 4, 8, resumable=(4,), last=8)
    save = begun(tmp_path)
    assert save is not None and (save.step, save.last) == (8, True)


def test_saves_of_another_run_or_damaged_ones_are_refused(tmp_path):
    begun(tmp_path)
    saved(tmp_path, 4, resumable=(4,))
    with pytest.raises(ValueError, match=r"seed was 42 and is 7; delete .* to start from the beg"):
        begun(tmp_path, {**ROW, "seed": 7})
    with pytest.raises(ValueError, match=r"another run: recipe.lr was None and is 0.5; delete "):
        begun(tmp_path, {**ROW, "recipe": {**ROW["recipe"], "lr": 0.5}})
    weights = tmp_path / "saves" / "global_step_4" / "actor" / "model.pt"
    weights.write_text("weights")
    with pytest.raises(
        ValueError, match=r"model.pt: damaged: 17 bytes .* 7 bytes; delete .* to start"
    ):
        begun(tmp_path)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model.pt: damaged: 17 bytes were saved, found none"):
        begun(tmp_path)


# Making room.


def keeper_of(tmp_path: Path, every: int) -> tuple[Checkpoint, Keeper]:
    weights = make_weights()
    init = Checkpoint(write_checkpoint(tmp_path / "init", weights))

    def merge(actor: Path, out: Path) -> None:
        write_checkpoint(out, nudge(weights, seed=int(actor.parent.name.rpartition("_")[2])))

    return init, Keeper(Places(init.path, tmp_path), every, merge)


def test_saves_become_deltas_and_disappear_while_the_newest_stays(tmp_path):
    init, keeper = keeper_of(tmp_path, every=2)
    saves, steps = tmp_path / "saves", tmp_path / "steps"
    saved(tmp_path, 2, 4)
    keeper.keep_finished()
    assert names(steps) == {"step-000002.delta"}
    assert names(saves) == {"global_step_4"}
    saved(tmp_path, 6, 7, last=7)
    assert keeper.finish(tmp_path / "final") == 7
    assert names(steps) == {f"step-00000{step}.delta" for step in (2, 4, 6, 7)}
    assert names(saves) == {"global_step_7"}, "so that it can be completed again"
    last = PatchedCheckpoint(init, steps / "step-000007.delta")
    assert last.digest() == Checkpoint(tmp_path / "final").digest()
    middle = PatchedCheckpoint(init, steps / "step-000004.delta")
    expected = nudge(make_weights(), seed=4)["lm_head.weight"].view(torch.int16).numpy()
    assert (middle.read("lm_head.weight") == expected.view("uint16")).all()
    # Killed after its delta was written, the run is completed with the same model.
    assert keeper.finish(tmp_path / "again") == 7
    assert Checkpoint(tmp_path / "again").digest() == last.digest()
    (steps / "step-000004.delta").unlink()
    with pytest.raises(ValueError, match=r"saved steps are missing: step-000004.delta; delete "):
        keeper.finish(tmp_path / "once more")


def test_the_newest_save_to_go_on_from_stays_and_is_packed_if_it_is_wanted(tmp_path):
    _, keeper = keeper_of(tmp_path, every=4)
    saves, steps = tmp_path / "saves", tmp_path / "steps"
    saved(tmp_path, 2, 4, 6, resumable=(2, 4))
    for _ in range(2):
        keeper.keep_finished()
        assert names(saves) == {"global_step_4", "global_step_6"}
        assert names(steps) == {"step-000004.delta"}, "2 was saved to go on from, not to keep"
    saved(tmp_path, 8, resumable=(8,))
    keeper.keep_finished()
    assert names(saves) == {"global_step_8"}


def test_a_run_that_did_not_save_its_last_step_is_an_error(tmp_path):
    _, keeper = keeper_of(tmp_path, every=0)
    with pytest.raises(ValueError, match="verl ended well and did not save its last step"):
        keeper.finish(tmp_path / "final")
    saved(tmp_path, 2, resumable=(2,))
    with pytest.raises(ValueError, match="verl ended well and did not save its last step"):
        keeper.finish(tmp_path / "final")
