"""Training cases in two processes, and what came out of them."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.backends.tiny import WORLD, Case

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT = 240  # seconds for all cases together


def _environment() -> dict[str, str]:
    paths = [str(REPOSITORY), str(REPOSITORY / "workflow")]
    if "PYTHONPATH" in os.environ:
        paths.append(os.environ["PYTHONPATH"])
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "DS_ACCELERATOR": "cpu",
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + TIMEOUT
    try:
        while any(process.poll() is None for process in processes):
            if any(process.poll() for process in processes) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_cases(folder: Path, cases: Sequence[Case]) -> dict[str, list[dict[str, Any]]]:
    """Return by case what each process wrote; a case after a crash is missing.

    Masks must lie in ``folder``. Exit codes are not looked at: only results tell.
    """
    (folder / "cases.pkl").write_bytes(pickle.dumps(list(cases)))
    processes = []
    for rank in range(WORLD):
        with (folder / f"log.{rank}").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.backends.worker", str(folder), str(rank)],
                    cwd=REPOSITORY,
                    env=_environment(),
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    _wait(processes)
    results = {}
    for case in cases:
        files = [folder / f"{case.name}.{rank}.pt" for rank in range(WORLD)]
        if all(file.exists() for file in files):
            results[case.name] = [torch.load(file) for file in files]
    if len(results) < len(cases):
        for rank in range(WORLD):  # pytest shows it beside the failure
            print(f"--- process {rank}\n{(folder / f'log.{rank}').read_text()[-6000:]}")
    return results
