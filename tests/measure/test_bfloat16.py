import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlsubnet.measure.formats import count_not_finite, to_bfloat16, to_float32

BOUNDARIES = [0x3F808000, 0x3F818000, 0x3F807FFF, 0x3F808001, 0x7F7FFFFF, 0x7F800000, 0x7FFFFFFF]


@given(st.lists(st.integers(0, 2**32 - 1) | st.sampled_from(BOUNDARIES), min_size=1))
def test_rounding_equals_torch_for_any_bits(bits):
    values = np.array(bits, np.uint32).view(np.float32)
    ours = to_bfloat16(values)
    theirs = torch.from_numpy(values.copy()).bfloat16().view(torch.uint16).numpy()
    number = ~np.isnan(values)
    assert (ours[number] == theirs[number]).all()
    assert np.isnan(to_float32(ours[~number])).all()


def test_every_code_survives_the_way_to_float32_and_back():
    codes = np.arange(2**16, dtype=np.uint16)
    number = ~np.isnan(to_float32(codes))
    assert (to_bfloat16(to_float32(codes))[number] == codes[number]).all()


def test_not_finite_counts_in_every_stored_type():
    values = np.array([0.0, np.nan, np.inf, -np.inf, 65504.0], np.float32)
    stored = (values, values.astype(np.float16), to_bfloat16(values))
    assert [count_not_finite(weights) for weights in stored] == [3, 3, 3]


def test_weights_of_another_type_are_refused():
    with pytest.raises(ValueError, match="found float64"):
        to_float32(np.zeros(1))
