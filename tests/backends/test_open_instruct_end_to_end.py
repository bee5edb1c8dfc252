"""The real script under the real DeepSpeed: ZeRO-3 on two CPU processes, full and masked.

Runs where OPEN_INSTRUCT_DIR names a checkout at the pinned commit and OPEN_INSTRUCT_PYTHON the
interpreter of an environment with its packages; docs/BACKENDS.md says how to make one for CPUs.
"""

import csv
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rlsubnet.backends.open_instruct.saving import complete_saves
from rlsubnet.checkpoints.compare import check_frozen, pair_checkpoints
from rlsubnet.checkpoints.export import check_companions
from rlsubnet.checkpoints.masks import load_mask
from rlsubnet.checkpoints.store import Checkpoint
from rlsubnet.cli import main
from tests.backends.small_llama import write_model, write_pairs, write_random_mask

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (os.environ.get("OPEN_INSTRUCT_DIR") and os.environ.get("OPEN_INSTRUCT_PYTHON")),
        reason="needs OPEN_INSTRUCT_DIR and OPEN_INSTRUCT_PYTHON",
    ),
]

# What CPUs need and GPUs do not. torch after 2.6 zips learning rates strictly, while DeepSpeed 0.15
# drops the group of parameters without decay, which is empty for a Llama.
LENIENT = """
import builtins
import torch
torch.optim.lr_scheduler.zip = lambda *a, strict=False: builtins.zip(*a)
"""
# DeepSpeed 0.15 asks numactl for the cores of this machine.
NUMACTL = '#!/bin/sh\necho "available: 1 nodes (0)"\necho "node 0 cpus: 0 1"\n'
PYTHON = '#!/bin/sh\nPYTHONPATH="{shims}:$PYTHONPATH" exec {python} "$@"\n'


def executable(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, pairs, a mask and a shimmed interpreter."""
    root = tmp_path_factory.mktemp("open_instruct")
    write_model(root / "init")
    write_pairs(root / "pairs.jsonl", 100)
    write_random_mask(root / "mask.safetensors", root / "init")
    (root / "shims").mkdir()
    (root / "shims" / "sitecustomize.py").write_text(LENIENT, encoding="utf-8")
    executable(root / "shims" / "numactl", NUMACTL)
    python = os.environ["OPEN_INSTRUCT_PYTHON"]
    executable(root / "python", PYTHON.format(shims=root / "shims", python=python))
    return root


def arguments(root: Path, run: str, mask: str, folder: str, save_every: int) -> list[str]:
    """Return the command that trains 6 updates of 16 pairs on two processes; 4 pairs are left."""
    recipe = {"backend": "open_instruct", "lr": 5e-4, "beta": 5.0, "processes": 2, "accumulate": 8}
    recipe |= {"max_length": 64, "flash_attention": False, "save_every": save_every}
    row = {
        **{"run": run, "backend": "open_instruct", "algorithm": "dpo_norm", "init": "sft"},
        **{"data": "pairs", "recipe": recipe, "seed": 42, "mask": mask, "architecture": None},
        "wandb": {"mode": "disabled", "project": "rlsubnet"},
    }
    out = root / folder
    return [
        *("train_open_instruct", run, "--row", json.dumps(row)),
        *("--python", str(root / "python"), "--init", str(root / "init")),
        *("--data", str(root / "pairs.jsonl"), "--scratch", str(out / "scratch")),
        *("--out", str(out / "final"), "--metrics", str(out / "metrics.csv")),
        *(["--mask", str(root / "mask.safetensors")] if mask else []),
    ]


def variables(root: Path) -> dict[str, str]:
    """Return what two processes on CPUs need of the environment."""
    return {
        **{"DS_ACCELERATOR": "cpu", "TORCHDYNAMO_DISABLE": "1", "OMP_NUM_THREADS": "1"},
        "PATH": f"{root / 'shims'}{os.pathsep}{os.environ['PATH']}",
    }


def train(root: Path, run: str, mask: str = "", folder: str = "", save_every: int = 0) -> Path:
    """Train to the end; return the folder of the run."""
    with pytest.MonkeyPatch.context() as patch:
        for key, value in variables(root).items():
            patch.setenv(key, value)
        assert main(arguments(root, run, mask, folder or run, save_every)) == 0
    return root / (folder or run)


def descendants(process: int) -> list[int]:
    """Return all processes below one; torch starts its workers in sessions of their own."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in children] + [
        grandchild for child in children for grandchild in descendants(int(child))
    ]


def kill_after(root: Path, step: int, words: list[str], scratch: Path) -> None:
    """Start a run, and kill all of its processes once a step was made after a save."""
    command = [sys.executable, "-m", "rlsubnet.cli", *words]
    noted, deadline = scratch / "records" / "steps.jsonl", time.monotonic() + 300
    with subprocess.Popen(command, env={**os.environ, **variables(root)}) as process:
        try:
            while not (noted.exists() and noted.read_bytes().count(b"\n") > step):
                assert process.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.01)
            for child in descendants(process.pid):
                os.kill(child, signal.SIGKILL)
            assert process.wait(60) == 1
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def full(bench: Path) -> Path:
    return train(bench, "dpo")


