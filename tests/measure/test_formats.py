import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlsubnet.measure.formats import (
    E4M3_VALUES,
    count_not_finite,
    dequantize,
    scale_of_each,
    to_bfloat16,
    to_float32,
)

BOUNDARIES = [0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7FFFFF, 0x7F800000, 0x7FFFFFFF]


@given(st.lists(st.integers(0, 2**32 - 1) | st.sampled_from(BOUNDARIES), min_size=1))
def test_rounding_equals_torch_for_any_bits(bits):
    values = np.array(bits, np.uint32).view(np.float32)
    ours = to_bfloat16(values)
    theirs = torch.from_numpy(values.copy()).bfloat16().view(torch.uint16).numpy()
    number = ~np.isnan(values)
    assert (ours[number] == theirs[number]).all()
    assert np.isnan(to_float32(ours[~number])).all()


def test_not_finite_counts_in_every_stored_type():
    values = np.array([0.0, np.nan, np.inf, -np.inf, 65504.0], np.float32)
    stored = (values, values.astype(np.float16), to_bfloat16(values))
    assert [count_not_finite(weights) for weights in stored] == [3, 3, 3]


def test_weights_of_another_type_are_refused():
    with pytest.raises(ValueError, match="found float64"):
        to_float32(np.zeros(1))


def test_all_256_codes_have_the_values_that_torch_gives_them():
    codes = torch.arange(256, dtype=torch.uint8)
    expected = codes.view(torch.float8_e4m3fn).float().numpy()
    assert np.isnan(expected).sum() == 2
    # Bits, since -0.0 is a code of its own; the bits of a NaN mean nothing.
    numbers = ~np.isnan(expected)
    assert (np.isnan(E4M3_VALUES) == ~numbers).all()
    assert (E4M3_VALUES.view(np.uint32) == expected.view(np.uint32))[numbers].all()


@pytest.mark.parametrize("exponent", [-140, -133, -20, -12, 0, 110, 119, 127])
def test_products_round_to_bfloat16_as_in_torch(exponent):
    # From products below the smallest normal number to products beyond the largest.
    generator = torch.Generator().manual_seed(exponent + 200)
    codes = torch.arange(256, dtype=torch.uint8).repeat(64)
    scales = (1 + torch.rand(codes.shape, generator=generator)) * 2.0**exponent
    expected = (codes.view(torch.float8_e4m3fn).float() * scales).bfloat16()
    found = dequantize(codes.numpy(), scales.numpy())
    numbers = ~expected.isnan().numpy()
    assert (found == expected.view(torch.uint16).numpy())[numbers].all()
    assert (found[~numbers] == 0x7FC0).all()


@given(st.data())
def test_scales_of_any_range_are_those_of_the_blocks_of_its_weights(data):
    size = st.integers(1, 9)
    rows, columns, block = data.draw(size), data.draw(size), (data.draw(size), data.draw(size))
    start = data.draw(st.integers(0, rows * columns - 1))
    count = data.draw(st.integers(1, rows * columns - start))
    shape = -(-rows // block[0]), -(-columns // block[1])
    scales = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    positions = [divmod(position, columns) for position in range(start, start + count)]
    expected = [scales[row // block[0], column // block[1]] for row, column in positions]
    from_first = scales[start // columns // block[0] :]
    assert scale_of_each(from_first, block, columns, start, count).tolist() == expected


def test_a_block_larger_than_any_memory_costs_none():
    assert scale_of_each(np.ones((1, 1)), (10**12, 10**12), 3, 0, 6).tolist() == [1.0] * 6
