"""A model of a few thousand weights, its data, and runs on it that take a second."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.masks import save_mask
from rlsubnet.config.model import ONLINE, Row
from rlsubnet.files import write_jsonl
from tests.training.online_runs import digits_policy, write_problems
from tests.training.training_runs import row, run_training


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads change how sums are rounded; a process started by a test has one, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return data files by algorithm: sums of digits; responses differ in length."""
    folder = tmp_path_factory.mktemp("data")
    sums = [(a, b) for a in range(10) for b in range(0, 10, 2)]
    prompts = [f"{a}+{b}=" for a, b in sums]
    records: dict[str, list[dict[str, Any]]] = {
        "pretrain": [{"text": f"{a}+{b}={a + b};"[: 6 + a % 2]} for a, b in sums],
        "sft": [
            {"prompt": prompt, "response": f"{a + b}" if a % 2 else f"(0{a + b})"}
            for prompt, (a, b) in zip(prompts, sums, strict=True)
        ],
        "dpo": [
            {"prompt": prompt, "chosen": f"({a + b})" if a % 3 else f"{a + b}", "rejected": f";{a}"}
            for prompt, (a, b) in zip(prompts, sums, strict=True)
        ],
    }
    records["rft"] = records["sft"]
    for algorithm in ("dpo_norm", "simpo", "kto", "orpo"):
        records[algorithm] = records["dpo"]
    for name, rows in records.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    return {name: folder / f"{name}.jsonl" for name in records}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("base")
    run_training(
        row("pretrain"),
        data["pretrain"],
        resume=folder / "resume",
        out=folder / "final",
        metrics=folder / "metrics.csv",
    )
    return folder / "final"


@pytest.fixture(scope="session")
def mask(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    generator = np.random.default_rng(5)
    bits = {
        name: generator.random(info.shape) < 0.25 for name, info in Checkpoint(base).tensors.items()
    }
    path = tmp_path_factory.mktemp("mask") / "quarter.safetensors"
    save_mask(path, bits, {"rule": "bitwise"})
    return path


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    return digits_policy(tmp_path_factory.mktemp("policy"), base, lr=2e-2)


@pytest.fixture(scope="session")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("problems") / "problems.jsonl")


@pytest.fixture
def train(
    tmp_path: Path, data: dict[str, Path], base: Path, request: pytest.FixtureRequest
) -> Callable[..., Path]:

    def run(what: Row, name: str = "run", mask: Path | None = None) -> Path:
        folder, online = tmp_path / name, what.algorithm in ONLINE
        start = request.getfixturevalue("policy") if online else base
        run_training(
            what,
            request.getfixturevalue("problems") if online else data[what.data],
            resume=folder / "resume",
            out=folder / "final",
            metrics=folder / "metrics.csv",
            init=None if what.architecture else start,
            mask=mask,
            steps=folder / "steps" if what.recipe.checkpoint_every else None,
        )
        return folder

    return run
