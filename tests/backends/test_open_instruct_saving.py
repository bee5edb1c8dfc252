"""The script's saves around stand-ins for script, engine and accelerate."""

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rlsubnet.backends.open_instruct import saving
from rlsubnet.backends.open_instruct.saving import LauncherError, Saver, complete_saves
from rlsubnet.backends.processes import is_marked, read_marker
from rlsubnet.files import read_jsonl, write_jsonl

pytestmark = pytest.mark.usefixtures("one_process")

# Two epochs of three batches; the last batch of each has one pair less.
CHOSEN = [[torch.tensor([-1.0, -2.0]), torch.tensor([-3.0, -4.0]), torch.tensor([-5.0])]] * 2
REJECTED = [[10 * batch for batch in epoch] for epoch in CHOSEN]


class Process:
    """One start of the script on one process, with a saver; states are folders below ``root``."""

    def __init__(self, root: Path) -> None:
        self.computed = 0
        self.weight = torch.nn.Parameter(torch.zeros(2))
        self.optimizer = torch.optim.AdamW([self.weight])
        self.engine = types.SimpleNamespace(
            global_steps=0,
            gradient_accumulation_steps=lambda: 3,
            optimizer=types.SimpleNamespace(optimizer=self.optimizer),
        )
        self.script = types.SimpleNamespace(
            args=types.SimpleNamespace(output_dir=str(root / "dpo__42__1747340000")),
            get_cache_ref_logprobs=self.compute,
            clean_last_n_checkpoints=None,
        )
        self.accelerator = types.SimpleNamespace(wait_for_everyone=lambda: None)
        self.saver = Saver(steps=root / "steps.jsonl")
        self.saver.adopt(self.engine, self.script)
        self.output = Path(self.script.args.output_dir)

    def compute(self, *arguments: Any) -> Any:
        self.computed += 1
        return CHOSEN, REJECTED

    def reference(
        self,
        last_save: str | None,
        batches: int | None,
        epochs: range,
        loader: Sequence[int] = (1, 2, 3),
    ) -> Any:
        average = True
        return self.script.get_cache_ref_logprobs(
            None, loader, self.accelerator, average, last_save, batches, epochs, None
        )

    def update(self, step: int) -> None:
        self.weight.grad = torch.ones(2)
        self.optimizer.step()
        self.engine.global_steps = step
        before = read_jsonl(self.saver.steps) if self.saver.steps.exists() else []
        write_jsonl(self.saver.steps, [*before, {"step": step}])

    def save(self, step: int) -> Path:
        def save_state(accelerator: Any, output_dir: str) -> None:
            Path(output_dir).mkdir(parents=True)
            torch.save(self.optimizer.state_dict(), Path(output_dir) / "state.pt")
            assert not is_marked(Path(output_dir))

        folder = self.output / f"step_{step}"
        self.saver.save(save_state, self.accelerator, str(folder))
        return folder

    def load(self, folder: Path, moments: bool = True, steps: bool = True) -> None:
        def load_state(accelerator: Any, input_dir: str) -> None:
            state = torch.load(Path(input_dir) / "state.pt", weights_only=True)
            if moments:
                self.optimizer.load_state_dict(state)
            if steps:
                self.engine.global_steps = int(folder.name.removeprefix("step_"))

        self.saver.load(load_state, self.accelerator, str(folder))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Return the save of a process that was killed one step later."""
    process = Process(tmp_path)
    process.reference(None, None, range(2))
    process.update(1)
    process.update(2)
    folder = process.save(2)
    process.update(3)
    return folder


def numbers(reference: Any) -> list[list[list[float]]]:
    return [[batch.tolist() for batch in epoch] for epoch in reference]


def test_a_save_lists_its_files_and_the_steps_until_then(tmp_path, saved):
    assert saved == tmp_path / "dpo__42" / "step_2"  # without the time of the start
    told = read_marker(saved)
    assert sorted(told["bytes"]) == ["reference_0.pt", "state.pt"]
    assert (told["step"], told["metrics"]) == (2, [{"step": 1}, {"step": 2}])
    assert told["environment"]["packages"]["torch"] == torch.__version__


def test_a_start_takes_steps_and_reference_from_its_save(tmp_path, saved):
    assert len(read_jsonl(tmp_path / "steps.jsonl")) == 3
    process = Process(tmp_path)
    process.load(saved)
    assert read_jsonl(tmp_path / "steps.jsonl") == [{"step": 1}, {"step": 2}]
    assert process.saver.done == 2
    chosen, rejected = process.reference("step_2", 2, range(2))
    # Two batches of the first epoch are done; the script counts epochs from the first in any case.
    assert numbers(chosen) == [[[-5.0]], [[-1.0, -2.0], [-3.0, -4.0], [-5.0]]]
    assert numbers(rejected) == [[[-50.0]], [[-10.0, -20.0], [-30.0, -40.0], [-50.0]]]
    chosen, _ = process.reference("step_2", 1, range(1, 2))
    assert numbers(chosen)[1] == [[-3.0, -4.0], [-5.0]]
    assert process.computed == 0
    # The next save holds all of it again.
    process.update(3)
    other = Process(tmp_path)
    other.load(process.save(3))
    chosen, _ = other.reference("step_3", 0, range(2))
    assert numbers(chosen) == numbers(CHOSEN)


def test_batches_are_left_out_in_the_first_epoch_alone(tmp_path):
    saver = Process(tmp_path).saver

    def leave_out(accelerator: Any, loader: list[int], count: int) -> list[int]:
        return loader[count:]

    assert saver.skip(leave_out, None, [1, 2, 3], num_batches=2) == [3]
    assert saver.skip(leave_out, None, [1, 2, 3], num_batches=2) == [1, 2, 3]


def test_all_saves_but_the_newest_are_removed_by_the_first_process_and_none_at_the_end(
    tmp_path, saved
):
    process = Process(tmp_path)
    process.load(saved)
    process.reference("step_2", 2, range(2))
    process.update(10)
    newest = process.save(10)
    half = process.output / "step_11"
    half.mkdir()
    assert complete_saves(process.output) == [saved, newest]
    notes, process.saver.steps = process.saver.steps, None  # as in the other processes
    process.script.clean_last_n_checkpoints(str(process.output), 0)
    assert not is_marked(process.save(12))
    assert saved.is_dir()
    process.saver.steps = notes
    for keep in (1, 0):
        process.script.clean_last_n_checkpoints(str(process.output), keep_last_n_checkpoints=keep)
        assert {newest, half} <= set(process.output.iterdir())
        assert not saved.exists()


def test_a_save_of_another_environment_is_refused(tmp_path, saved, monkeypatch):
    monkeypatch.setattr(saving, "describe_environment", lambda packages: {"device": "other"})
    with pytest.raises(LauncherError, match=r"saved in another environment, .*'other'.*; delete"):
        Process(tmp_path).load(saved)


@pytest.mark.parametrize(
    ("loaded", "found"),
    [({"moments": False}, r"found \(2, set\(\)\)"), ({"steps": False}, r"found \(0, \{2\}\)")],
)
def test_a_state_that_was_not_loaded_whole_is_refused(tmp_path, saved, loaded, found):
    with pytest.raises(LauncherError, match=f"engine and moments after step 2, {found}"):
        Process(tmp_path).load(saved, **loaded)


def test_a_start_that_passes_its_save_over_is_refused(tmp_path, saved):
    with pytest.raises(LauncherError, match="step_2: the script did not go on from it"):
        Process(tmp_path).reference(None, None, range(2))
    with pytest.raises(LauncherError, match="found a save and loaded none"):
        Process(tmp_path).reference("step_2", 2, range(2))


def test_an_epoch_that_ends_within_an_update_is_refused_before_the_first_step(tmp_path):
    process = Process(tmp_path)
    message = "2 epochs of 4 batches a process, of which 3 make an update: expected a multiple of 3"
    with pytest.raises(LauncherError, match=message):
        process.reference(None, None, range(2), loader=(1, 2, 3, 4))
    assert process.computed == 0
    process.reference(None, None, range(1), loader=(1, 2, 3, 4))  # nothing follows
