"""The environments of the gpu scale with vLLM: exact versions, for GPUs and for the tests."""

import re
from pathlib import Path

import pytest

from tests.backends.locks import resolved


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    found = dict(line.split("==") for line in lines)
    assert len(found) == len(lines), "a package stands twice"
    return found


def test_tests_run_with_the_versions_of_the_lock(repository):
    lock, tested = (pins(repository / "envs" / name) for name in ("vllm.txt", "vllm-cpu.txt"))
    assert {name: version for name, version in tested.items() if name in lock} == {
        name: version for name, version in lock.items() if name in tested
    }
    assert set(tested) - set(lock) == {
        "iniconfig",
        "pluggy",
        "pytest",
        "sortedcontainers",
        "vllm-cpu",
    }
    assert tested["vllm-cpu"] == lock["vllm"]


def test_the_lock_has_what_the_rules_call(repository):
    lock = pins(repository / "envs" / "vllm.txt")
    assert {"torch", "transformers", "snakemake", "math-verify", "numba", "matplotlib"} <= set(lock)


@pytest.mark.network
def test_every_locked_package_is_on_the_index_and_they_fit_together(repository):
    envs = repository / "envs"
    found = resolved(envs / "vllm.txt", "--override", str(envs / "vllm.overrides.txt"))
    assert found == pins(envs / "vllm.txt")
