"""Counts of eigenvalues against matrices of which the eigenvalues are planted."""

import numpy as np
import pytest

from rlsubnet.measure import rank as under_test
from rlsubnet.measure.rank import all_below, inertia

SIZE = 256


def with_eigenvalues(seed: int, *smallest: float) -> np.ndarray:
    """A symmetric matrix with some small eigenvalues, the others from 1 to 2."""
    values = np.concatenate([smallest, np.linspace(1, 2, SIZE - len(smallest))])
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((SIZE, SIZE)))[0]
    return np.asfortranarray((basis * values) @ basis.T)


@pytest.mark.parametrize("below", [1, 3])
def test_few_eigenvalues_far_below_are_proven_without_another_factorization(below, monkeypatch):
    gram = with_eigenvalues(below, *[1e-9] * below)
    found = inertia(gram, 1e-4)
    assert found.below == below
    monkeypatch.setattr(under_test, "inertia", None)
    assert all_below(gram, found, 9e-5)


@pytest.mark.parametrize("between", [1, 2, 7, 40])
def test_an_eigenvalue_between_the_bounds_is_never_missed(between):
    for seed in range(4):
        spread = np.linspace(9.2e-5, 9.8e-5, between)
        gram = with_eigenvalues(seed, 0.0, *spread)
        assert not all_below(gram, inertia(gram, 1e-4), 9e-5)
        gram = with_eigenvalues(seed, 0.0, *(spread - 1e-5))
        assert all_below(gram, inertia(gram, 1e-4), 9e-5)


def test_a_bound_that_is_an_eigenvalue_breaks_nothing():
    gram = np.diag(np.concatenate([[0.25, 0.5], np.ones(SIZE - 2)]))
    assert all_below(gram, inertia(gram, 0.5), 0.375)
    assert not all_below(gram, inertia(gram, 0.5), 0.125)
