"""How a delta stores a block of weights: which changed, and by how many steps of their type.

Weights are handled as the unsigned integers of their bits, whatever their type. Numbers of one
type, ordered by value, stand a *step* apart (1.0 and the next larger bfloat16 number are one step
apart), and a finetuned weight is few steps away from where it was. The steps, signed, are folded
to 1, 2, 3, 4 ... for -1, +1, -2, +2 ... and take one byte each; what does not fit is escaped. No
arithmetic on the numbers themselves: NaN, Inf and -0.0 are no special case.

A block of n weights of w bytes, all integers little-endian:

* three uint32: bytes that follow, changed weights, escapes; where nothing changed, nothing follows;
* ``2 + w`` streams, each a uint32 length and that many bytes of raw DEFLATE (RFC 1951):
  one bit per weight, set where it changed (bit 0 of byte 0 first), ceil(n / 8) bytes;
  one byte per changed weight, the folded step, or 255 for an escape;
  the w bytes of the escaped folded steps, all lowest bytes first, then the next ones.
"""

import struct
import zlib
from typing import Any

import numpy as np

# Weights per block, as many as the measuring commands read at a time.
BLOCK = 1 << 18
HEADER = struct.Struct("<III")
ESCAPE = 255
_LENGTH = struct.Struct("<I")
# Near the shortest Huffman code, one bit a byte, runs of equal bytes may be worth more.
_FEW_BITS = 0.2

Codes = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]


def as_codes(weights: np.ndarray) -> Codes:
    """Return the bits of weights as unsigned integers, flat, without a copy."""
    return weights.reshape(-1).view(f"u{weights.dtype.itemsize}")


def _negative(codes: Codes) -> Codes:
    """Return all ones where the highest bit is set, else 0."""
    bits = 8 * codes.dtype.itemsize
    signed: np.ndarray = codes.view(f"i{codes.dtype.itemsize}") >> (bits - 1)
    return signed.view(codes.dtype)


def _highest(kind: np.dtype[Any]) -> Any:
    return kind.type(1 << (8 * kind.itemsize - 1))


def ordered(codes: Codes) -> Codes:
    """Return integers that grow with the floating-point numbers that ``codes`` are the bits of.

    A bijection: -0.0 comes right before 0.0, NaN at both ends.

    >>> minus_one, minus_zero, zero, one = 0xBF80, 0x8000, 0x0000, 0x3F80  # bfloat16
    >>> ordered(np.array([minus_one, minus_zero, zero, one], np.uint16)).tolist()
    [16511, 32767, 32768, 49024]
    """
    return codes ^ (_negative(codes) | _highest(codes.dtype))


def _unordered(places: Codes) -> Codes:
    return places ^ (_negative(~places) | _highest(places.dtype))


def folded_steps(before: Codes, after: Codes) -> Codes:
    """Return by how many steps each weight moved: 0 for none, 1 for -1, 2 for +1, 3 for -2 ...

    >>> folded_steps(np.array([0x3F80] * 3, np.uint16), np.array([0x3F80, 0x3F7F, 0x3F82],
    ...     np.uint16)).tolist()
    [0, 1, 4]
    """
    places = ordered(after)
    places -= ordered(before)  # modulo the largest code: no difference is too large
    sign = _negative(places)
    places <<= places.dtype.type(1)
    places ^= sign
    return places


def moved(before: Codes, folded: Codes) -> Codes:
    """Return the weights that are ``folded`` steps away; the inverse of ``folded_steps``."""
    one = folded.dtype.type(1)
    steps = folded >> one
    steps ^= folded.dtype.type(0) - (folded & one)
    steps += ordered(before)
    return _unordered(steps)


def _deflate(data: bytes) -> bytes:
    # There is nothing to find for a search of repeats: Huffman codes alone are faster and smaller.
    def with_strategy(strategy: int) -> bytes:
        stream = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
        return stream.compress(data) + stream.flush()

    packed = with_strategy(zlib.Z_HUFFMAN_ONLY)
    if len(packed) < _FEW_BITS * len(data):
        packed = min(packed, with_strategy(zlib.Z_RLE), key=len)
    return _LENGTH.pack(len(packed)) + packed


def encode_block(before: Codes, after: Codes) -> bytes:
    """Return what turns ``before`` into ``after``: flat, of one length and one type.

    >>> len(encode_block(np.arange(9, dtype=np.uint16), np.arange(9, dtype=np.uint16)))
    12
    """
    folded = folded_steps(before, after)
    steps = np.minimum(folded, folded.dtype.type(ESCAPE)).astype(np.uint8)
    changed = steps != 0
    places = np.flatnonzero(changed)
    if not places.size:
        return HEADER.pack(0, 0, 0)
    escaped = folded.take(np.flatnonzero(steps == ESCAPE))
    planes = escaped.view(np.uint8).reshape(escaped.size, before.dtype.itemsize).T
    streams = [
        _deflate(np.packbits(changed, bitorder="little").tobytes()),
        _deflate(steps.take(places).tobytes()),
        *(_deflate(plane.tobytes()) for plane in planes),
    ]
    payload = b"".join(streams)
    return HEADER.pack(len(payload), places.size, escaped.size) + payload


def _inflate(data: memoryview, size: int) -> tuple[bytes, memoryview]:
    """Return the first stream of ``data``, which must hold ``size`` bytes, and what follows it."""
    if len(data) < _LENGTH.size:
        raise ValueError("a stream is missing")
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    if end > len(data):
        raise ValueError("a stream is cut short")
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # One byte more than expected: a damaged stream must not fill the memory.
        found = stream.decompress(data[_LENGTH.size : end], size + 1)
    except zlib.error as error:
        raise ValueError(f"a stream is damaged ({error})") from error
    if len(found) != size or not stream.eof or stream.unused_data:
        raise ValueError(f"a stream does not hold {size} bytes")
    return found, data[end:]


def decode_block(before: Codes, changes: int, escapes: int, payload: bytes) -> Codes:
    """Return what ``encode_block`` was given as ``after``.

    Args:
        before: as it was given.
        changes, escapes: as the block's header has them.
        payload: what follows the header.

    Raises:
        ValueError: the block is damaged.

    >>> before, after = np.array([1, 2, 3], np.uint16), np.array([1, 9000, 4], np.uint16)
    >>> block = encode_block(before, after)
    >>> _, changes, escapes = HEADER.unpack_from(block)
    >>> decode_block(before, changes, escapes, block[HEADER.size:]).tolist()
    [1, 9000, 4]
    """
    after = before.copy()
    if not payload:
        return after
    kind, size, rest = before.dtype, before.size, memoryview(payload)
    bitmap, rest = _inflate(rest, (size + 7) // 8)
    low, rest = _inflate(rest, changes)
    planes = np.empty((escapes, kind.itemsize), np.uint8)
    for byte in range(kind.itemsize):
        plane, rest = _inflate(rest, escapes)
        planes[:, byte] = np.frombuffer(plane, np.uint8)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    steps = np.frombuffer(low, np.uint8)
    escaped = np.flatnonzero(steps == ESCAPE)
    counted = (int(bits[:size].sum()), int(bits[size:].sum()), escaped.size, len(rest))
    if counted != (changes, 0, escapes, 0):
        raise ValueError("the streams of a block do not fit each other")
    folded = steps.astype(kind)
    folded[escaped] = planes.view(kind).reshape(-1)
    places = np.flatnonzero(bits[:size])
    after[places] = moved(before.take(places), folded)
    return after
