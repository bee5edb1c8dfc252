"""The real open-instruct on two nodes of a real Slurm, one process on each."""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlsubnet.backends.open_instruct.saving import complete_saves
from rlsubnet.backends.processes import read_marker
from rlsubnet.files import sha256
from tests.backends.open_instruct_runs import (
    SUB,
    WHERE_IT_IS,
    arguments,
    changes,
    make_bench,
    variables,
)
from tests.slurm.cluster import REPOSITORY, Cluster

pytestmark = [pytest.mark.slow, WHERE_IT_IS]


def submit(cluster: Cluster, root: Path, folder: str, save_every: int) -> str:
    words = [sys.executable, "-m", "rlsubnet.cli"]
    words += arguments(root, SUB, folder, save_every, nodes=2)
    path = f"{root / 'shims'}{os.pathsep}{cluster.environment['PATH']}"
    exported = variables(root) | {
        "PATH": path,
        "PYTHONPATH": str(REPOSITORY / "workflow"),
        "SLURM_CONF": cluster.environment["SLURM_CONF"],
        "GLOO_SOCKET_IFNAME": "lo",
    }
    lines = [f"export {key}={shlex.quote(value)}" for key, value in exported.items()]
    script = root / f"{folder}.sh"
    script.write_text("\n".join(["#!/bin/sh", *lines, shlex.join(words)]))
    options = ["--nodes=2", "--ntasks-per-node=1", "--mem=3000", "--no-requeue"]
    log = f"--output={root / folder}.log"
    return cluster.ask("sbatch", "--parsable", *options, "--open-mode=append", log, str(script))


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_run_on_two_nodes_that_is_killed_ends_with_the_bits_of_one_that_is_not(
    cluster: Cluster, tmp_path: Path
) -> None:
    root = make_bench(tmp_path)

    def ended(job: str) -> bool:
        return job.strip() not in cluster.job_states()

    whole = submit(cluster, root, "whole", save_every=0)
    wait(lambda: ended(whole))
    assert (root / "whole" / "final").is_dir(), (root / "whole.log").read_text()

    killed = submit(cluster, root, "killed", save_every=2)
    noted = root / "killed" / "open_instruct" / "records" / "steps.jsonl"
    wait(lambda: noted.exists() and noted.read_bytes().count(b"\n") > 2)
    cluster.ask("scancel", "--signal=KILL", "--full", killed.strip())
    wait(lambda: ended(killed) and not cluster.job_processes())
    # One marker, by the first process of all, with the parts of both nodes.
    (save,) = complete_saves(root / "killed" / "open_instruct" / "output" / "dpo_sub__42")
    parts = {f"reference_{process}.pt" for process in (0, 1)}
    assert parts < set(read_marker(save)["bytes"]), json.dumps(read_marker(save))

    resumed = submit(cluster, root, "killed", save_every=2)
    wait(lambda: ended(resumed))
    said = (root / "killed.log").read_text()
    assert "dpo_sub: resumed after step 2" in said
    for name in ("final/model.safetensors", "metrics.csv"):
        assert sha256(root / "killed" / name) == sha256(root / "whole" / name), said
    assert changes(root, root / "killed")[0] == 0
