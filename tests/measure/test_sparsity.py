from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rlsubnet.measure.formats import to_bfloat16, to_float32
from rlsubnet.measure.sparsity import (
    TOLERANCES,
    UpdateCounts,
    bitwise_changed,
    changed,
    group_counts,
    total_counts,
)
from tests.measure.plain import plain_counts

# 0.0078125 = 2^-7 and 1e-45 are exact in bfloat16 or below its smallest step; 0 asks for equality.
ALL_TOLERANCES = (0.0, 1e-45, *TOLERANCES, 3e-4, 0.0078125, 0.1, 7.0)
ZERO, MINUS_ZERO, ONE, TWO, NAN = 0x0000, 0x8000, 0x3F80, 0x4000, 0x7FC0
FINITE_CODES = [c for c in range(2**16) if c & 0x7F80 != 0x7F80]


def codes(*values: int) -> np.ndarray:
    return np.array(values, np.uint16)


def as_torch(stored: np.ndarray) -> torch.Tensor:
    """Return stored weights as the bfloat16 tensor that the authors' loader would make."""
    if stored.dtype == np.uint16:
        return torch.from_numpy(stored.copy()).view(torch.bfloat16)
    return torch.from_numpy(stored.copy()).to(torch.bfloat16)


def authors_unchanged(init: np.ndarray, tuned: np.ndarray, atol: float) -> int:
    delta = as_torch(tuned) - as_torch(init)
    return int(torch.isclose(delta, torch.zeros_like(delta), atol=atol).sum())


def exact_unchanged(init: np.ndarray, tuned: np.ndarray, atol: float) -> int:
    with np.errstate(over="ignore"):
        differences = np.abs(to_float32(tuned) - to_float32(init)).ravel().tolist()
    return sum(d != float("inf") and Fraction(d) <= Fraction(atol) for d in differences)


