"""Fixtures of the tests of backends."""

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    """Let torch's collectives work, of this process alone."""
    import torch

    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
