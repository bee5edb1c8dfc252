"""Fixtures that every area of the tests may use."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from rlsubnet.threads import VARIABLES
from tests.workflow.projects import Project

# No test may fail because the machine is busy. (The environment of verl is without hypothesis.)
with suppress(ModuleNotFoundError):
    from hypothesis import settings

    settings.register_profile("no deadline", deadline=None)
    settings.load_profile("no deadline")

REPOSITORY = Path(__file__).resolve().parent.parent

# `make test` runs files of tests in two processes; these come first, so that neither process has
# a long one left when the other has ended. Those of the cluster share its daemons, and mostly wait.
SLURM = "tests/slurm/"
LONGEST = (
    SLURM,
    "tests/workflow/test_day.py",
    "tests/workflow/test_gpu_scale.py",
    "tests/running/test_status.py",
    "tests/backends/",
    "tests/workflow/",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest where several processes share the tests."""
    if in_one_of_several():
        items.sort(key=lambda item: [not item.nodeid.startswith(place) for place in LONGEST])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the files of the cluster to one process, and any other file to the next free one."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return SLURM if nodeid.startswith(SLURM) else super()._split_scope(nodeid)

    return Files(config, log) if config.getvalue("dist") == "loadfile" else None


def in_one_of_several() -> bool:
    """Return whether this process runs a part of the tests, by ``pytest -n``."""
    return "PYTEST_XDIST_WORKER" in os.environ


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Take back what `rank --threads` asks for in the environment, here that of all tests."""
    before = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    yield
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of larger test inputs beside the checkout, or skip."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"no folder {folder} with real checkpoints and data sets")
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Project:
    """Return a project in which the micro scale ran from end to end; do not change it."""
    folder = tmp_path_factory.getbasetemp()
    common = folder.parent if in_one_of_several() else folder
    with (common / "micro.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the first process makes it, the others wait for it
        made = common / "micro.made"
        if not made.exists():
            project = Project(tmp_path_factory.mktemp("micro"), repository)
            result = project.snakemake()
            assert result.returncode == 0, result.stdout + result.stderr
            made.write_text(str(project.root), encoding="utf-8")
    return Project.at(Path(made.read_text(encoding="utf-8")))
