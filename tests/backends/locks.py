"""Resolving a locked environment by uv, which installs nothing."""

import shutil
import subprocess
from pathlib import Path

import pytest

PLATFORM = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
UNREACHABLE = ("error sending request", "failed to fetch", "dns error", "request failed")


def resolved(lock: Path, *options: str) -> dict[str, str]:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv, which resolves without installing: pip install uv")
    command = [uv, "pip", "compile", "--quiet", *PLATFORM, "--no-header", "--no-annotate"]
    result = subprocess.run(
        [*command, *options, str(lock)], capture_output=True, text=True, timeout=300
    )
    if result.returncode and any(word in result.stderr.lower() for word in UNREACHABLE):
        pytest.skip(f"package index not reached: {result.stderr.strip()[-200:]}")
    assert result.returncode == 0, result.stderr
    return dict(line.split("==") for line in result.stdout.splitlines())
