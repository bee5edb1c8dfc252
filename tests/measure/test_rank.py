import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from rlsubnet.measure import rank as under_test
from rlsubnet.measure.formats import to_bfloat16
from rlsubnet.measure.rank import (
    EPS32,
    SMALL,
    all_below,
    has_rank,
    inertia,
    mean_rank_share,
    numerical_rank,
    random_control,
    rank_alone,
    rank_of_spectrum,
    singular_values,
    singular_values_on,
    update_delta,
    update_rank,
)

SHAPES = [(8, 8), (16, 40), (40, 16), (33, 33), (64, 64), (96, 256), (128, 128)]


def steps(rng: np.random.Generator, shape: tuple[int, int], density: float) -> np.ndarray:
    """An update by one bfloat16 step, up or down, of a share of the weights."""
    init = to_bfloat16((0.02 * rng.standard_normal(shape)).astype(np.float32))
    up = np.where(rng.random(shape) < 0.5, init + np.uint16(1), init - np.uint16(1))
    # A step below the smallest number would be a NaN.
    moved = (rng.random(shape) < density) & ((init & 0x7FFF) != 0)
    return update_delta(init, np.where(moved, up, init))


@pytest.mark.parametrize("shape", SHAPES)
def test_rank_is_the_integer_of_torch_matrix_rank(shape):
    for seed in range(24):
        delta = steps(np.random.default_rng(seed), shape, (0.02, 0.1, 0.3)[seed % 3])
        theirs = int(torch.linalg.matrix_rank(torch.from_numpy(delta)))
        assert update_rank(delta).rank == rank_alone(delta) == theirs


@pytest.mark.parametrize("shape", [(SMALL + 1, SMALL + 1), (700, 300), (300, 700)])
def test_a_large_matrix_has_the_numbers_of_its_decomposition(shape):
    delta = steps(np.random.default_rng(5), shape, 0.2)
    # Rows that are sums of others: 20 singular values are rounding.
    delta[:20] = delta[20:40] + delta[40:60]
    values = torch.linalg.svdvals(torch.from_numpy(delta).double()).numpy()
    shares = values / values.sum()
    measured = update_rank(delta)
    assert measured.rank == rank_alone(delta) == torch.linalg.matrix_rank(torch.from_numpy(delta))
    assert measured.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-9)
    entropy = -(shares[shares > 0] * np.log(shares[shares > 0])).sum()
    assert measured.effective_rank == pytest.approx(np.exp(entropy), rel=1e-4)


def test_delta_is_the_bfloat16_difference_of_bfloat16_weights():
    rng = np.random.default_rng(2)
    init, tuned = (rng.normal(0, 1, (6, 5)).astype(np.float32) for _ in range(2))
    theirs = torch.from_numpy(tuned).bfloat16() - torch.from_numpy(init).bfloat16()
    assert (update_delta(init, tuned) == theirs.float().numpy()).all()


@pytest.mark.parametrize(
    ("delta", "rank", "stable", "effective"),
    [
        (np.outer(np.arange(1, 7), np.arange(1, 10)), 1, 1.0, 1.0),
        (np.eye(5, 8), 5, 5.0, 5.0),
        # Shares 3/4 and 1/4: exp(-(0.75 ln 0.75 + 0.25 ln 0.25)) = 4 / 3^0.75 = 1.7548.
        (np.diag([3.0, 1.0]), 2, 10 / 9, 4 / 3**0.75),
        (np.zeros((3, 4)), 0, 0.0, 0.0),
    ],
)
def test_ranks_by_hand(delta, rank, stable, effective):
    measured = update_rank(delta.astype(np.float32))
    assert measured.rank == rank
    assert measured.stable_rank == pytest.approx(stable)
    assert measured.effective_rank == pytest.approx(effective, abs=1e-4)


def test_a_singular_value_below_the_tolerance_does_not_count():
    # Tolerance of a 2 x 2 matrix: 2 * 1.19e-7 * 1 = 2.4e-7.
    assert update_rank(np.diag([1.0, 2e-7]).astype(np.float32)).rank == 1
    assert update_rank(np.diag([1.0, 3e-7]).astype(np.float32)).rank == 2
    # The longer side sets it: of 2 x 64, 64 * 1.19e-7 = 7.6e-6, whichever way the matrix stands.
    delta = np.zeros((2, 64), np.float32)
    delta[0, 0], delta[1, 1] = 1.0, 1e-6
    assert update_rank(delta).rank == update_rank(delta.T).rank == 1


