"""The environments of verl: exact versions that fit each other, for GPUs and for the tests."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.backends.locks import resolved

DECISIVE = {
    "verl": "0.6.1",
    "vllm": "0.11.0",
    "torch": "2.8.0",
    "transformers": "4.57.6",
    "tensordict": "0.10.0",
    "numpy": "1.26.4",
}


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+==[0-9][0-9a-z.]*", line) for line in lines)
    found = {re.sub("_", "-", line.split("==")[0]).lower(): line.split("==")[1] for line in lines}
    assert len(found) == len(lines), "a package stands twice"
    return found


def test_the_lock_has_the_versions_that_verl_takes(repository):
    found = pins(repository / "envs" / "verl.txt")
    assert {name: found[name] for name in DECISIVE} == DECISIVE


def test_tests_run_with_the_versions_of_the_lock(repository):
    lock, tested = (pins(repository / "envs" / name) for name in ("verl.txt", "verl-cpu.txt"))
    assert {name: version for name, version in tested.items() if name in lock} == {
        name: version for name, version in lock.items() if name in tested
    }
    needed = {"hypothesis", "iniconfig", "pluggy", "pytest", "sortedcontainers"}
    assert set(tested) - set(lock) == needed


def test_the_environment_installs_the_lock_and_the_package_without_its_own(repository):
    content = yaml.safe_load((repository / "envs/verl.yaml").read_text(encoding="utf-8"))
    assert "python=3.11" in content["dependencies"]
    script = repository / "envs" / "verl.post-deploy.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    assert "-r envs/verl.txt" in text
    assert "--no-deps -e ." in text


@pytest.mark.network
def test_every_locked_package_is_on_the_index_and_they_fit_together(repository):
    lock = repository / "envs" / "verl.txt"
    assert resolved(lock) == pins(lock)