@pytest.fixture(scope="module")
def sub(bench: Path) -> Path:
    return train(bench, "dpo_sub", mask="dpo")


def changes(bench: Path, run: Path) -> tuple[int, int]:
    """Return how many weights outside and inside the mask changed a bit."""
    pair = pair_checkpoints(Checkpoint(bench / "init"), Checkpoint(run / "final"))
    counts = [c for _, c in check_frozen(pair, load_mask(bench / "mask.safetensors"))]
    return sum(c.frozen_changed for c in counts), sum(c.subnetwork_changed for c in counts)


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_masked_run_leaves_every_frozen_weight_and_moves_the_others(
    bench: Path, full: Path, sub: Path
) -> None:
    outside, inside = changes(bench, sub)
    outside_full, inside_full = changes(bench, full)
    print(f"changed outside, inside: full {outside_full}, {inside_full}; sub {outside}, {inside}")
    assert outside == 0
    # The same share of the subnetwork moves as in the full run, and there most frozen weights do.
    assert inside == pytest.approx(inside_full, rel=0.05)
    assert outside_full > 2 * inside_full


def test_only_the_weights_differ_from_the_start(bench: Path, sub: Path) -> None:
    check_companions(bench / "init", sub / "final")
    start, tuned = Checkpoint(bench / "init"), Checkpoint(sub / "final")
    assert list(tuned.tensors) == list(start.tensors)
    assert {info.dtype for info in tuned.tensors.values()} == {"BF16"}
    assert not (sub / "scratch").exists()


def test_every_update_is_recorded(full: Path, sub: Path) -> None:
    rows, masked = metrics(full), metrics(sub)
    # 100 pairs in batches of 16, and 4 that make no update. The warm-up starts at 0, so that the
    # first two losses are log 2.
    assert [row["step"] for row in rows] == list("123456")
    assert [float(row["loss"]) for row in rows[:2]] == [pytest.approx(0.6931472)] * 2
    assert float(rows[0]["lr"]) == 0.0
    assert float(rows[1]["lr"]) > float(rows[5]["lr"]) > 0
    assert float(rows[-1]["reward"]) != 0
    # Before anything has moved, both runs see one gradient; a part of it lies inside the mask.
    first, first_masked = rows[0], masked[0]
    assert first_masked["grad_norm"] == first["grad_norm"]
    assert 0 < float(first_masked["grad_norm_masked"]) < float(first["grad_norm"])
    assert {row["grad_norm_masked"] for row in rows} == {""}


def test_the_manifest_names_versions_engine_and_commit(sub: Path) -> None:
    found: dict[str, Any] = json.loads((sub / "final" / "manifest.json").read_text("utf-8"))
    head = ["git", "-C", os.environ["OPEN_INSTRUCT_DIR"], "rev-parse", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    assert found["row"]["recipe"]["commit"] == commit
    assert found["engine"]["optimizer"] == "DeepSpeedZeroOptimizer_Stage3"
    assert (found["engine"]["clip"], found["engine"]["processes"]) == (1.0, 2)
    assert found["packages"]["deepspeed"]
    assert found["steps"] == 6


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no /proc to look for processes in")
@pytest.mark.parametrize(("run", "mask"), [("dpo", ""), ("dpo_sub", "dpo")])
def test_a_killed_run_goes_on_and_ends_with_the_bits_of_one_that_was_not(
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
    bench: Path,
    run: str,
    mask: str,
) -> None:
    undisturbed: Path = request.getfixturevalue("sub" if mask else "full")
    folder = f"{run}_killed"
    output = bench / folder / "scratch" / "output" / f"{run}__42"
    # Killed in its third step or later: the steps after the save are to be made again.
    kill_after(bench, 2, arguments(bench, run, mask, folder, 2), bench / folder / "scratch")
    saves = complete_saves(output)
    last = int(saves[-1].name.removeprefix("step_"))
    # What the script would take for finished, cut off while it was written.
    half = output / f"step_{last + 1}"
    half.mkdir()
    (half / "COMPLETED").write_text("COMPLETED")
    capfd.readouterr()
    train(bench, run, mask, folder, save_every=2)
    said = capfd.readouterr()
    assert f"{run}: resumed after step {last}" in said.err
    assert f"Resumed from checkpoint: {saves[-1]}" in said.out
    weights, metrics = "final/model.safetensors", "metrics.csv"
    for name in (weights, metrics):
        resumed = (bench / folder / name).read_bytes()
        assert resumed == (undisturbed / name).read_bytes(), name
    if mask:
        assert changes(bench, bench / folder)[0] == 0
