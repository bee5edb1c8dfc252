"""bfloat16 in numpy, which has no such type: codes are the upper 16 bits of a float32."""

import numpy as np

EXPONENT = np.uint16(0x7F80)


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
