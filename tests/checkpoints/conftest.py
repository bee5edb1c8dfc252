"""Pairs of small checkpoints that differ in about every third weight, on the disk and on a hub."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checkpoints.checkpoint_files import contents, make_weights, nudge, write_checkpoint
from tests.checkpoints.hub_pair import INIT, TUNED, in_groups, model, write_shards
from tests.checkpoints.local_hub import LocalHub, serve


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return the folders of a checkpoint and of a nudged copy."""
    weights = make_weights()
    return (
        write_checkpoint(tmp_path / "init", weights),
        write_checkpoint(tmp_path / "tuned", nudge(weights)),
    )


@pytest.fixture
def hub_folders(tmp_path: Path) -> tuple[Path, Path]:
    """A pair whose shards are cut at different places, the tuned one in order of name."""
    before = model()
    return (
        write_shards(tmp_path / "local" / "init", before, in_groups(list(before), 4)),
        write_shards(tmp_path / "local" / "tuned", nudge(before), in_groups(sorted(before), 5)),
    )


@pytest.fixture
def pair_hub(
    hub_folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[LocalHub]:
    """Serve both sides from one hub, whose address everything takes from the environment."""
    monkeypatch.setenv("RLSUBNET_CACHE", str(tmp_path / "cache"))
    tuned = LocalHub(contents(hub_folders[1]), name=TUNED)
    init = LocalHub(contents(hub_folders[0]), name=INIT, others=[tuned])
    with serve(init, monkeypatch, tmp_path) as hub:
        yield hub


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the waits between attempts, instead of waiting."""
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds
