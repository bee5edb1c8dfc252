import sys

import numpy as np
import pytest
import torch

from rlsubnet.measure.formats import to_bfloat16
from rlsubnet.measure.rank import (
    SMALL,
    has_rank,
    mean_rank_share,
    random_control,
    rank_alone,
    update_delta,
    update_rank,
)

SHAPES = [(8, 8), (16, 40), (40, 16), (33, 33), (64, 64), (96, 256), (128, 128)]


def sparse_delta(shape: tuple[int, int], density: float, seed: int) -> np.ndarray:
    """The bfloat16 difference of two checkpoints that differ by a few last places."""
    rng = np.random.default_rng(seed)
    init = to_bfloat16(rng.normal(0, 0.02, shape).astype(np.float32))
    hit = rng.random(shape) < density
    tuned = np.where(hit, init + rng.integers(1, 4, shape).astype(np.uint16), init)
    return update_delta(init, tuned.astype(np.uint16))


@pytest.mark.parametrize("shape", SHAPES)
def test_rank_is_the_integer_of_torch_matrix_rank(shape):
    for seed in range(24):
        delta = sparse_delta(shape, density=(0.02, 0.1, 0.3)[seed % 3], seed=seed)
        theirs = int(torch.linalg.matrix_rank(torch.from_numpy(delta)))
        assert update_rank(delta).rank == rank_alone(delta) == theirs


@pytest.mark.parametrize("shape", [(SMALL + 1, SMALL + 1), (700, 300), (300, 700)])
def test_a_large_matrix_has_the_numbers_of_its_decomposition(shape):
    delta = sparse_delta(shape, density=0.2, seed=5)
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


def test_an_outer_product_has_rank_one():
    measured = update_rank(np.outer(np.arange(1, 7), np.arange(1, 10)).astype(np.float32))
    assert measured.rank == 1
    assert measured.stable_rank == pytest.approx(1.0)
    assert measured.effective_rank == pytest.approx(1.0, abs=1e-4)


def test_the_identity_is_full_rank_by_every_measure():
    measured = update_rank(np.eye(5, 8, dtype=np.float32))
    assert measured.rank == 5
    assert measured.stable_rank == pytest.approx(5.0)
    assert measured.effective_rank == pytest.approx(5.0)


def test_effective_rank_of_two_singular_values_by_hand():
    # Shares 3/4 and 1/4: exp(-(0.75 ln 0.75 + 0.25 ln 0.25)) = 4 / 3^0.75 = 1.7548.
    measured = update_rank(np.diag([3.0, 1.0]).astype(np.float32))
    assert measured.effective_rank == pytest.approx(4 / 3**0.75)
    assert measured.stable_rank == pytest.approx(10 / 9)


def test_an_update_without_changes_has_rank_zero():
    measured = update_rank(np.zeros((3, 4), np.float32))
    assert (measured.rank, measured.stable_rank, measured.effective_rank) == (0, 0.0, 0.0)


def test_a_singular_value_below_the_tolerance_does_not_count():
    # Tolerance of a 2 x 2 matrix: 2 * 1.19e-7 * 1 = 2.4e-7.
    assert update_rank(np.diag([1.0, 2e-7]).astype(np.float32)).rank == 1
    assert update_rank(np.diag([1.0, 3e-7]).astype(np.float32)).rank == 2


def test_the_longer_side_sets_the_tolerance():
    # 2 x 64: 64 * 1.19e-7 = 7.6e-6, whichever way the matrix stands.
    delta = np.zeros((2, 64), np.float32)
    delta[0, 0], delta[1, 1] = 1.0, 1e-6
    assert update_rank(delta).rank == update_rank(delta.T).rank == 1


def test_control_keeps_the_amounts_and_forgets_the_positions():
    delta = sparse_delta((30, 20), 0.2, seed=1)
    control = random_control(delta, np.random.default_rng(7))
    assert control.shape == delta.shape
    assert sorted(control[control != 0]) == sorted(delta[delta != 0])
    assert ((control != 0) != (delta != 0)).any()
    assert (control == random_control(delta, np.random.default_rng(7))).all()
    assert (control != random_control(delta, np.random.default_rng(8))).any()


def test_control_of_a_structured_update_has_a_higher_rank():
    delta = np.zeros((20, 20), np.float32)
    delta[3] = np.arange(1, 21)
    assert update_rank(delta).rank == 1
    assert update_rank(random_control(delta, np.random.default_rng(0))).rank > 5


@pytest.mark.parametrize(
    ("name", "shape", "counts"),
    [
        ("model.embed_tokens.weight", (512, 64), True),
        ("lm_head.weight", (512, 64), True),
        ("model.layers.0.self_attn.q_proj.bias", (64,), False),
        ("model.layers.0.input_layernorm.weight", (64,), False),
        ("encoder.layernorm_projection.weight", (64, 64), False),
    ],
)
def test_the_authors_count_matrices_outside_layer_norms(name, shape, counts):
    assert has_rank(name, shape) is counts


def test_mean_rank_share_is_a_mean_over_matrices():
    assert mean_rank_share([(10, 10), (50, 100)]) == 0.75
    with pytest.raises(ValueError, match="no matrix"):
        mean_rank_share([])


@pytest.mark.parametrize("bad", [np.full((2, 2), np.nan), np.array([[np.inf, 0]]), np.zeros(3)])
def test_what_has_no_rank_is_refused(bad):
    with pytest.raises(ValueError, match=r"no rank|needs a matrix"):
        update_rank(bad.astype(np.float32))
    with pytest.raises(ValueError, match=r"no rank|needs a matrix"):
        rank_alone(bad.astype(np.float32))


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
