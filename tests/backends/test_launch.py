"""What starts on each node, by real processes where one machine can tell."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from rlsubnet.backends.launch import MODULE, launched, main, this_node

STEP = {
    "SLURM_JOB_ID": "31",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_NODEID": "1",
}
# Writes who it is; the launchers of torch tell a program by variables.
PROGRAM = """\
import json, os, sys
names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
with open(f"{sys.argv[1]}/{os.environ['RANK']}.json", "w") as stream:
    json.dump({"words": sys.argv[2:], **{name: os.environ[name] for name in names}}, stream)
"""


def slurm(words: Sequence[str]) -> str:
    """Answer as scontrol does; its real one is asked in tests/slurm."""
    if words == ["scontrol", "show", "hostnames", "gpu[07-08]"]:
        return "gpu07\ngpu08\n"
    assert words == ["scontrol", "show", "node", "gpu07", "-o"], words
    return "NodeName=gpu07 Arch=x86_64 NodeAddr=10.1.0.7 NodeHostName=gpu07 Port=6818\n"


def test_a_node_learns_from_slurm_which_it_is_and_where_the_first_one_is():
    node = this_node(2, STEP, slurm)
    assert (node.count, node.rank, node.address, node.port) == (2, 1, "10.1.0.7", 20031)


def test_without_srun_in_front_two_nodes_are_an_error_and_not_two_trainings_of_one(
    monkeypatch, capsys
):
    for name in STEP:
        monkeypatch.delenv(name, raising=False)
    assert main(["torchrun", "--nodes", "2", "--", "train.py"]) == 1
    assert "SLURM_STEP_NUM_NODES: expected a step of 2 nodes, found none" in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_on_one_node_starts_its_processes_and_passes_arguments_on(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    words = [str(tmp_path / "program.py"), str(tmp_path), "--lr", "1e-6", "--", "-x"]
    command = launched(1, "torchrun", 2, sys.executable, words)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == {
            **{"words": ["--lr", "1e-6", "--", "-x"], "RANK": str(rank)},
            **{"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
        }


def test_a_program_under_ray_on_one_node_ends_with_its_status():
    # Ray is started by the program itself there.
    command = launched(1, "ray", 1, sys.executable, ["-c", "raise SystemExit(3)"])
    assert subprocess.run(command, timeout=60).returncode == 3


def test_the_launcher_needs_nothing_but_python(tmp_path, repository):
    """Other projects' environments have none of what this package is installed with."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", MODULE, "--help"],
        env={**os.environ, "PYTHONPATH": str(repository / "workflow")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
