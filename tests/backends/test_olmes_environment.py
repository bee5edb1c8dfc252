"""The locked environment of olmes: complete, and every package still on the index."""

import re
from pathlib import Path

import pytest

from tests.backends.locks import resolved


def pins(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[a-z0-9-]+==[^ ;]+", line) for line in lines)
    return dict(line.split("==") for line in lines)


def test_the_lock_has_the_versions_that_olmes_declares(repository):
    locked = pins(repository / "envs" / "olmes.txt")
    expected = {
        "vllm": "0.8.2",
        "transformers": "4.50.3",
        "lm-eval": "0.4.3",
        "fsspec": "2023.5.0",
        "numpy": "1.26.4",
        "torch": "2.6.0",
        "xgrammar": "0.1.17",
    }
    assert {name: locked[name] for name in expected} == expected
    declared = (repository / "envs" / "olmes.in").read_text().splitlines()
    names = {re.split(r"[=<>]", line)[0].replace("_", "-") for line in declared if line[0] != "#"}
    assert names <= set(locked)


def test_the_script_checks_out_the_commit_of_the_settings(repository):
    from rlsubnet.config.schema import OLMES_COMMIT

    text = (repository / "envs" / "olmes.post-deploy.sh").read_text()
    assert re.findall(r"^commit=(\w+)$", text, flags=re.MULTILINE) == [OLMES_COMMIT]


@pytest.mark.network
def test_every_locked_package_is_on_the_index_and_they_fit_together(repository):
    envs = repository / "envs"
    found = resolved(envs / "olmes.txt", "--override", str(envs / "olmes.overrides.txt"))
    assert found == pins(envs / "olmes.txt")
