"""What each null says about runs whose shared structure is known, because it is put there.

Synthetic weights as in a model: N(0, 0.02) on the bfloat16 grid. Each run adds its own Gaussian
drift, as an optimizer in float32 would, and rounds back to bfloat16.
"""

from collections.abc import Callable

import numpy as np
import pytest

from rlsubnet.measure.formats import to_bfloat16, to_float32
from rlsubnet.measure.overlap import (
    Overlap,
    OverlapCounts,
    TensorOverlap,
    chance_overlap,
    exponent_counts,
    overlap_beside_nulls,
)
from rlsubnet.measure.sparsity import changed

TENSORS, NUMEL, SIGMA = 20, 10_000, 3.7e-5
Drift = Callable[[int, np.random.Generator], np.ndarray]


def compare_runs(drift: Drift) -> dict[str, Overlap]:
    """Return null -> overlap of two runs that drift by ``drift(tensor, generator of the run)``."""
    weights, *runs = (np.random.default_rng([7, number]) for number in range(3))
    tensors = []
    for tensor in range(TENSORS):
        init = to_bfloat16((0.02 * weights.standard_normal(NUMEL)).astype(np.float32))
        masks = []
        for run in runs:
            moved = to_float32(init) + drift(tensor, run).astype(np.float32)
            masks.append(changed(init, to_bfloat16(moved), "official", 1e-5))
        groups = exponent_counts(masks[0], masks[1], init)
        counts = OverlapCounts(*groups.sum(axis=0).tolist())
        tensors.append(TensorOverlap(counts, chance_overlap(groups)))
    found = overlap_beside_nulls(tensors, np.random.default_rng(0))
    return {overlap.null: overlap for overlap in found}


def test_runs_that_share_only_their_start_exceed_the_uniform_null_and_meet_the_last():
    found = compare_runs(lambda _, run: SIGMA * run.standard_normal(NUMEL))
    # The sparsity, 63 %, and the overlap, 59 %, are those of the Seed row of Table 4.
    assert found["uniform"].o1_null == pytest.approx(0.365, abs=0.01)
    assert found["uniform"].o1 == pytest.approx(0.595, abs=0.01)
    assert found["uniform"].lift > 1.55
    assert found["per_tensor"].lift > 1.55
    # Within half a point, of 24 between it and the uniform null.
    assert abs(found["per_magnitude"].o1 - found["per_magnitude"].o1_null) < 0.005
    assert abs(found["per_magnitude"].o2 - found["per_magnitude"].o2_null) < 0.005
    # Over seeds the lift is 1.000 with a standard deviation of 0.002.
    assert found["per_magnitude"].lift == pytest.approx(1.0, abs=0.01)
    assert 0.98 < found["per_magnitude"].ci_low < found["per_magnitude"].ci_high < 1.02


def test_runs_that_move_the_same_tensors_exceed_the_uniform_null_only():
    # Every other tensor moves ten times as far, in both runs alike.
    scale = [SIGMA, 10 * SIGMA]
    found = compare_runs(lambda tensor, run: scale[tensor % 2] * run.standard_normal(NUMEL))
    assert found["uniform"].lift > found["per_tensor"].lift + 0.1
    assert found["per_magnitude"].lift == pytest.approx(1.0, abs=0.02)


def test_runs_that_move_the_same_weights_exceed_every_null():
    importance = np.exp(np.random.default_rng(99).standard_normal((TENSORS, NUMEL)))
    found = compare_runs(
        lambda tensor, run: SIGMA * importance[tensor] * run.standard_normal(NUMEL)
    )
    # Ten points and more, where half a point is what drift alone leaves.
    assert found["per_magnitude"].o1 > found["per_magnitude"].o1_null + 0.1
    assert found["per_magnitude"].lift > 1.25
    assert found["per_magnitude"].ci_low > 1.25
    assert found["uniform"].lift > found["per_magnitude"].lift + 0.2


def test_random_subnetworks_of_any_density_meet_the_uniform_null():
    rng = np.random.default_rng(0)
    first, second = rng.random(200_000) < 0.2, rng.random(200_000) < 0.3
    counts = OverlapCounts(
        200_000, int(first.sum()), int(second.sum()), int((first & second).sum())
    )
    [overlap, _] = overlap_beside_nulls([TensorOverlap(counts)], rng)
    # The standard error of o1 is sqrt(0.3 * 0.7 / 40000) = 0.0023.
    assert overlap.o1 == pytest.approx(overlap.o1_null, abs=0.01)
    assert overlap.o2 == pytest.approx(overlap.o2_null, abs=0.01)


def tensors_with_lifts(*lifts: float) -> list[TensorOverlap]:
    """Return tensors of one size and density whose updates share so many times chance."""
    # 100 and 100 of 1000 weights: chance shares 10.
    return [TensorOverlap(OverlapCounts(1000, 100, 100, round(10 * lift))) for lift in lifts]


def test_the_interval_is_that_of_a_mean_over_equal_tensors():
    # With equal sizes the lift is the mean of the tensors' own: 30 at 1 and 30 at 3 give 2, with
    # standard error 1 / sqrt(60) = 0.129.
    tensors = tensors_with_lifts(*[1, 3] * 30)
    for overlap in overlap_beside_nulls(tensors, np.random.default_rng(1)):
        assert overlap.lift == pytest.approx(2.0)
        assert overlap.ci_low == pytest.approx(2 - 1.96 / 60**0.5, abs=0.04)
        assert overlap.ci_high == pytest.approx(2 + 1.96 / 60**0.5, abs=0.04)


def test_tensors_that_agree_leave_no_width():
    for overlap in overlap_beside_nulls(tensors_with_lifts(2, 2, 2), np.random.default_rng(0)):
        assert (overlap.ci_low, overlap.ci_high) == pytest.approx((2.0, 2.0))


def test_the_interval_is_a_function_of_the_seed():
    tensors = tensors_with_lifts(*np.geomspace(0.5, 8, 40))
    first, again, other = (
        overlap_beside_nulls(tensors, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert first == again
    assert first[0].ci_low != other[0].ci_low
    assert first[0].lift == other[0].lift


def test_one_tensor_has_no_interval_and_neither_has_a_subnetwork_that_lies_in_one():
    [uniform, _] = overlap_beside_nulls(tensors_with_lifts(2), np.random.default_rng(0))
    assert uniform.lift == 2.0
    assert np.isnan([uniform.ci_low, uniform.ci_high]).all()
    # Some of the draws from these three leave out the only tensor with updates.
    tensors = [*tensors_with_lifts(2), *[TensorOverlap(OverlapCounts(1000))] * 2]
    for overlap in overlap_beside_nulls(tensors, np.random.default_rng(0)):
        assert overlap.lift > 1.0
        assert np.isnan([overlap.ci_low, overlap.ci_high]).all()
