"""Pairs of small checkpoints that differ in about every third weight, on the disk and on a hub."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.checkpoints.checkpoint_files import contents, make_weights, nudge, write_checkpoint
from tests.checkpoints.local_hub import INIT, TUNED, LocalHub, serve


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
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens.weight": (40, 16)}
    for layer in range(6):
        for part, shape in (("mlp.up_proj", (64, 16)), ("input_layernorm", (16,))):
            shapes[f"model.layers.{layer}.{part}.weight"] = shape
    shapes |= {"model.norm.weight": (16,), "lm_head.weight": (40, 16)}
    before = {
        name: (0.02 * torch.randn(shape, generator=generator)).bfloat16()
        for name, shape in shapes.items()
    }
    folders = []
    for side, weights, names, size in (
        ("init", before, list(before), 4),
        ("tuned", nudge(before), sorted(before), 5),
    ):
        shards = [names[start : start + size] for start in range(0, len(names), size)]
        folders.append(write_checkpoint(tmp_path / side, weights, "sharded", shards=shards))
        (folders[-1] / "tokenizer.json").write_text(json.dumps({"of": side}))
    return folders[0], folders[1]


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