def random_pair(scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A bfloat16 pair like RL's: one weight in three moves by some steps of its last place."""
    rng = np.random.default_rng(1)
    init = to_bfloat16(rng.normal(0, scale, 20_000).astype(np.float32))
    steps = rng.integers(-3, 4, 20_000) * (rng.random(20_000) < 0.34)
    magnitude = np.clip((init & 0x7FFF).astype(np.int64) + steps, 0, 0x7F7F)
    tuned = ((init & 0x8000) | magnitude.astype(np.uint16)).astype(np.uint16)
    return init, tuned


@pytest.mark.parametrize("scale", [1e-39, 1e-9, 1e-5, 1e-3, 0.02, 1.0, 300.0])
def test_official_counts_are_the_integers_of_torch_isclose(scale):
    init, tuned = random_pair(scale)
    counts = plain_counts(init, tuned, ALL_TOLERANCES)
    for atol in ALL_TOLERANCES:
        assert counts.unchanged["official", atol] == authors_unchanged(init, tuned, atol)
    if scale == 1e-3:  # on both sides of every tolerance of the table
        shares = [counts.sparsity("official", atol) for atol in TOLERANCES]
        assert shares == sorted(shares)
        assert 0.5 < shares[0] < shares[3] < 1.0


@given(
    npst.arrays(np.uint16, (2, 40), elements=st.sampled_from(FINITE_CODES)),
    st.sampled_from(ALL_TOLERANCES),
)
def test_both_rules_hold_for_any_finite_codes(pair, atol):
    counts = plain_counts(pair[0], pair[1], [atol])
    assert counts.unchanged["official", atol] == authors_unchanged(pair[0], pair[1], atol)
    assert counts.unchanged["exact", atol] == exact_unchanged(pair[0], pair[1], atol)


@given(
    npst.arrays(
        np.float32, (2, 30), elements=st.floats(-(2.0**-12), 2.0**-12, width=32, allow_nan=False)
    ),
    st.floats(0, 1e-3),
)
def test_float32_sources_are_rounded_by_official_and_not_by_exact(pair, atol):
    counts = plain_counts(pair[0], pair[1], [atol])
    assert counts.unchanged["official", atol] == authors_unchanged(pair[0], pair[1], atol)
    assert counts.unchanged["exact", atol] == exact_unchanged(pair[0], pair[1], atol)


@pytest.mark.parametrize("types", [("f4", "f2"), ("f2", "bf16"), ("bf16", "f4"), ("f2", "f2")])
def test_any_mix_of_stored_types_follows_both_rules(types):
    rng = np.random.default_rng(5)
    values = rng.normal(0, 1e-2, 5000).astype(np.float32)
    moved = values + (rng.normal(0, 1e-5, 5000) * (rng.random(5000) < 0.5)).astype(np.float32)
    init, tuned = (
        to_bfloat16(v) if t == "bf16" else v.astype(t)
        for v, t in zip((values, moved), types, strict=True)
    )
    counts = plain_counts(init, tuned)
    for atol in TOLERANCES:
        assert counts.unchanged["official", atol] == authors_unchanged(init, tuned, atol)
        assert counts.unchanged["exact", atol] == exact_unchanged(init, tuned, atol)


@pytest.mark.parametrize(
    ("atol", "upper", "unchanged"),
    [
        # The difference 2^-7 (1 + 2^-8) is halfway between the codes of 2^-7 (even) and
        # 2^-7 (1 + 2^-7) (odd) and rounds down: within 2^-7 under official.
        (2.0**-7, 2.0**-7 * (1 + 2.0**-7), 1),
        # 2^-7 (1 + 3 * 2^-8) is halfway between the odd code and the next even one: rounds up.
        (2.0**-7 * (1 + 2.0**-7), 2.0**-7 * (1 + 2.0**-6), 0),
    ],
)
def test_a_difference_on_the_rounding_boundary_goes_to_the_even_code(atol, upper, unchanged):
    pair = to_bfloat16(np.array([2.0**-15, upper], np.float32))
    assert to_float32(pair).tolist() == [2.0**-15, upper]
    counts = plain_counts(pair[:1], pair[1:], [atol])
    assert counts.max_abs_diff == upper - 2.0**-15 > atol
    assert counts.unchanged == {("official", atol): unchanged, ("exact", atol): 0}
    assert authors_unchanged(pair[:1], pair[1:], atol) == unchanged


def test_exact_compares_with_the_real_tolerance_and_not_with_its_float32():
    # float32(0.1) is 0.100000001490..., which is more than 0.1.
    tuned = np.array([0.1, np.nextafter(np.float32(0.1), np.float32(0))], np.float32)
    counts = plain_counts(np.zeros(2, np.float32), tuned, [0.1])
    assert counts.unchanged["exact", 0.1] == 1


def test_signed_zeros_differ_in_bits_but_not_in_value():
    counts = plain_counts(codes(ZERO, MINUS_ZERO, ONE), codes(MINUS_ZERO, ZERO, ONE), [0.0])
    assert counts.bitwise_changed == 2
    assert counts.unchanged == {("official", 0.0): 3, ("exact", 0.0): 3}


def test_nan_counts_as_changed_even_against_itself():
    counts = plain_counts(codes(NAN, ONE), codes(NAN, ONE), [1e-5])
    assert counts.unchanged == {("official", 1e-5): 1, ("exact", 1e-5): 1}


def test_largest_difference_is_that_of_the_stored_values():
    assert plain_counts(codes(ONE, ONE), codes(TWO, ONE)).max_abs_diff == 1.0
    assert plain_counts(codes(), codes()).max_abs_diff == 0.0
    assert plain_counts(codes(), codes(), [1e-5]).sparsity("official", 1e-5) == 1.0


def test_weights_of_two_stored_types_are_bitwise_equal_after_rounding():
    # 1 + 2^-12 rounds to 1 in bfloat16; 1 + 2^-6 does not.
    stored = np.array([1 + 2**-12, 1 + 2**-6], np.float32)
    assert bitwise_changed(codes(ONE, ONE), stored).tolist() == [False, True]
    assert bitwise_changed(np.ones(2, np.float32), stored).tolist() == [True, True]


def test_sparsity_of_a_group_is_weighted_by_the_number_of_weights():
    # 1 of 4 and 6 of 6 unchanged: 7 / 10, where a mean over tensors would say 0.625.
    counts = {
        "layers.0.a": UpdateCounts(4, 3, 0.5, {("official", 1e-5): 1}),
        "layers.0.b": UpdateCounts(6, 0, 0.0, {("official", 1e-5): 6}),
        "head": UpdateCounts(10, 10, 2.0, {("official", 1e-5): 0}),
    }
    groups = group_counts(counts, lambda name: name.split(".")[0])
    assert groups["layers"].sparsity("official", 1e-5) == 0.7
    assert total_counts(counts.values()) == UpdateCounts(20, 13, 2.0, {("official", 1e-5): 7})


def test_bad_arguments_are_refused():
    for atol in (-1e-5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="a tolerance is a number"):
            plain_counts(codes(ONE), codes(TWO), [atol])
    with pytest.raises(ValueError, match="unknown rule 'equal'"):
        changed(codes(ONE), codes(TWO), "equal")
