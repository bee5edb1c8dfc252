"""Sizes of two subnetworks and of what they share, worked out by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from rlsubnet.measure.formats import to_bfloat16, to_float32
from rlsubnet.measure.kernels import VARIABLE, WORTH_SHARING, choose_shared_bits
from rlsubnet.measure.overlap import (
    Overlap,
    OverlapCounts,
    TensorOverlap,
    chance_overlap,
    exponent_counts,
    numpy_shared_bits,
    overlap_beside_nulls,
    popcount,
)
from rlsubnet.measure.sparsity import changed


def beside_nulls(*tensors: TensorOverlap, draws: int = 50) -> dict[str, dict[str, float]]:
    """Return null -> its numbers."""
    found = overlap_beside_nulls(tensors, np.random.default_rng(0), draws)
    return {overlap.null: vars(overlap) for overlap in found}


def test_overlaps_of_two_small_masks_beside_the_papers_null():
    # I1 = {0, 1, 2, 3}, I2 = {3, 4}: one weight in common of 10.
    first, second = np.zeros(10, bool), np.zeros(10, bool)
    first[:4] = second[3:5] = True
    counts, _ = numpy_shared_bits(np.packbits(first), np.packbits(second), 10)
    assert counts == OverlapCounts(numel=10, first=4, second=2, both=1)
    uniform = beside_nulls(TensorOverlap(counts))["uniform"]
    assert (uniform["o1"], uniform["o2"]) == (0.25, 0.5)
    # Appendix E: the null of o1 is the density of model 2, and the other way round.
    assert (uniform["o1_null"], uniform["o2_null"]) == (0.2, 0.4)
    assert uniform["lift"] == 1.25


@pytest.mark.parametrize("size", [0, 1, 7, 8, 191, 192, 193, 5000, 100_000])
def test_every_bit_is_counted_once(size):
    for packed in (
        np.random.default_rng(size).integers(0, 256, size, np.uint8),
        np.full(size, 255, np.uint8),
    ):
        assert popcount(packed) == int(np.unpackbits(packed).sum())


@pytest.mark.parametrize("numel", [1, 8, 63, 64, 65, 10_003])
@pytest.mark.parametrize("kind", [np.uint16, np.float16, np.float32])
def test_compiled_loops_count_what_numpy_counts(numel, kind):
    numba_shared_bits = pytest.importorskip("rlsubnet.measure.kernel_numba").numba_shared_bits
    rng = np.random.default_rng(numel)
    init = 0.02 * rng.standard_normal(numel)
    weights = to_bfloat16(init.astype(np.float32)) if kind is np.uint16 else init.astype(kind)
    first, second = rng.random(numel) < 0.3, rng.random(numel) < 0.6
    packed = [np.packbits(mask, bitorder="little") for mask in (first, second)]
    by_hand = exponent_counts(first, second, weights)
    counts = OverlapCounts(numel, *(int(m.sum()) for m in (first, second, first & second)))
    for way in (numpy_shared_bits, numba_shared_bits):
        assert way(*packed, numel, None) == (counts, None)
        sizes, groups = way(*packed, numel, weights)
        assert sizes == counts
        assert (groups == by_hand).all()


@pytest.mark.parametrize(
    "init",
    [
        np.array([0x7F80, 0], np.uint16),
        np.array([0x3F80, 0xFFC1], np.uint16),
        np.array([np.nan, 1], np.float32),
        np.array([-np.inf, 1], np.float16),
        # Finite in float32; rounds to bfloat16's Inf.
        np.array([3.4e38, 1], np.float32),
    ],
)
def test_a_start_that_is_no_finite_number_is_refused(init):
    numba_shared_bits = pytest.importorskip("rlsubnet.measure.kernel_numba").numba_shared_bits
    bits = np.zeros(1, np.uint8)
    for way in (numpy_shared_bits, numba_shared_bits):
        with pytest.raises(ValueError, match="1 of 2 weights before finetuning are no finite bf"):
            way(bits, bits, 2, init)


def test_compiled_loops_are_for_many_weights_by_exponent(monkeypatch):
    pytest.importorskip("numba")
    monkeypatch.delenv(VARIABLE, raising=False)
    assert choose_shared_bits("auto", WORTH_SHARING, True) is not numpy_shared_bits
    assert choose_shared_bits("auto", WORTH_SHARING - 1, True) is numpy_shared_bits
    assert choose_shared_bits("auto", 1 << 40, False) is numpy_shared_bits
    assert choose_shared_bits("numba", 1, False) is not numpy_shared_bits


@pytest.mark.parametrize(
    ("weight", "exponent"),
    [
        # Codes of 2^-7, -2^-7, 1.5 * 2^-7 and 2^-8.
        (np.uint16(0x3C00), 120),
        (np.uint16(0xBC00), 120),
        (np.uint16(0x3C40), 120),
        (np.uint16(0x3B80), 119),
        # Zeros, the smallest normal number, its half, and the smallest number of all.
        (np.float32(0.0), 0),
        (np.float32(-0.0), 0),
        (np.float32(2.0**-126), 1),
        (np.float32(2.0**-127), 0),
        (np.float32(2.0**-133), 0),
        # 2 - 2^-8 lies halfway between 2 - 2^-7 and 2 and goes to the even code, 2; below it, not.
        (np.float32(2 - 2**-8), 128),
        (np.nextafter(np.float32(2 - 2**-8), np.float32(0)), 127),
        # Subnormal in float16, an ordinary number in bfloat16.
        (np.float16(2**-24), 127 - 24),
    ],
)
def test_weights_are_told_apart_by_the_exponent_of_their_bfloat16(weight, exponent):
    both = np.array([True])
    counts = exponent_counts(both, both, np.array([weight]))
    assert counts[exponent].tolist() == [1, 1, 1, 1]
    assert counts.sum() == 4


def test_chance_multiplies_the_densities_within_each_group():
    # 4 * 3 / 4 + 1 * 2 / 10; a group without weights has nothing to share.
    groups = np.array([[4, 4, 3], [10, 1, 2], [0, 0, 0]])
    assert chance_overlap(groups) == pytest.approx(3.2)
    assert chance_overlap(np.zeros((0, 4), np.int64)) == 0.0
    # 5e11 * 5e11 is far beyond 64-bit integers.
    assert chance_overlap(np.array([[10**12, 5 * 10**11, 5 * 10**11]])) == 2.5e11


def test_each_null_knows_more_than_the_one_before():
    # A tensor of 10 weights, half of them small: run 1 updated 4 small and no large one, run 2 2
    # small and 2 large. A second tensor of 10 where nothing moved.
    groups = np.array([[5, 4, 2, 2], [5, 0, 2, 0]])
    tensors = (
        TensorOverlap(OverlapCounts(10, 4, 4, 2), chance_overlap(groups)),
        TensorOverlap(OverlapCounts(10, 0, 0, 0), 0.0),
    )
    found = beside_nulls(*tensors)
    # Shared by chance: 4 * 4 / 20; 4 * 4 / 10; 4 * 2 / 5 + 0. Shared: 2.
    assert [overlap["o1_null"] for overlap in found.values()] == pytest.approx([0.2, 0.4, 0.4])
    assert [overlap["lift"] for overlap in found.values()] == pytest.approx([2.5, 1.25, 1.25])
    for overlap in found.values():
        assert overlap["lift"] == pytest.approx(overlap["o1"] / overlap["o1_null"])
        assert overlap["lift"] == pytest.approx(overlap["o2"] / overlap["o2_null"])


def test_without_the_start_there_is_no_null_by_magnitude():
    known = TensorOverlap(OverlapCounts(4, 2, 2, 1), 1.0)
    unknown = TensorOverlap(OverlapCounts(4, 2, 2, 1))
    assert list(beside_nulls(unknown, unknown)) == ["uniform", "per_tensor"]
    assert list(beside_nulls(known, known)) == ["uniform", "per_tensor", "per_magnitude"]
    with pytest.raises(ValueError, match="known for some tensors, expected all"):
        beside_nulls(known, unknown)


@pytest.mark.parametrize(
    ("counts", "number"), [(OverlapCounts(4, 1, 0, 0), 2), (OverlapCounts(4, 0, 1, 0), 1)]
)
def test_an_empty_subnetwork_has_no_overlap(counts, number):
    with pytest.raises(ValueError, match=f"subnetwork {number} is empty"):
        beside_nulls(TensorOverlap(counts))
    with pytest.raises(ValueError, match="subnetwork 1 is empty"):
        beside_nulls()


def test_subnetworks_in_different_tensors_have_no_lift_over_a_null_that_knows_it():
    found = beside_nulls(
        TensorOverlap(OverlapCounts(4, 4, 0, 0)), TensorOverlap(OverlapCounts(4, 0, 2, 0))
    )
    assert found["uniform"]["lift"] == found["uniform"]["o1"] == 0.0
    assert found["per_tensor"]["o1_null"] == 0.0
    assert np.isnan(found["per_tensor"]["lift"])
    assert np.isnan(found["per_tensor"]["ci_low"])


def test_what_chance_shares_is_never_more_than_a_whole_subnetwork():
    # Run 1 updated everything: chance shares all of run 2, which rounding may exceed.
    for numel in range(1, 200, 3):
        for second in range(1, numel + 1, 7):
            groups = np.array([[numel, numel, second]] * 3)
            tensor = TensorOverlap(
                OverlapCounts(3 * numel, 3 * numel, 3 * second, 3 * second), chance_overlap(groups)
            )
            for overlap in overlap_beside_nulls([tensor], np.random.default_rng(0)):
                assert overlap.o2_null <= 1.0
                assert overlap.lift == pytest.approx(1.0)


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
    for overlap in overlap_beside_nulls(tensors_with_lifts(2, 2, 2), np.random.default_rng(0)):
        assert (overlap.ci_low, overlap.ci_high) == pytest.approx((2.0, 2.0))


def test_one_tensor_has_no_interval_and_neither_has_a_subnetwork_that_lies_in_one():
    [uniform, _] = overlap_beside_nulls(tensors_with_lifts(2), np.random.default_rng(0))
    assert uniform.lift == 2.0
    assert np.isnan([uniform.ci_low, uniform.ci_high]).all()
    # Some of the draws from these three leave out the only tensor with updates.
    tensors = [*tensors_with_lifts(2), *[TensorOverlap(OverlapCounts(1000))] * 2]
    for overlap in overlap_beside_nulls(tensors, np.random.default_rng(0)):
        assert overlap.lift > 1.0
        assert np.isnan([overlap.ci_low, overlap.ci_high]).all()


def test_exponents_are_counted_of_two_masks_and_their_weights_alone():
    mask, init = np.zeros(3, bool), np.ones(3, np.float32)
    for first, weights in ((mask.astype(np.uint8), init), (mask[:1], init), (mask, init[:1])):
        with pytest.raises(ValueError, match="expected two bool masks of the weights' shape"):
            exponent_counts(first, mask, weights)
