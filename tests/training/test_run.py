"""Whole runs, from files to files."""

import filecmp
import os
import resource
import signal
import subprocess
import sys
import time
from operator import le
from typing import Any

import numpy as np
import pytest
import torch

from rlsubnet.backends.processes import LOCK
from rlsubnet.checkpoints.masks import Mask, save_mask
from rlsubnet.cli import main
from rlsubnet.config.model import ONLINE, Row
from rlsubnet.files import write_jsonl
from rlsubnet.training.journal import STATE
from rlsubnet.training.loop import ALGORITHMS
from tests.sheets_of_row import train_command
from tests.training.online_runs import online_row
from tests.training.training_runs import (
    bits,
    column,
    interrupted,
    metrics,
    row,
    run_training,
    weights,
)


def short(algorithm: str, **changes: Any) -> Row:
    """Return a row of any algorithm."""
    return online_row(algorithm, **changes) if algorithm in ONLINE else row(algorithm, **changes)


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, *ONLINE])
def test_a_row_trained_twice_gives_the_same_bits_and_another_seed_others(train, algorithm):
    one, two = (train(short(algorithm, steps=3), name) for name in ("one", "two"))
    assert bits(one) == bits(two)
    names = {path.name for path in (one / "final").iterdir()}
    assert filecmp.cmpfiles(one / "final", two / "final", names, shallow=False)[1:] == ([], [])
    assert bits(one) != bits(train(short(algorithm, steps=3, seed=4), "three"))


def test_metrics_hold_every_step_and_empty_cells_where_nothing_is_defined(train):
    columns = ["step", "loss", "reward", "kl", "grad_norm", "grad_norm_masked", "lr", "tokens"]
    lines = metrics(train(row("sft", steps=3)))
    assert list(lines[0]) == columns
    assert [line["step"] for line in lines] == ["1", "2", "3"]
    for line in lines:
        assert line["reward"] == line["kl"] == line["grad_norm_masked"] == ""
        # 8 responses of 2 to 5 tokens, end token included.
        assert 8 * 2 <= int(line["tokens"]) <= 8 * 5
    # Three steps without room for a warm-up: the peak, then 2/2 and 1/2 of it.
    assert [float(line["lr"]) for line in lines] == [1e-3, 1e-3, 5e-4]
    (line,) = metrics(train(online_row("grpo", steps=1), "online"))
    assert list(line) == [*columns, "entropy", "response_length"]
    # 32 responses; the filter leaves none out, so that both count the same tokens.
    assert float(line["response_length"]) == int(line["tokens"]) / 32


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "kto"])
def test_two_parts_of_eight_equal_one_batch_of_sixteen(train, algorithm):
    whole = train(row(algorithm, batch_size=16), "whole")
    parts = train(row(algorithm, batch_size=16, accumulate=2), "parts")
    assert column(parts, "tokens") == column(whole, "tokens")
    assert column(parts, "loss") == pytest.approx(column(whole, "loss"), rel=1e-5)
    assert column(parts, "grad_norm") == pytest.approx(column(whole, "grad_norm"), rel=1e-4)
    if algorithm == "kto":  # one reference point for all parts
        assert column(parts, "kl") == pytest.approx(column(whole, "kl"), rel=1e-3, abs=1e-6)
    # The parts differ in length, so that a mean of their means would be another loss.


@pytest.mark.parametrize(
    ("algorithm", "mask_at"),
    [
        ("sft", "pre_clip"),
        ("dpo", "pre_clip"),
        *((name, "post_clip") for name in (*ALGORITHMS, *ONLINE) if name != "pretrain"),
    ],
)
def test_a_masked_run_moves_the_subnetwork_and_no_other_bit(
    train, base, policy, mask, algorithm, mask_at
):
    what = short(algorithm, mask="quarter", mask_at=mask_at, lr=1e-2, steps=8)
    folder = train(what, mask=mask)
    base = policy if algorithm in ONLINE else base
    before, after, inside = weights(base), weights(folder / "final"), Mask(mask)
    moved = 0
    for name in before:
        changed = before[name] != after[name]
        assert not changed[~inside.read(name)].any()
        moved += changed.sum()
    assert moved > 0.5 * sum(inside.read(name).sum() for name in before)
    assert all(map(le, column(folder, "grad_norm_masked"), column(folder, "grad_norm")))


