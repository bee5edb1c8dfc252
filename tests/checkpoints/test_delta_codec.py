"""Blocks of a delta: worked out by hand, and lossless for any bits of any width."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlsubnet.checkpoints.delta_codec import (
    HEADER,
    decode_block,
    encode_block,
    folded_steps,
    moved,
    ordered,
)

KINDS = [np.uint8, np.uint16, np.uint32, np.uint64]


def streams(block: bytes) -> list[list[int]]:
    """Return the streams behind a block's header, inflated by zlib alone."""
    found, at = [], HEADER.size
    while at < len(block):
        (length,) = struct.unpack_from("<I", block, at)
        found.append(list(zlib.decompress(block[at + 4 : at + 4 + length], wbits=-15)))
        at += 4 + length
    return found


def test_a_block_byte_by_byte():
    # 1.0 is 0x3f80; two numbers up, one down, unchanged, and -1.0: 2 * 0x3f80 + 1 steps down.
    before = np.full(9, 0x3F80, np.uint16)
    after = before.copy()
    after[[0, 1, 8]] = 0x3F82, 0x3F7F, 0xBF80
    block = encode_block(before, after)
    assert HEADER.unpack_from(block) == (len(block) - 12, 3, 1)
    # Folded: +2 -> 4, -1 -> 1, and -0x7f01 -> 2 * 0x7f01 - 1 = 0xfe01, escaped.
    assert streams(block) == [[0b00000011, 0b00000001], [4, 1, 255], [0x01], [0xFE]]


@pytest.mark.parametrize("kind", KINDS)
def test_order_and_steps_agree_with_the_numbers(kind):
    floats = {np.uint16: np.float16, np.uint32: np.float32, np.uint64: np.float64}
    if kind not in floats:
        pytest.skip("numpy has no float of 8 bits")
    number = floats[kind]
    values = np.array([-np.inf, -2.0, -1.0, -0.0, 0.0, 1e-5, 1.0, 2.0, np.inf], number)
    assert (np.diff(ordered(values.view(kind)).astype(object)) > 0).all()
    up = np.nextafter(values[1:-1], number(np.inf))
    steps = folded_steps(values[1:-1].view(kind), up.view(kind))
    # Zero has two codes: from -0.0 the next larger number is beyond 0.0, two places on.
    assert steps.tolist() == [4 if str(value) == "-0.0" else 2 for value in values[1:-1]]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_block_comes_back(data):
    kind = data.draw(st.sampled_from(KINDS))
    largest = int(np.iinfo(kind).max)
    code = st.one_of(
        st.sampled_from([0, 1, largest, largest // 2, largest // 2 + 1]), st.integers(0, largest)
    )
    pairs = data.draw(st.lists(st.tuples(code, code, st.booleans()), min_size=1, max_size=40))
    before = np.array([a for a, _, _ in pairs], kind)
    after = np.array([b if change else a for a, b, change in pairs], kind)
    block = encode_block(before, after)
    nbytes, changes, escapes = HEADER.unpack_from(block)
    assert (nbytes, changes) == (len(block) - HEADER.size, int((before != after).sum()))
    assert decode_block(before, changes, escapes, block[HEADER.size :]).tolist() == after.tolist()
    assert moved(before, folded_steps(before, after)).tolist() == after.tolist()


def test_a_block_that_does_not_fit_its_header_is_refused():
    before = np.arange(300, dtype=np.uint16)
    after = before + np.uint16(1)
    after[7] = 60000
    block = encode_block(before, after)
    _, changes, escapes = HEADER.unpack_from(block)
    payload = block[HEADER.size :]
    assert decode_block(before, changes, escapes, payload).tolist() == after.tolist()
    wrong = [
        (changes - 1, escapes, payload),
        (changes + 1, escapes, payload),
        (changes, escapes - 1, payload),
        (changes, escapes, payload[:-1]),
        (changes, escapes, payload + b"\0"),
        (changes, escapes, payload[:4]),
    ]
    for number in range(len(wrong)):
        with pytest.raises(ValueError, match="stream"):
            decode_block(before, *wrong[number])
    with pytest.raises(ValueError, match="stream"):  # as many weights as a byte fewer holds
        decode_block(before[:290], changes, escapes, payload)
