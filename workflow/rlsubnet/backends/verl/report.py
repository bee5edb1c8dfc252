"""What verl's environment consists of, told by its own interpreter and asked by ours."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlsubnet.backends.processes import run_checked
from rlsubnet.backends.verl import VERSION
from rlsubnet.machine import describe_environment

PACKAGES = ("verl", "torch", "transformers", "vllm", "flash-attn", "ray", "tensordict", "numpy")


def read_report(python: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Return device and versions of verl's environment.

    Args:
        python: its interpreter.
        variables: with which this package is found there.

    Raises:
        ValueError: it cannot say so, or verl is absent or another release than the one whose
            classes are extended here.
    """
    said = run_checked([str(python), "-m", __name__], variables, f"{python}: asking for versions")
    report: dict[str, Any] = json.loads(said.splitlines()[-1])
    if (found := report["packages"]["verl"]) != VERSION:
        raise ValueError(f"{python}: expected verl {VERSION} (envs/verl.yaml), found {found}")
    return report


if __name__ == "__main__":
    print(json.dumps(describe_environment(PACKAGES)))