def test_a_mask_of_ones_gives_the_same_bits_as_no_mask(train, base, tmp_path):
    ones = {name: np.ones(bits.shape, dtype=np.bool_) for name, bits in weights(base).items()}
    save_mask(tmp_path / "ones.safetensors", ones, {"rule": "bitwise"})
    full = train(row("dpo"), "full")
    masked = train(row("dpo", mask="ones"), "masked", tmp_path / "ones.safetensors")
    assert bits(full)[0] == bits(masked)[0]
    assert column(masked, "grad_norm_masked") == pytest.approx(column(full, "grad_norm"), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "what",
    [
        row("dpo", mask="quarter", steps=200, save_every=20, accumulate=2),
        online_row("prime", mask="quarter", steps=60, save_every=10, lr=1e-3),
        online_row("grpo", steps=60, save_every=20, checkpoint_every=3, lr=1e-3),
    ],
    ids=lambda what: what.run,
)
def test_a_killed_run_resumes_and_ends_with_the_bits_of_an_undisturbed_one(
    train, data, base, policy, problems, mask, tmp_path, capsys, what
):
    inside = mask if what.mask else None
    undisturbed = train(what, "undisturbed", inside)

    killed, online = tmp_path / "killed", what.algorithm in ONLINE
    inputs = (problems, policy) if online else (data[what.data], base)
    arguments = train_command(killed, what.as_dict(), *inputs, inside)
    process = subprocess.Popen(
        [sys.executable, "-m", "rlsubnet.cli", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    # Of steps that are saved, 20 are in the state; 21, 24 and 27 are done again.
    later = "steps/step-000027.delta" if what.recipe.checkpoint_every else STATE
    deadline = time.monotonic() + 120
    while not (killed / "resume" / later).exists():
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert (killed / "resume" / STATE).exists()
    assert not any((killed / name).exists() for name in ("final", "steps", "metrics.csv"))

    capsys.readouterr()
    assert main(arguments) == 0
    assert f"{what.run}: resumed after step " in capsys.readouterr().err
    assert bits(killed) == bits(undisturbed)
    saved, wanted = (
        {path.name: path.read_bytes() for path in (folder / "steps").glob("*")}
        for folder in (killed, undisturbed)
    )
    assert saved == wanted
    assert len(saved) == (20 if what.recipe.checkpoint_every else 0)
    assert not (killed / "resume").exists()


# A second model or a head is saved to resume, and no part of the result.
LEARNS = {"ppo": {"head", "adamw"}, "prime": {"masters", "inner"}}


@pytest.mark.parametrize("algorithm", ["sft", "kto", *ONLINE])
def test_a_run_resumes_from_its_newest_state_alone(train, policy, tmp_path, algorithm):
    what = short(algorithm, save_every=2, reward_updates=2)
    interrupted(train, what, after=5)
    resume = tmp_path / "run" / "resume"
    assert {file.name for file in resume.iterdir()} == {STATE, LOCK}
    assert not (tmp_path / "run" / "final").exists()
    state = torch.load(resume / STATE, weights_only=True)["optimizer"]
    if algorithm in ONLINE:
        assert set(state) == {"policy", "credit"}
        assert set(state["credit"]) == LEARNS.get(algorithm, set())
    resumed = train(what, "run")
    assert bits(resumed) == bits(train(what, "undisturbed"))
    assert weights(resumed / "final").keys() == weights(policy).keys()
    assert not resume.exists()


def test_a_state_of_another_row_is_refused_with_what_differs(train, tmp_path):
    interrupted(train, row("sft"), after=5)
    other = row("sft", lr=0.5)
    with pytest.raises(ValueError, match=r"saved by another run: .*lr.*delete .*resume"):
        train(other, "run")
    assert not (tmp_path / "run" / "final").exists()
    # How often a state is saved and whether wandb listens change no bit of the result.
    train(row("sft", save_every=1), "run")


def test_a_state_that_is_damaged_or_was_cut_short_is_refused(train, tmp_path):
    interrupted(train, row("sft"), after=5)
    file = tmp_path / "run" / "resume" / STATE
    whole = file.read_bytes()
    shares = (0.0, 0.2, 0.5, 0.9, 0.999)
    for damaged in (b"not a state", *(whole[: int(share * len(whole))] for share in shares)):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"state\.pt: damaged, or .*; delete .*resume "):
            train(row("sft"), "run")


@pytest.mark.parametrize(
    ("save_every", "expected"),
    [(2, "state.pt: cannot be written"), (0, "weights cannot be written")],
)
def test_a_disk_that_fills_up_is_an_error_that_names_the_file_and_leaves_nothing(
    train, tmp_path, save_every, expected
):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Room for config.json (about 1 KB), for neither 3,000 weights of 2 bytes nor a state of them.
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match=expected):
            train(row("dpo", save_every=save_every))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [LOCK]


