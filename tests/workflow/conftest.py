"""Scales to read, to break, and to plan and run in a project folder."""

from pathlib import Path

import pytest

from rlsubnet.config import Scale, load_config, load_scale
from tests.workflow.projects import Project, Sheets


@pytest.fixture
def micro(tmp_path: Path) -> Sheets:
    return Sheets(tmp_path)


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Project:
    """Return a project in which nothing has run."""
    return Project(tmp_path, repository)


@pytest.fixture
def changed(finished: Project, tmp_path: Path) -> Project:
    """Return a copy of the finished project, with all it made, to change and plan."""
    return finished.copy_to(tmp_path, "work", "results", ".snakemake")


@pytest.fixture(scope="session")
def demo(repository: Path) -> Scale:
    return load_scale(load_config([repository / "config/demo/config.yaml"]), repository)


@pytest.fixture(scope="session")
def paper(repository: Path) -> Scale:
    return load_scale(load_config([repository / "config/paper/config.yaml"]), repository)
