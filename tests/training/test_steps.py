"""The models that a run saves along its way."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from rlsubnet.backends.processes import LOCK
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta import PatchedCheckpoint, find_steps, open_steps, unpack
from rlsubnet.checkpoints.masks import Mask
from rlsubnet.checkpoints.sources import FileSource
from rlsubnet.training.journal import STATE, StepSaver
from tests.checkpoints.checkpoint_files import write_checkpoint
from tests.training.online_runs import online_row
from tests.training.training_runs import bits, interrupted, row, run_training

Train = Callable[..., Path]
# Step k of such a run does not depend on how many follow.
CONSTANT = {"schedule": "constant", "warmup_ratio": 0.0}


def saved(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of the folder of saved steps."""
    return {path.name: path.read_bytes() for path in sorted((folder / "steps").iterdir())}


def names(*steps: int) -> list[str]:
    return [f"step-{step:06d}.delta" for step in steps]


@pytest.mark.parametrize("algorithm", ["sft", "dpo"])
def test_a_saved_step_is_the_model_of_a_run_that_ends_there(train, base, tmp_path, algorithm):
    whole = train(row(algorithm, checkpoint_every=2, **CONSTANT), "whole")
    assert list(saved(whole)) == names(2, 4, 6)
    steps = open_steps(Checkpoint(base), find_steps([whole / "steps"]))
    for count in (2, 4, 6):
        short = train(row(algorithm, steps=count, **CONSTANT), f"short{count}")
        assert steps[count].digest() == Checkpoint(short / "final").digest()
    path = find_steps([whole / "steps"])[6]
    unpack(FileSource(base), path, tmp_path / "unpacked")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "unpacked" / name).read_bytes() == (
            whole / "final" / name
        ).read_bytes(), name


def test_an_online_run_saves_the_steps_after_which_it_draws_again(train, policy):
    what = {"steps": 4, "updates": 2, "lr": 1e-2, **CONSTANT}
    whole = train(online_row("ppo", checkpoint_every=2, **what), "whole")
    assert list(saved(whole)) == names(2, 4)
    short = train(online_row("ppo", **{**what, "steps": 2}), "short")
    steps = open_steps(Checkpoint(policy), find_steps([whole / "steps"]))
    assert steps[2].digest() == Checkpoint(short / "final").digest()
    assert steps[4].digest() == Checkpoint(whole / "final").digest()
    assert steps[2].digest() != steps[4].digest()


def test_saving_steps_changes_no_bit_of_the_run(train):
    assert bits(train(row("dpo", checkpoint_every=1), "saving")) == bits(train(row("dpo"), "plain"))


def test_a_masked_run_saves_steps_that_differ_inside_the_mask(train, base, mask):
    folder = train(row("dpo", mask="quarter", checkpoint_every=3, lr=1e-2), mask=mask)
    init, inside = Checkpoint(base), Mask(mask)
    for path in find_steps([folder / "steps"]).values():
        step, moved = PatchedCheckpoint(init, path), 0
        for name in init.tensors:
            changed = step.read(name) != init.read(name)
            assert not (changed & ~inside.read(name)).any()
            moved += int(changed.sum())
        assert moved > 0


def test_until_a_run_is_complete_its_steps_lie_beside_its_state(monkeypatch, train, tmp_path):
    what = row("sft", save_every=2, checkpoint_every=1)
    interrupted(train, what, after=5)
    run = tmp_path / "run"
    assert sorted(path.name for path in run.iterdir()) == ["resume"]
    assert sorted(path.name for path in (run / "resume").iterdir()) == [LOCK, STATE, "steps"]
    assert list(saved(run / "resume")) == names(1, 2, 3, 4, 5)
    # A kill amid writing leaves a temporary file behind.
    (run / "resume" / "steps" / ".step-000006.delta.1.partial").write_bytes(b"half")
    resumed, undisturbed = train(what, "run"), train(what, "undisturbed")
    assert saved(resumed) == saved(undisturbed)
    assert bits(resumed) == bits(undisturbed)
    assert not (run / "resume").exists()


def test_a_run_that_begins_again_drops_the_steps_of_the_one_before(monkeypatch, train):
    interrupted(train, row("sft", save_every=0, checkpoint_every=1), after=5)
    folder = train(row("sft", save_every=0, checkpoint_every=3), "run")
    assert list(saved(folder)) == names(3, 6)


def test_a_state_whose_saved_steps_are_gone_is_refused(monkeypatch, train, tmp_path):
    what = row("sft", save_every=4, checkpoint_every=2)
    interrupted(train, what, after=5)
    (tmp_path / "run" / "resume" / "steps" / names(2)[0]).unlink()
    with pytest.raises(ValueError, match=r"step 4, but .*missing: step-000002.*delete .*resume "):
        train(what, "run")


def test_a_last_step_that_is_not_the_final_model_is_an_error(monkeypatch, train, tmp_path):
    save = StepSaver.save
    # The last file would then hold the weights of the step before.
    monkeypatch.setattr(StepSaver, "save", lambda saver, step: save(saver, step + 1))
    with pytest.raises(ValueError, match=r"step-000006.*expected the weights of the final model"):
        train(row("sft", checkpoint_every=2))
    assert not (tmp_path / "run" / "final").exists()


@pytest.mark.parametrize(
    ("every", "fault"), [(4, "a divisor of steps 6 .*, found 4"), (3, "of updates 2, found 3")]
)
def test_steps_that_leave_out_the_last_or_lie_amid_a_batch_are_refused(every, fault):
    with pytest.raises(ValueError, match=f"checkpoint_every: expected .*{fault}"):
        row("sft", checkpoint_every=every, updates=2)


def test_an_init_that_is_not_stored_in_bfloat16_is_refused(data, base, tmp_path):
    init = tmp_path / "init"
    shutil.copytree(base, init)
    stored = load_file(base / "model.safetensors")
    single = {name: tensor.float() for name, tensor in stored.items()}
    config = (init / "config.json").read_text()
    write_checkpoint(init, single)
    (init / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"expected BF16 \[.*\], found F32 \["):
        run_training(
            row("sft", checkpoint_every=2),
            data["sft"],
            *(tmp_path / "r", tmp_path / "f", tmp_path / "m"),
            init,
            steps=tmp_path / "s",
        )
