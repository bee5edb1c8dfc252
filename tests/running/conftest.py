"""A finished project to change."""

from pathlib import Path

import pytest

from tests.workflow.projects import Project


@pytest.fixture
def changed(finished: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a copy of the finished project, with all it made, as the current folder."""
    copy = finished.copy_to(tmp_path, "work", "results", "logs", ".snakemake")
    monkeypatch.chdir(copy.root)
    return copy
