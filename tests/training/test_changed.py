"""Measures of tensors agree with those of arrays, count by count."""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from rlsubnet.measure.sparsity import RULES, TOLERANCES, changed
from rlsubnet.training import device
from rlsubnet.training.device import changed_weights, count_changed

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


@pytest.mark.parametrize("atol", TOLERANCES)
@pytest.mark.parametrize("rule", ["bitwise", *RULES])
def test_the_same_weights_count_as_changed(rule, atol):
    init, tuned = pair(200, 100)
    expected = changed(codes(init), codes(tuned), rule, atol)
    assert 0 < expected.sum() < expected.size
    for widen in (torch.bfloat16, torch.float32):  # a CPU run holds bfloat16 values as float32
        found = changed_weights(init.to(widen), tuned.to(widen), rule, atol)
        np.testing.assert_array_equal(found.numpy(), expected)


def test_nan_and_a_zero_of_another_sign_count_as_they_do_in_arrays():
    init = torch.tensor([0.0, 1.0, 2.0], dtype=torch.bfloat16)
    tuned = torch.tensor([-0.0, float("nan"), 2.0], dtype=torch.bfloat16)
    for rule, expected in (("bitwise", [True, True, False]), ("official", [False, True, False])):
        assert changed_weights(init, tuned, rule).tolist() == expected
        assert changed(codes(init), codes(tuned), rule).tolist() == expected


def test_a_model_is_counted_over_all_its_tensors():
    pairs = {"matrix": pair(30, 20), "vector": pair(50)}
    init, tuned = ({name: both[side] for name, both in pairs.items()} for side in (0, 1))
    count = count_changed(init, tuned)
    expected = sum(int(changed(codes(a), codes(b), "official").sum()) for a, b in pairs.values())
    assert (count.changed.item(), count.numel) == (expected, 650)
    assert count.sparsity().item() == 1 - expected / 650


def test_models_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ValueError, match="tensor b: in one"):
        count_changed({"a": torch.zeros(1)}, {"a": torch.zeros(1), "b": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"tensor a: shapes differ: \[1\] and \[2\]"):
        count_changed({"a": torch.zeros(1)}, {"a": torch.zeros(2)})


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
    stand_in = ModuleType("rlsubnet.training.count_kernel")
    monkeypatch.setattr(stand_in, "chunk_counts", lambda table, threshold: full, raising=False)
    monkeypatch.setitem(sys.modules, "rlsubnet.training.count_kernel", stand_in)
    weight = torch.zeros(1, dtype=torch.bfloat16)
    assert device._count_by_kernel([(weight, weight)], 0).item() == 2**31 + 65536