def test_control_keeps_the_amounts_and_forgets_the_positions():
    delta = steps(np.random.default_rng(1), (30, 20), 0.2)
    control = random_control(delta, np.random.default_rng(7))
    assert control.shape == delta.shape
    assert sorted(control[control != 0]) == sorted(delta[delta != 0])
    assert ((control != 0) != (delta != 0)).any()
    row = np.zeros((20, 20), np.float32)
    row[3] = np.arange(1, 21)
    assert update_rank(row).rank == 1
    assert update_rank(random_control(row, np.random.default_rng(0))).rank > 5


def test_the_authors_count_matrices_outside_layer_norms():
    assert has_rank("model.embed_tokens.weight", (512, 64))
    assert not has_rank("model.layers.0.self_attn.q_proj.bias", (64,))
    assert not has_rank("encoder.layernorm_projection.weight", (64, 64))


def test_no_matrix_has_no_mean_rank():
    with pytest.raises(ValueError, match="no matrix"):
        mean_rank_share([])


@pytest.mark.parametrize("rank", [update_rank, rank_alone, numerical_rank])
@pytest.mark.parametrize(
    "bad",
    [
        np.array([[np.nan, 1], [0, 1]], np.float32),
        np.array([[0, 1], [-np.inf, 1]], np.float32),
        np.eye(3),
        np.ones(4, np.float32),
    ],
)
def test_what_is_no_finite_float32_matrix_is_refused(rank, bad):
    with pytest.raises(ValueError, match=r"NaN or Inf has no rank|needs a matrix in float32"):
        rank(bad)


@pytest.mark.parametrize("shape", [(300, 280), (280, 600)])
def test_without_scipy_numpy_finds_the_same_ranks(shape, monkeypatch):
    generator = np.random.default_rng(0)
    low = generator.standard_normal((shape[0], 90)) @ generator.standard_normal((90, shape[1]))
    deltas = [low.astype(np.float32), generator.standard_normal(shape).astype(np.float32)]
    expected = [(update_rank(delta), rank_alone(delta)) for delta in deltas]
    monkeypatch.setitem(sys.modules, "scipy", None)
    for delta, (whole, alone) in zip(deltas, expected, strict=True):
        found = update_rank(delta)
        assert (found.rank, rank_alone(delta)) == (whole.rank, alone)
        # Of a singular value that is zero, the Gram matrix gives 1e-8 of the largest, at random.
        assert found.effective_rank == pytest.approx(whole.effective_rank, rel=1e-6)


def test_without_torch_a_rank_at_the_edge_is_numpys_and_that_is_said(monkeypatch):
    # The smallest singular value is the tolerance itself: 300 * eps of the largest.
    delta = np.diag([1.0] * 299 + [300 * 2.0**-23]).astype(np.float32)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.warns(UserWarning, match="torch is not installed"):
        assert rank_alone(delta) in (299, 300)


HARD_SHAPES = [(192, 192), (256, 256), (160, 448), (448, 160)]
SEEDS = 6
DENSITIES = (0.01, 0.05, 0.2)


def with_spectrum(rng, shape, values):
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
        for shape in HARD_SHAPES:
            for kind, matrix in matrices(seed, shape):
                theirs = int(torch.linalg.matrix_rank(torch.from_numpy(matrix)))
                found = numerical_rank(matrix)
                assert found.rank == theirs, (kind, shape, seed, found)
                by_spectrum = rank_of_spectrum(matrix, singular_values(matrix))
                assert by_spectrum.rank == theirs, (kind, shape, seed, by_spectrum)
                ways.setdefault(kind, Counter())[found.how] += 1
    assert sum(way.total() for way in ways.values()) == 13 * SEEDS * len(HARD_SHAPES) >= 300
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


def test_an_empty_update_has_rank_zero():
    for shape in ((300, 300), (0, 4)):
        assert numerical_rank(np.zeros(shape, np.float32)) == under_test.Rank(0, "zero")


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
