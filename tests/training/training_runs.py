"""Rows of runs on a model of a few thousand weights, and what is compared of two runs."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlsubnet.backends import trainers
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.config.layout import RunFiles
from rlsubnet.config.model import Recipe, Row
from rlsubnet.training.journal import Journal
from rlsubnet.training.run import NativeTrainer

ARCHITECTURE = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "tie_word_embeddings": False,
}
RECIPE = Recipe(steps=6, batch_size=8, lr=1e-3, save_every=2)


def row(algorithm: str, **changes: Any) -> Row:
    own = {key: changes.pop(key) for key in ("run", "seed", "mask", "wandb") if key in changes}
    return Row(
        **{"run": algorithm, "seed": 3, **own},
        algorithm=algorithm,
        init="base",
        data=algorithm,
        recipe=RECIPE.but(**changes),
        architecture=ARCHITECTURE if algorithm == "pretrain" else None,
    )


def weights(folder: Path) -> dict[str, np.ndarray]:
    checkpoint = Checkpoint(folder)
    return {name: checkpoint.read(name) for name in checkpoint.tensors}


def bits(folder: Path) -> tuple[bytes, str]:
    return (
        (folder / "final" / "model.safetensors").read_bytes(),
        (folder / "metrics.csv").read_text(),
    )


def run_training(
    what: Row,
    data: Path,
    resume: Path,
    out: Path,
    metrics: Path,
    init: Path | None = None,
    mask: Path | None = None,
    steps: Path | None = None,
    device: str = "auto",
) -> None:
    files = RunFiles(data, resume, out, metrics, init, mask, steps)
    trainers.run_training(what, files, NativeTrainer(what, files, device))


def interrupted(train: Callable[..., Path], what: Row, after: int, *mask: Path) -> None:
    """Train into ``run`` and fail after so many steps, as a full disk would."""
    note = Journal.note

    def failing(journal: Journal, values: dict[str, Any], state: Any) -> None:
        if values["step"] > after:
            raise OSError("no space left")
        note(journal, values, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "note", failing)
        with pytest.raises(OSError, match="no space left"):
            train(what, "run", *mask)


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def column(folder: Path, name: str) -> list[float]:
    return [float(line[name]) for line in metrics(folder)]
