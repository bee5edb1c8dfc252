"""The pins of open-instruct's environment are exact, complete, and fit each other."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.backends.locks import resolved

# Of the commit's own lock; the result of a run depends on these.
DECISIVE = {
    "torch": "2.6.0",
    "deepspeed": "0.15.4",
    "transformers": "4.50.0",
    "accelerate": "1.2.1",
    "datasets": "3.2.0",
    "numpy": "1.26.4",
}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, str]:
    lines = (repository / "envs/open-instruct.txt").read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line and not line.startswith("#")]
    found = dict(line.split("==") for line in entries)
    assert len(found) == len(entries), "a package stands twice"
    return found


def test_every_pin_is_exact_and_those_that_decide_are_the_lock_s(pins: dict[str, str]) -> None:
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins.values())
    assert {name: pins[name] for name in DECISIVE} == DECISIVE


def test_the_environment_installs_the_pins_and_the_package_without_its_own(
    repository: Path,
) -> None:
    content = yaml.safe_load((repository / "envs/open-instruct.yaml").read_text(encoding="utf-8"))
    assert "python=3.11" in content["dependencies"]
    script = repository / "envs/open-instruct.post-deploy.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    assert "-r envs/open-instruct.txt" in text
    assert "--no-deps -e ." in text


@pytest.mark.network
def test_the_pins_are_on_the_index_and_fit_together_and_nothing_else_is_needed(
    repository: Path, pins: dict[str, str]
) -> None:
    found = resolved(repository / "envs/open-instruct.txt")
    assert found == {normalized(name): version for name, version in pins.items()}
