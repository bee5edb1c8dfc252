"""A wheel in an empty environment measures as the checkout does, without torch or Snakemake."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checkpoints.checkpoint_files import make_weights, nudge, write_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.network]

LIMIT_MB = 150
PACKAGES = ("rlsubnet", "snakemake_logger_plugin_rlsubnet")
WORKFLOW = Path(__file__).resolve().parents[1] / "workflow"
UNREACHABLE = ("no matching distribution", "connection", "resolve", "timed out")
COMMANDS = """
updates init tuned --out updates.csv --mask mask.safetensors
mask init tuned --rule official --atol 1e-5 --out official.safetensors
union mask.safetensors official.safetensors --out union.safetensors
overlap mask.safetensors official.safetensors --init init --out overlap.csv
frozen init tuned --mask mask.safetensors --out frozen.csv
delta pack init tuned tuned.delta
delta show tuned.delta
delta unpack init tuned.delta unpacked
trajectory init tuned.delta tuned --steps 1 2 --out trajectory.csv
rank init tuned --out ranks.csv
card init tuned --out card.html
check --config config/demo/config.yaml
plan --config config/demo/config.yaml
"""


@dataclass(frozen=True)
class Wheel:
    """An environment that holds the wheel and what it needs, and what pip said."""

    python: Path

    def size_mb(self) -> float:
        files = (path for path in self.python.parents[1].rglob("*") if not path.is_symlink())
        return sum(path.stat().st_size for path in files if path.is_file()) / 1e6


def pip(python: Path | str, *arguments: str | Path) -> None:
    """Run pip; skip where the package index cannot be reached."""
    command = [python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    environment = {**os.environ, "PIP_RETRIES": "1", "PYTHONPATH": ""}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    if result.returncode and any(word in result.stderr.lower() for word in UNREACHABLE):
        pytest.skip(f"package index not reached: {result.stderr.strip()[-200:]}")
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    folder = tmp_path_factory.mktemp("wheel")
    # A build leaves folders beside the sources.
    source = folder / "source"
    for package in PACKAGES:
        shutil.copytree(
            repository / "workflow" / package,
            source / "workflow" / package,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / name, source)
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", folder, source)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    [built] = folder.glob("rlsubnet-*.whl")
    pip(python, "install", "--constraint", repository / "envs" / "constraints.txt", built)
    return Wheel(python)


def results(python: Path | str, folder: Path, commands: str) -> dict[str, bytes]:
    """Return all files that commands write in ``folder``, and what they print.

    The wheel's Python is alone with what is installed there; ours has the checkout first.
    """
    ours = python == sys.executable
    environment = {**os.environ, "PYTHONPATH": str(WORKFLOW) if ours else ""}
    said = []
    for command in commands.strip().splitlines():
        result = subprocess.run(
            [python, "-m", "rlsubnet.cli", *command.split()],
            cwd=folder,
            capture_output=True,
            env={**environment, "OMP_NUM_THREADS": "1"},
        )
        assert result.returncode == 0, f"{command}: {result.stderr.decode()}"
        said.append(result.stdout)
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {**files, "printed": b"".join(said)}


def prepared(repository: Path, folder: Path) -> Path:
    weights = make_weights()
    write_checkpoint(folder / "init", weights)
    write_checkpoint(folder / "tuned", nudge(weights))
    shutil.copytree(repository / "config", folder / "config")
    return folder


def test_a_plain_install_is_small(wheel, capsys):
    size = wheel.size_mb()
    with capsys.disabled():
        print(f"\nenvironment of a plain install, with pip: {size:.0f} MB")
    assert size <= LIMIT_MB
    listed = subprocess.run(
        [wheel.python, "-m", "pip", "list", "--format=freeze"],
        env=os.environ | {"PIP_QUIET": "0"},
        capture_output=True,
        text=True,
    ).stdout
    assert "numpy==" in listed
    assert not {"torch", "snakemake", "pandas", "scipy"} & {
        line.split("==")[0] for line in listed.splitlines()
    }


def test_every_file_of_the_package_is_in_the_wheel(wheel, repository):
    [there] = wheel.python.parents[1].glob("lib/python*/site-packages")

    def files(folder: Path) -> set[Path]:
        found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        return {path for path in found if "__pycache__" not in path.parts}

    for package in PACKAGES:
        assert files(there / package) == files(repository / "workflow" / package)


def test_wheel_and_checkout_write_the_same_folder(wheel, repository, tmp_path):
    ours, theirs = (prepared(repository, tmp_path / name) for name in ("checkout", "wheel"))
    from_wheel = results(wheel.python, theirs, COMMANDS)
    from_checkout = results(sys.executable, ours, COMMANDS)
    assert from_wheel.keys() == from_checkout.keys()
    assert [name for name in from_wheel if from_wheel[name] != from_checkout[name]] == []


def test_a_card_of_a_real_model_is_the_checkouts(wheel, shared, tmp_path):
    """Ranks, too: all matrices of this model are small enough for numpy."""
    import torch
    from safetensors.torch import load_file

    source = shared / "data" / "stories260k"
    if not source.exists():
        pytest.skip("the stories260k model is not here")
    pages = []
    weights = {n: t.to(torch.bfloat16) for n, t in load_file(source / "model.safetensors").items()}
    for name, python in (("wheel", wheel.python), ("checkout", sys.executable)):
        folder = tmp_path / name
        write_checkpoint(folder / "init", weights)
        write_checkpoint(folder / "tuned", nudge(weights))
        pages.append(results(python, folder, "card init tuned --out card.html"))
    assert pages[0] == pages[1]
    assert b"random control" in pages[0]["card.html"]
