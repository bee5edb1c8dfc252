"""Measures of tensors agree with those of arrays, count by count."""

import numpy as np
import pytest
import torch

from rlsubnet.measure.sparsity import RULES, TOLERANCES, changed
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
