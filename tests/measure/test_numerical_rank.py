"""Ranks without a decomposition against torch, on matrices made to be hard to tell."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from rlsubnet.measure import rank as under_test
from rlsubnet.measure.formats import to_bfloat16
from rlsubnet.measure.rank import (
    EPS32,
    numerical_rank,
    rank_of_spectrum,
    singular_values,
    singular_values_on,
    update_delta,
)

SHAPES = [(192, 192), (256, 256), (160, 448), (448, 160)]
SEEDS = 6
DENSITIES = (0.01, 0.05, 0.2)


def steps(rng: np.random.Generator, shape: tuple[int, int], density: float) -> np.ndarray:
    """An update by one bfloat16 step, up or down, of a share of the weights."""
    init = to_bfloat16((0.02 * rng.standard_normal(shape)).astype(np.float32))
    up = np.where(rng.random(shape) < 0.5, init + np.uint16(1), init - np.uint16(1))
    # A step below the smallest number would be a NaN.
    moved = (rng.random(shape) < density) & ((init & 0x7FFF) != 0)
    return update_delta(init, np.where(moved, up, init))


def with_spectrum(
    rng: np.random.Generator, shape: tuple[int, int], values: np.ndarray
) -> np.ndarray:
    """A matrix with the given singular values, up to rounding in float32."""
    left, right = (np.linalg.qr(rng.standard_normal((side, values.size)))[0] for side in shape)
    return ((left * values) @ right.T).astype(np.float32)


def matrices(seed: int, shape: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (kind, matrix): updates as they occur, and spectra about the tolerance."""
    rng = np.random.default_rng([seed, *shape])
    rows, columns = shape
    size, tau = min(shape), max(shape) * EPS32
    for density in DENSITIES:
        yield f"one step, density {density}", steps(rng, shape, density)
    for rank in (1, 8, 64):
        factors = rng.integers(-3, 4, (rows, rank)), rng.integers(-3, 4, (rank, columns))
        yield "integers of low rank", (factors[0] @ factors[1] * 2.0**-13).astype(np.float32)
    holes = steps(rng, shape, 0.2)
    holes[rng.random(rows) < 0.3] = 0
    yield "empty rows", holes
    holes = steps(rng, shape, 0.01)
    holes[:, rng.random(columns) < 0.5] = 0
    yield "empty columns", holes
    twice = steps(rng, shape, 0.05)
    twice[rows // 2 :] = twice[: rows - rows // 2]
    yield "rows that occur twice", twice
    about = tau * np.exp(rng.uniform(-1, 1, size - size // 2))
    values = np.concatenate([[1.0], np.linspace(1, 0.1, size // 2 - 1), about])
    yield "half of the spectrum about tau", with_spectrum(rng, shape, values)
    near = tau * (1 + rng.uniform(-0.05, 0.05, 10))
    values = np.concatenate([[1.0], np.linspace(1, 0.1, size - 11), near])
    yield "ten values at tau", with_spectrum(rng, shape, values)
    yield "falling from 1 to 1e-8", with_spectrum(rng, shape, np.logspace(0, -8, size))
    spike = 1e-2 * rng.standard_normal((rows, 1)) @ rng.standard_normal((1, columns))
    yield "one large direction", (steps(rng, shape, 0.2) + spike).astype(np.float32)


@pytest.mark.slow
def test_three_hundred_ranks_are_the_integers_of_torch():
    ways: dict[str, Counter[str]] = {}
    for seed in range(SEEDS):
        for shape in SHAPES:
            for kind, matrix in matrices(seed, shape):
                theirs = int(torch.linalg.matrix_rank(torch.from_numpy(matrix)))
                found = numerical_rank(matrix)
                assert found.rank == theirs, (kind, shape, seed, found)
                by_spectrum = rank_of_spectrum(matrix, singular_values(matrix))
                assert by_spectrum.rank == theirs, (kind, shape, seed, by_spectrum)
                ways.setdefault(kind, Counter())[found.how] += 1
    assert sum(way.total() for way in ways.values()) == 13 * SEEDS * len(SHAPES) >= 300
    # Of updates as they occur, none needs torch; of those at the tolerance, most do.
    for kind in ("integers of low rank", "rows that occur twice", *list(ways)[:3]):
        assert "svd" not in ways[kind], kind
    assert ways["ten values at tau"]["svd"] > 0


def test_a_rank_of_a_tall_or_wide_update_is_certified_from_some_of_its_rows():
    rng = np.random.default_rng(0)
    for shape in ((700, 200), (200, 700)):
        assert numerical_rank(steps(rng, shape, 0.2)) == under_test.Rank(200, "certificate")


def test_a_subset_that_lacks_a_direction_certifies_nothing():
    rng = np.random.default_rng(1)
    tall = steps(rng, (900, 200), 0.2)
    # One column moves in the last rows alone, which no subset reaches.
    tall[:600, 7] = 0
    assert numerical_rank(tall) == under_test.Rank(200, "inertia")
    tall[:, 7] = tall[:, 8]
    assert numerical_rank(tall) == under_test.Rank(199, "inertia")


def test_the_window_asks_torch_and_outside_of_it_torch_is_not_asked(monkeypatch):
    size = 1024
    tau = size * EPS32
    asked: list[int] = []
    monkeypatch.setattr(under_test, "rank_by_torch", lambda delta: asked.append(1) or -1)
    for factor, expected in ((1.02, size), (0.98, size - 1), (1.004, -1), (0.996, -1)):
        values = np.ones(size, np.float32)
        values[500] = factor * tau
        for found in (
            numerical_rank(np.diag(values)),
            rank_of_spectrum(np.diag(values), np.sort(values)[::-1]),
        ):
            assert found.rank == expected
    assert len(asked) == 4


@pytest.mark.parametrize("shape", [(300, 300), (500, 280), (280, 500)])
def test_torch_gives_the_same_singular_values_on_a_device(shape):
    delta = steps(np.random.default_rng(2), shape, 0.2)
    found, expected = singular_values_on(delta, "cpu"), singular_values(delta)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-10 * expected[0]


@pytest.mark.parametrize(
    "bad",
    [
        np.array([[np.nan, 1], [0, 1]], np.float32),
        np.array([[0, 1], [-np.inf, 1]], np.float32),
        np.eye(3),
        np.ones(4, np.float32),
    ],
)
def test_what_is_no_finite_float32_matrix_is_refused(bad):
    with pytest.raises(ValueError, match=r"NaN or Inf has no rank|needs a matrix in float32"):
        numerical_rank(bad)


def test_an_empty_update_has_rank_zero():
    for shape in ((300, 300), (0, 4)):
        assert numerical_rank(np.zeros(shape, np.float32)) == under_test.Rank(0, "zero")