def test_a_run_that_diverges_names_its_step_and_leaves_nothing(train, tmp_path):
    with pytest.raises(ValueError, match=r"run sft, step \d+: the gradient's norm is"):
        train(row("sft", lr=1e38, clip=None, steps=20))
    assert not (tmp_path / "run" / "final").exists()
    assert not (tmp_path / "run" / "metrics.csv").exists()


PAIR = {"prompt": "1=", "chosen": "1", "rejected": "2"}
PROBLEM = {"prompt": "1=", "solution": ";07"}
PRETRAIN, GRPO = row("pretrain", batch_size=1), online_row("grpo")


@pytest.mark.parametrize(
    ("what", "records", "message"),
    [
        (row("dpo"), [PAIR] * 7, ": 7 examples, expected a batch of 8"),
        (online_row("grpo", oversample=7), [PROBLEM] * 50, ": 50 examples, expected a batch of 56"),
        (PRETRAIN, [{"text": "1" * n} for n in (1, 40)], ", line 2: 41 tokens; the model has 32"),
        (online_row("grpo", max_new_tokens=50), [PROBLEM] * 8, ", line 1: 53 tokens; the model"),
        (row("dpo"), [PAIR, {"prompt": "1="}], r", line 2: no key 'chosen'; found \['prompt'\]"),
        (row("dpo"), [PAIR, {**PAIR, "prompt": "one"}], ", line 2: the tokenizer has no"),
        (row("dpo"), [PAIR, {**PAIR, "chosen": 5}], ", line 2: "),
        (GRPO, [PROBLEM, PAIR], ", line 2: no key 'solution'; found"),
        (GRPO, [PROBLEM, {**PROBLEM, "solution": "7"}], ", line 2: solution '7': expected"),
    ],
)
def test_data_that_a_run_cannot_learn_from_are_refused_by_file_and_line(
    base, tmp_path, what, records, message
):
    write_jsonl(tmp_path / "few.jsonl", records)
    places = (tmp_path / "resume", tmp_path / "final", tmp_path / "metrics.csv")
    init = None if what.architecture else base
    with pytest.raises(ValueError, match=rf"few\.jsonl{message}"):
        run_training(what, tmp_path / "few.jsonl", *places, init)


def test_progress_shows_step_loss_rate_and_time_left(train, capsys):
    train(row("sft", steps=40))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("sft: step 1/40, loss ")
    assert lines[-1].startswith("sft: step 40/40, loss ")
    assert " steps/s, 0:00:00 left" in lines[-1]
    assert len(lines) <= 22  # every 5 %, and the first


def test_the_command_names_a_run_that_there_is_not(tmp_path, capsys):
    words = train_command(tmp_path, row("dpo").as_dict(), tmp_path / "data", tmp_path / "init")
    assert main([words[0], "dqo", *words[2:]]) == 1
    known = "unknown run 'dqo' (did you mean 'dpo'?); known: dpo"
    assert capsys.readouterr().err == f"rlsubnet train: error: {known}\n"
