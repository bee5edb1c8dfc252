"""Every kernel of the pass against the plain definitions and against torch."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from rlsubnet.measure.formats import to_bfloat16
from rlsubnet.measure.kernel import Counts, Kernel, Request, numpy_kernel
from rlsubnet.measure.kernels import VARIABLE, WORTH_COMPILING, choose_kernel
from rlsubnet.measure.overlap import exponent_counts
from rlsubnet.measure.sparsity import TOLERANCES, changed
from tests.measure.plain import plain_counts

numba_kernel = pytest.importorskip("rlsubnet.measure.kernel_numba").numba_kernel
KERNELS: list[Kernel] = [numpy_kernel, numba_kernel]
CASTS = {
    "bfloat16": to_bfloat16,
    "float16": lambda weights: weights.astype(np.float16),
    "float32": lambda weights: weights,
}
# Neither a multiple of a byte nor of a block.
NUMEL = 10_003


def update(types: tuple[str, str], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Weights and an update of about half of them, with zeros that change sign and large steps."""
    rng = np.random.default_rng(seed)
    init = (0.02 * rng.standard_normal(NUMEL)).astype(np.float32)
    init[: NUMEL // 10] *= 1e-4
    step = 2e-5 * rng.standard_normal(NUMEL) * (rng.random(NUMEL) < 0.6)
    tuned = (init + step).astype(np.float32)
    init[:4], tuned[:4] = [0.0, -0.0, 1e-5, 300.0], [-0.0, 0.0, 0.0, -300.0]
    # A tie of bfloat16, and the same number in its last place of float32.
    init[4:6], tuned[4:6] = [1.0, 1.0], [1 + 2**-8, 1 + 2**-23]
    return CASTS[types[0]](init), CASTS[types[1]](tuned)


def run(kernel, init, tuned, request, cut=NUMEL):
    counts, packed = Counts(request), []
    for start in range(0, init.size, cut):
        before, after = init[start : start + cut], tuned[start : start + cut]
        packed.append(np.full((before.size + 7) // 8, 255, np.uint8))
        assert kernel(before, after, request, counts, packed[-1])
    return counts, np.concatenate(packed)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("types", list(itertools.product(CASTS, CASTS)))
@pytest.mark.parametrize(("rule", "atol"), [("bitwise", 0.0), ("official", 1e-5), ("exact", 1e-6)])
def test_one_pass_gives_the_counts_mask_and_exponents_of_the_plain_definitions(
    kernel, types, rule, atol
):
    init, tuned = update(types)
    request = Request((0.0, *TOLERANCES), rule, atol, by_exponent=True)
    expected = plain_counts(init, tuned, request.tolerances)
    marked = changed(init, tuned, rule, atol)
    by_exponent = exponent_counts(marked, marked, init)[:, :2]
    assert 0 < marked.sum() < NUMEL
    for cut in (NUMEL, 1024, 8 * 301):
        counts, packed = run(kernel, init, tuned, request, cut)
        assert counts.update_counts(request.tolerances) == expected
        assert (packed == np.packbits(marked, bitorder="little")).all()
        assert counts.by_exponent is not None
        assert (counts.by_exponent == by_exponent).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("types", [("bfloat16",) * 2, ("float32",) * 2, ("float16", "bfloat16")])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_told_on_either_side_or_both(kernel, types, bad):
    for sides in ((0,), (1,), (0, 1)):
        weights = [np.zeros(NUMEL, np.float32) for _ in range(2)]
        for side in sides:
            weights[side][NUMEL - 2] = bad
        init, tuned = (CASTS[kind](array) for kind, array in zip(types, weights, strict=True))
        assert not kernel(init, tuned, Request((1e-5,)), Counts(Request((1e-5,))), None)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_counted_of_no_weights(kernel):
    request = Request((1e-5,), by_exponent=True)
    counts, empty = Counts(request), np.empty(0, np.uint16)
    assert kernel(empty, empty, request, counts, np.empty(0, np.uint8))
    assert counts.update_counts([1e-5]) == plain_counts(empty, empty, [1e-5])


@pytest.mark.parametrize("kernel", KERNELS)
def test_stretches_on_one_side_of_a_tolerance_are_counted_as_any_other(kernel):
    # 2,048 weights of each kind: two of the blocks that the compiled kernel looks at.
    scales = np.repeat([0.0, 1e-9, 1e-8, 3e-8, 1e-7, 1e-6, 3e-6, 1e-5, 1e-3], 2048)
    rng = np.random.default_rng(0)
    init = to_bfloat16((4 * scales).astype(np.float32))
    for moved in (np.ones(scales.size), rng.random(scales.size) < 0.5):
        tuned = to_bfloat16((4 * scales + moved * scales).astype(np.float32))
        tuned[:7] = 0x8000  # zeros that change sign differ in their bits, by nothing
        counts, _ = run(kernel, init, tuned, Request((0.0, *TOLERANCES)), init.size)
        expected = plain_counts(init, tuned, (0.0, *TOLERANCES))
        assert counts.update_counts((0.0, *TOLERANCES)) == expected
        assert 0 < expected.unchanged["official", 1e-5] < init.size


def test_every_pair_of_bfloat16_codes_near_a_threshold_is_decided_as_torch_does():
    # All finite codes against a few: rounding boundaries of every tolerance are among them.
    codes = np.arange(1 << 16, dtype=np.uint16)
    codes = codes[(codes & 0x7F80) != 0x7F80]
    for other in (0.0, 1e-8, 9.97e-6, 1e-5, 0.02, -3.0):
        tuned = np.full_like(codes, to_bfloat16(np.array([other], np.float32))[0])
        first, second = (run(k, codes, tuned, Request(TOLERANCES), codes.size) for k in KERNELS)
        assert (first[0].changed == second[0].changed).all()
        assert (first[1] == second[1]).all()
        before = torch.from_numpy(codes.view(np.int16)).view(torch.bfloat16)
        after = torch.from_numpy(tuned.view(np.int16)).view(torch.bfloat16)
        delta = after - before
        for row, atol in zip(first[0].changed, TOLERANCES, strict=True):
            close = torch.isclose(delta, torch.zeros_like(delta), atol=atol)
            assert row[0] == codes.size - int(close.sum())


def test_small_checkpoints_are_not_worth_importing_numba(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert choose_kernel("auto", WORTH_COMPILING - 1) is numpy_kernel
    assert choose_kernel("auto", WORTH_COMPILING) is numba_kernel
    assert choose_kernel("numba", 0) is numba_kernel
    assert choose_kernel("numpy", WORTH_COMPILING) is numpy_kernel
    monkeypatch.setenv(VARIABLE, "numpy")
    assert choose_kernel("auto", WORTH_COMPILING) is numpy_kernel
    assert choose_kernel("numba", 0) is numba_kernel
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(ValueError, match="expected one of auto, numpy, numba, found 'cuda'"):
        choose_kernel("auto", 0)


def test_without_numba_numpy_stands_in_and_asking_for_it_is_refused():
    code = (
        "import importlib.util as u, sys\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'numba' else find(name, *rest)\n"
        "from rlsubnet.measure.kernels import choose_kernel\n"
        "assert choose_kernel('auto', 1 << 40).__name__ == 'numpy_kernel'\n"
        "assert 'numba' not in sys.modules\n"
        "try:\n"
        "    choose_kernel('numba', 0)\n"
        "except ValueError as error:\n"
        "    assert '[fast]' in str(error)\n"
        "else:\n"
        "    raise SystemExit('not refused')\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
