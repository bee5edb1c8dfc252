"""The real script under the real DeepSpeed: ZeRO-3 on two CPU processes, full and masked.

tests/backends/open_instruct_runs.py says where.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from rlsubnet.backends.open_instruct.saving import complete_saves
from rlsubnet.cli import main
from rlsubnet.files import sha256
from tests.backends.open_instruct_runs import (
    EPOCHS,
    FULL,
    SUB,
    WHERE_IT_IS,
    Case,
    arguments,
    changes,
    make_bench,
    variables,
)

pytestmark = [pytest.mark.slow, WHERE_IT_IS]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bench(tmp_path_factory.mktemp("open_instruct"))


def train(root: Path, case: Case, folder: str = "", save_every: int = 0) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        for key, value in variables(root).items():
            patch.setenv(key, value)
        assert main(arguments(root, case, folder or case.run, save_every)) == 0
    return root / (folder or case.run)


def runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_when(
    ready: Callable[[], bool],
    words: list[str],
    environment: dict[str, str],
    workers_too: bool = True,
) -> None:
    """Start a run and, when it is ready for that, kill its processes at once.

    Without ``workers_too`` only the two that started those which train: these end by themselves.
    """
    command, deadline = [sys.executable, "-m", "rlsubnet.cli", *words], time.monotonic() + 300
    with subprocess.Popen(command, env={**os.environ, **environment}) as process:
        try:
            while not ready():
                assert process.poll() is None, "it ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.01)
            rlsubnet = psutil.Process(process.pid)
            all_of_them = [rlsubnet, *rlsubnet.children(recursive=True)]
            starters = [rlsubnet, *rlsubnet.children()]
            assert len(all_of_them) >= len(starters) + 2
            for one in all_of_them if workers_too else starters:
                one.kill()
            assert process.wait(60) == -signal.SIGKILL
            while any(map(runs, all_of_them)):
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def full(bench: Path) -> Path:
    return train(bench, FULL)


@pytest.fixture(scope="module")
def sub(bench: Path) -> Path:
    return train(bench, SUB)


@pytest.fixture(scope="module")
def epochs(bench: Path) -> Path:
    return train(bench, EPOCHS)


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_masked_run_leaves_every_frozen_weight_and_moves_the_others(bench, full, sub):
    outside, inside = changes(bench, sub)
    outside_full, inside_full = changes(bench, full)
    print(f"changed outside, inside: full {outside_full}, {inside_full}; sub {outside}, {inside}")
    assert outside == 0
    # The same share of the subnetwork moves as in the full run, and there most frozen weights do.
    assert inside == pytest.approx(inside_full, rel=0.05)
    assert outside_full > 2 * inside_full


def test_every_update_is_recorded(full, sub):
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
    found = json.loads((sub / "final" / "manifest.json").read_text("utf-8"))
    assert found["engine"]["optimizer"] == "DeepSpeedZeroOptimizer_Stage3"
    assert (found["engine"]["clip"], found["engine"]["processes"]) == (1.0, 2)
    assert found["packages"]["deepspeed"]
    assert found["steps"] == 6
    assert not (sub / "scratch").exists()


class Killed:
    """A run that is started and killed, and the one that goes on from it."""

    def __init__(self, root: Path, case: Case, save_every: int) -> None:
        self.root, self.case, self.save_every = root, case, save_every
        self.folder = f"{case.run}_killed"
        self.scratch = root / self.folder / "work" / "runs" / case.run / "open_instruct"
        self.output = self.scratch / "output" / f"{case.run}__42"
        self.words = arguments(root, case, self.folder, save_every)

    def after(self, step: int, workers_too: bool = True) -> None:
        """Kill it once a step later than that is noted: it is to be made again."""
        noted = self.scratch / "records" / "steps.jsonl"
        kill_when(
            lambda: noted.exists() and noted.read_bytes().count(b"\n") > step,
            self.words,
            variables(self.root),
            workers_too,
        )

    def while_saving(self, step: int) -> None:
        """Kill it when half of its second process's part of a save is written."""
        part = self.output / f"step_{step}/pytorch_model/bf16_zero_pp_rank_1_mp_rank_00"
        file = f"{part}_optim_states.pt"
        environment = variables(self.root) | {"CUT_OFF": file}
        kill_when(Path(f"{file}.cut").exists, self.words, environment)
        # What the script takes for the mark of a whole save.
        (self.output / f"step_{step}" / "COMPLETED").write_text("COMPLETED")

    def saved(self) -> list[int]:
        return [int(save.name.removeprefix("step_")) for save in complete_saves(self.output)]

    def check_goes_on(self, undisturbed: Path, capfd: pytest.CaptureFixture[str]) -> None:
        *_, last = self.saved()
        capfd.readouterr()
        resumed = train(self.root, self.case, self.folder, self.save_every)
        said = capfd.readouterr()
        assert f"{self.case.run}: resumed after step {last}" in said.err
        assert f"Resumed from checkpoint: {self.output}/step_{last}" in said.out
        for name in ("final/model.safetensors", "metrics.csv"):
            assert sha256(resumed / name) == sha256(undisturbed / name), name
        if self.case.mask:
            assert changes(self.root, resumed)[0] == 0


def test_a_run_that_is_killed_while_it_saves_ends_with_the_bits_of_one_that_is_not(
    capfd, bench, full
):
    killed = Killed(bench, FULL, save_every=2)
    killed.while_saving(4)
    assert killed.saved() == [2]
    killed.check_goes_on(full, capfd)


def test_a_masked_run_that_is_killed_twice_ends_with_the_bits_of_one_that_is_not(capfd, bench, sub):
    killed = Killed(bench, SUB, save_every=2)
    killed.after(2)
    assert killed.saved() == [2]
    killed.after(4, workers_too=False)
    assert killed.saved() == [4]
    killed.check_goes_on(sub, capfd)


def test_a_run_that_is_killed_in_its_second_epoch_ends_with_the_bits_of_one_that_is_not(
    capfd, bench, epochs
):
    # Two updates an epoch: the second of the second epoch and both of the third are still to come.
    killed = Killed(bench, EPOCHS, save_every=3)
    killed.after(3)
    assert killed.saved() == [3]
    killed.check_goes_on(epochs, capfd)
