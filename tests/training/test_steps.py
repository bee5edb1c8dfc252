"""The models that a run saves along its way."""

import shutil
from pathlib import Path

import pytest

from rlsubnet.backends.processes import LOCK
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta import find_steps, open_steps, unpack
from rlsubnet.checkpoints.sources import FileSource
from rlsubnet.evaluation.loading import load_model
from rlsubnet.training.journal import STATE, StepSaver
from tests.training.online_runs import online_row
from tests.training.training_runs import bits, interrupted, row, run_training

# Step k of such a run does not depend on how many follow.
CONSTANT = {"schedule": "constant", "warmup_ratio": 0.0}


def saved(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of the folder of saved steps."""
    return {path.name: path.read_bytes() for path in sorted((folder / "steps").iterdir())}


def names(*steps: int) -> list[str]:
    return [f"step-{step:06d}.delta" for step in steps]


@pytest.mark.parametrize(
    "what",
    [
        row("sft", checkpoint_every=2, **CONSTANT),
        row("dpo", checkpoint_every=2, **CONSTANT),
        # It draws again after each of these steps.
        online_row("ppo", checkpoint_every=2, updates=2, lr=1e-2, **CONSTANT),
    ],
    ids=lambda what: what.run,
)
def test_a_saved_step_is_the_model_of_a_run_that_ends_there(train, base, policy, tmp_path, what):
    whole = train(what, "whole")
    assert list(saved(whole)) == names(2, 4, 6)
    init = policy if what.run == "ppo" else base
    files = find_steps([whole / "steps"])
    steps = open_steps(Checkpoint(init), files)
    for count in (2, 4, 6):
        short = train(what.but(recipe=what.recipe.but(steps=count, checkpoint_every=0)), str(count))
        assert steps[count].digest() == Checkpoint(short / "final").digest()
    assert bits(short) == bits(whole)  # saving changes no bit of a run
    unpack(FileSource(init), files[6], tmp_path / "unpacked")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        unpacked = (tmp_path / "unpacked" / name).read_bytes()
        assert unpacked == (whole / "final" / name).read_bytes(), name


def test_until_a_run_is_complete_its_steps_lie_beside_its_state(train, tmp_path):
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


def test_a_run_that_begins_again_drops_the_steps_of_the_one_before(train):
    interrupted(train, row("sft", save_every=0, checkpoint_every=1), after=5)
    folder = train(row("sft", save_every=0, checkpoint_every=3), "run")
    assert list(saved(folder)) == names(3, 6)


def test_a_state_whose_saved_steps_are_gone_is_refused(train, tmp_path):
    what = row("sft", save_every=4, checkpoint_every=2)
    interrupted(train, what, after=5)
    (tmp_path / "run" / "resume" / "steps" / names(2)[0]).unlink()
    with pytest.raises(ValueError, match=r"step 4, but .*missing: step-000002.*delete .*resume "):
        train(what, "run")


def test_a_last_step_that_is_not_the_final_model_is_an_error(monkeypatch, train, tmp_path):
    stored = StepSaver._stored_bits
    monkeypatch.setattr(StepSaver, "_stored_bits", lambda *one: stored(*one) ^ 1)
    with pytest.raises(ValueError, match=r"step-000006.*expected the weights of the final model"):
        train(row("sft", checkpoint_every=2))
    assert not (tmp_path / "run" / "final").exists()


def test_an_init_that_is_not_stored_in_bfloat16_is_refused(data, base, tmp_path):
    init = tmp_path / "init"
    shutil.copytree(base, init)
    load_model(base).save_pretrained(init)  # in float32
    what, places = row("sft", checkpoint_every=2), (tmp_path / name for name in "rfms")
    with pytest.raises(ValueError, match=r"expected BF16 \[.*\], found F32 \["):
        scratch, final, table, steps = places
        run_training(what, data["sft"], scratch, final, table, init, steps=steps)
