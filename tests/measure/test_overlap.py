import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rlsubnet.measure.overlap import (
    OverlapCounts,
    overlap_counts,
    overlap_counts_of_masks,
    overlap_uniform_null,
)


def test_overlaps_of_two_small_masks() -> None:
    # I1 = {0, 1, 2, 3}, I2 = {3, 4}: one weight in common of 10.
    first, second = np.zeros(10, bool), np.zeros(10, bool)
    first[:4] = second[3:5] = True
    counts = overlap_counts_of_masks(first, second)
    assert counts == OverlapCounts(numel=10, first=4, second=2, both=1)
    overlap = overlap_uniform_null(counts)
    assert (overlap.o1, overlap.o2) == (0.25, 0.5)
    # Appendix E: the null of o1 is the density of model 2, and the other way round.
    assert (overlap.o1_null, overlap.o2_null) == (0.2, 0.4)


@given(npst.arrays(np.bool_, st.tuples(st.just(2), st.integers(0, 100))))
def test_packed_and_unpacked_masks_give_the_same_counts(masks: np.ndarray) -> None:
    counts = overlap_counts_of_masks(masks[0], masks[1])
    assert counts == OverlapCounts(
        masks.shape[1], int(masks[0].sum()), int(masks[1].sum()), int((masks[0] & masks[1]).sum())
    )


def test_random_subnetworks_overlap_as_the_uniform_null_says() -> None:
    rng = np.random.default_rng(0)
    counts = overlap_counts_of_masks(rng.random(200_000) < 0.2, rng.random(200_000) < 0.3)
    overlap = overlap_uniform_null(counts)
    # The standard error of o1 is sqrt(0.3 * 0.7 / 40000) = 0.0023.
    assert overlap.o1 == pytest.approx(overlap.o1_null, abs=0.01)
    assert overlap.o2 == pytest.approx(overlap.o2_null, abs=0.01)


def test_an_empty_subnetwork_has_no_overlap() -> None:
    with pytest.raises(ValueError, match="subnetwork 2 is empty"):
        overlap_uniform_null(OverlapCounts(numel=4, first=1, second=0, both=0))


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        overlap_counts_of_masks(np.zeros(3, bool), np.zeros(4, bool))
    with pytest.raises(ValueError, match="equal length"):
        overlap_counts(np.zeros(1, np.uint8), np.zeros(2, np.uint8), 16)
