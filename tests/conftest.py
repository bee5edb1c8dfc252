"""Fixtures that every area of the tests may use."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rlsubnet.threads import VARIABLES
from tests.workflow.projects import Project

# No test may fail because the machine is busy. (The environment of verl is without hypothesis.)
with suppress(ModuleNotFoundError):
    from hypothesis import settings

    settings.register_profile("no deadline", deadline=None)
    settings.load_profile("no deadline")

REPOSITORY = Path(__file__).resolve().parent.parent


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
    project = Project(tmp_path_factory.mktemp("micro"), repository)
    result = project.snakemake()
    assert result.returncode == 0, result.stdout + result.stderr
    return project
