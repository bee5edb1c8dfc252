"""bfloat16 and fp8 in numpy, which has no such types: both arrive as codes.

A bfloat16 code is the upper 16 bits of a float32.
"""

import numpy as np

EXPONENT = np.uint16(0x7F80)
# How many exponents a bfloat16 number can have.
EXPONENTS = 256


def to_float32(weights: np.ndarray) -> np.ndarray:
    """Return stored weights as float32, without rounding.

    >>> to_float32(np.array([0x3F80, 0xC000], np.uint16))
    array([ 1., -2.], dtype=float32)
    """
    if weights.dtype == np.uint16:
        return (weights.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if weights.dtype in (np.float16, np.float32):
        return weights.astype(np.float32, copy=False)
    raise ValueError(
        f"weights must be uint16 (bfloat16 codes), float16 or float32, found {weights.dtype}"
    )


def to_bfloat16(weights: np.ndarray) -> np.ndarray:
    """Return the bfloat16 codes of stored weights, rounded to nearest, ties to even.

    1 + 2^-8 lies halfway between 1 and 1 + 2^-7 and goes to the even code, 0x3f80 = 16256.

    >>> to_bfloat16(np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8], np.float32))
    array([16256, 16256, 16258], dtype=uint16)
    """
    if weights.dtype == np.uint16:
        return weights
    values = to_float32(weights)
    bits = values.view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    codes = ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)
    # Adding to the bits of a NaN may carry into the sign and end at a number.
    codes[np.isnan(values)] = 0x7FC0
    return codes


def count_not_finite(weights: np.ndarray) -> int:
    """Return how many weights are NaN or infinite.

    >>> count_not_finite(np.array([0x3F80, 0x7F80, 0xFFC0], np.uint16))
    2
    """
    if weights.dtype == np.uint16:
        return int(np.count_nonzero((weights & EXPONENT) == EXPONENT))
    return int(np.count_nonzero(~np.isfinite(weights)))


def _e4m3_values() -> np.ndarray:
    """Return the float32 value of each of the 256 codes: 1 sign, 4 exponent, 3 mantissa bits."""
    codes = np.arange(256)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    # The bias is 7 and the mantissa counts eighths; exponent 0 has no implicit one.
    normal, subnormal = np.ldexp(8.0 + mantissa, exponent - 10), mantissa * 2.0**-9
    magnitude = np.where(exponent == 0, subnormal, normal)
    # This variant (`e4m3fn`) has no infinity and one NaN of each sign.
    magnitude[(codes & 0x7F) == 0x7F] = np.nan
    return np.where(codes < 128, magnitude, -magnitude).astype(np.float32)


E4M3_VALUES = _e4m3_values()


def scale_of_each(
    scales: np.ndarray, block: tuple[int, int], columns: int, start: int, count: int
) -> np.ndarray:
    """Return the scale of every weight of a flat range of a matrix.

    Args:
        scales: one per block, (block rows, block columns); its first row is that of ``start``.
        block: rows and columns of a block; the last blocks of a matrix may be smaller.
        columns: of the matrix.
        start: position in the flattened matrix of the first weight.
        count: how many weights, at least 1.

    A matrix of 3 columns in blocks of 1 x 2, its second row from its second weight on:

    >>> scale_of_each(np.array([[7.0, 9.0]]), (1, 2), columns=3, start=4, count=2)
    array([7., 9.])
    """
    first_row, last_row = start // columns, (start + count - 1) // columns
    by_column = np.repeat(scales, min(block[1], columns), axis=1)[:, :columns]
    block_rows = np.arange(first_row, last_row + 1) // block[0] - first_row // block[0]
    skipped = start - first_row * columns
    return by_column[block_rows].reshape(-1)[skipped : skipped + count]


def dequantize(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return the bfloat16 codes of ``e4m3(code) * scale``, a float32 product rounded once.

    1.125 * 0.5 = 0.5625 is 0x3f10 = 16144 in bfloat16; 0x7f is NaN and stays NaN (0x7fc0 = 32704).

    >>> dequantize(np.array([0x39, 0x7F], np.uint8), np.array([0.5, 0.5], np.float32))
    array([16144, 32704], dtype=uint16)
    """
    with np.errstate(invalid="ignore", over="ignore"):
        return to_bfloat16(E4M3_VALUES[codes] * scales)
