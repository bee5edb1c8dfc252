"""A pair of small checkpoints that differ in about every third weight."""

from pathlib import Path

import pytest

from tests.checkpoints.checkpoint_files import make_weights, nudge, write_checkpoint


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return the folders of a checkpoint and of a nudged copy."""
    weights = make_weights()
    return (
        write_checkpoint(tmp_path / "init", weights),
        write_checkpoint(tmp_path / "tuned", nudge(weights)),
    )
