"""The kernel counts the integers of the CPU's way; here by triton's interpreter, where it is."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest
import torch

from rlsubnet.measure.sparsity import RULES, TOLERANCES, changed
from rlsubnet.training import device

KERNEL = "rlsubnet.training.count_kernel"


def codes(*shape: int, seed: int) -> np.ndarray:
    """Return any 16 bits: NaN, infinity, -0.0 and subnormals among them."""
    return np.random.default_rng(seed).integers(0, 1 << 16, shape).astype(np.uint16)


def neighbors(init: np.ndarray) -> np.ndarray:
    """Return numbers around ``init`` for half of the weights, and the same for the others."""
    rng = np.random.default_rng(7)
    return init + rng.integers(-2, 3, init.shape).astype(np.uint16) * (rng.random(init.shape) < 0.5)


def small(*shape: int) -> np.ndarray:
    """Return weights of 1e-6 to 1e-2, whose neighbours are about as far as a tolerance."""
    values = 10 ** np.random.default_rng(3).uniform(-6, -2, shape)
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    zeros = np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x7FC0, 0xFF80] * 9, np.uint16)
    weights = small(300, 700)  # 210,000 weights: three chunks and a part
    return [
        (weights, neighbors(weights)),
        (codes(4096, seed=1), codes(4096, seed=2)),  # one block, and none behind it
        (zeros, zeros[::-1].copy()),
        (codes(4097, seed=5), neighbors(codes(4097, seed=5))),
    ]


SETTINGS = [(rule, atol) for rule in RULES for atol in TOLERANCES]


def counts_by_kernel() -> list[list[int]]:
    """Return the counts of each pair, and of all together, under each of the settings."""
    device._kernel_fits = lambda tensor: True  # type: ignore[assignment]
    init, tuned = (
        [torch.from_numpy(pair[side].view(np.int16)).view(torch.bfloat16) for pair in pairs()]
        for side in (0, 1)
    )
    models = [({"a": a}, {"a": b}) for a, b in zip(init, tuned, strict=True)]
    models.append((dict(enumerate(init)), dict(enumerate(tuned))))  # type: ignore[arg-type]
    return [
        [int(device.count_changed(*both, rule, atol).changed) for both in models]
        for rule, atol in SETTINGS
    ]


@pytest.mark.skipif(not find_spec("triton"), reason="needs triton, part of torch's GPU builds")
def test_the_kernel_counts_the_integers_of_arrays():
    # In a process of its own: triton decides when it is imported whether it interprets.
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    for (rule, atol), found in zip(SETTINGS, json.loads(done.stdout), strict=True):
        expected = [int(changed(a, b, rule, atol).sum()) for a, b in pairs()]
        assert min(expected) > 0
        assert found == [*expected, sum(expected)], (rule, atol)


def test_chunks_cover_a_tensor_of_more_than_2_to_the_31_weights_once():
    numel = 2**31 + 5
    found = device.chunks([(1 << 46, 1 << 45, numel)])
    assert found.dtype == np.int64
    assert found[:, 2].sum() == numel
    # Each begins where the one before ends, in either model; the last with the last five.
    ends = found[:-1, :2] + 2 * found[:-1, 2:]
    np.testing.assert_array_equal(found[1:, :2], ends)
    assert found[-1].tolist() == [(1 << 46) + 2**32, (1 << 45) + 2**32, 5]


def test_counts_of_more_than_2_to_the_31_changes_add_up(monkeypatch):
    # A program counts at most 65,536: so many programs that all weights changed.
    programs = 2**31 // device.CHUNK + 1
    full = torch.full((programs,), device.CHUNK, dtype=torch.int32)
    stand_in = ModuleType(KERNEL)
    monkeypatch.setattr(stand_in, "chunk_counts", lambda table, threshold: full, raising=False)
    monkeypatch.setitem(sys.modules, KERNEL, stand_in)
    weight = torch.zeros(1, dtype=torch.bfloat16)
    assert device._count_by_kernel([(weight, weight)], 0).item() == 2**31 + 65536


if __name__ == "__main__":
    print(json.dumps(counts_by_kernel()))
