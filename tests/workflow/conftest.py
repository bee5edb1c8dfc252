"""A micro scale to break, and a project folder to plan and run it in."""

from pathlib import Path

import pytest

from tests.workflow.projects import Project, Sheets


@pytest.fixture
def micro(tmp_path: Path) -> Sheets:
    return Sheets(tmp_path)


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Project:
    """Return a project in which nothing has run."""
    return Project(tmp_path, repository)
