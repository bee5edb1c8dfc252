import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlsubnet.measure.formats import E4M3_VALUES, dequantize, scale_of_each


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
