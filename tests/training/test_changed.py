"""Measures of tensors agree with those of arrays, count by count."""

import numpy as np
import pytest
import torch

from rlsubnet.measure.sparsity import (
    TOLERANCES,
    changed,
    exact_threshold,
    official_threshold,
)
from rlsubnet.training import device
from rlsubnet.training.device import count_changed

GENERATOR = torch.Generator().manual_seed(0)


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return bfloat16 weights and a sparse update of them, with steps of all sizes."""
    init = (torch.randn(shape, generator=GENERATOR) * 0.02).bfloat16()
    steps = torch.randn(shape, generator=GENERATOR) * 10.0 ** torch.randint(
        -9, -2, shape, generator=GENERATOR
    )
    moved = torch.rand(shape, generator=GENERATOR) < 0.4
    return init, torch.where(moved, init.float() + steps, init.float()).bfloat16()


def codes(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.int16).numpy().view(np.uint16)


@pytest.mark.parametrize("threshold", [official_threshold, exact_threshold])
@pytest.mark.parametrize("atol", TOLERANCES)
def test_the_same_weights_count_as_changed(threshold, atol):
    init, tuned = pair(200, 100)
    rule = "official" if threshold is official_threshold else "exact"
    expected = changed(codes(init), codes(tuned), rule, atol)
    assert 0 < expected.sum() < expected.size
    for widen in (torch.bfloat16, torch.float32):  # a CPU run holds bfloat16 values as float32
        rows = zip(init.to(widen), tuned.to(widen), strict=True)
        found = [count_changed([row], threshold(atol)).item() for row in rows]
        assert found == expected.sum(axis=1).tolist()


def test_of_the_tables_difference_nan_counts_and_a_zero_of_another_sign_does_not():
    init = torch.tensor([0.0, 1.0, 2.0], dtype=torch.bfloat16)
    tuned = torch.tensor([-0.0, float("nan"), 2.0], dtype=torch.bfloat16)
    assert changed(codes(init), codes(tuned), "official").tolist() == [False, True, False]
    assert count_changed([(init, tuned)]).item() == 1


def test_chunks_cover_a_tensor_of_more_than_2_to_the_31_weights_once():
    numel = 2**31 + 5
    found = device.chunks([(1 << 46, 1 << 45, numel)])
    assert found.dtype == np.int64
    assert found[:, 2].sum() == numel
    # Each begins where the one before ends, in either model; the last with the last five.
    ends = found[:-1, :2] + 2 * found[:-1, 2:]
    np.testing.assert_array_equal(found[1:, :2], ends)
    assert found[-1].tolist() == [(1 << 46) + 2**32, (1 << 45) + 2**32, 5]
