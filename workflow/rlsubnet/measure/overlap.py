"""How much two subnetworks share, and how much chance alone would let them share (section 5).

Chance means that each run picks the weights it updates without regard to the other run. What that
gives depends on what the runs are granted beforehand; each null grants more than the one above:

* ``uniform``: as many weights as each run updated, anywhere in the model (Appendix E).
* ``per_tensor``: as many in each tensor as each run updated there.
* ``per_magnitude``: as many in each tensor and bfloat16 exponent of the weight before finetuning.

A bfloat16 weight shows a change only once it has moved half the way to its neighbor. Neighbors are
equally far apart for all weights of one exponent, and twice as far for the next: small weights
change visibly in every run. Runs that share nothing but their start therefore exceed the first two
nulls and meet the third. What exceeds the third is shared, but may still have a plain cause: runs
on the same texts leave the same rows of the embedding alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlsubnet.measure.formats import EXPONENTS, to_bfloat16
from rlsubnet.measure.sparsity import Sums

# Differs from the paper: it has the first null alone.
NULLS = {
    "uniform": "uniform (the paper's)",
    "per_tensor": "same density in each tensor",
    "per_magnitude": "same density in each tensor and bf16 exponent",
}
DRAWS = 2000


@dataclass(frozen=True)
class OverlapCounts(Sums):
    """Sizes of two subnetworks of the same weights.

    Of ``numel`` weights, run 1 updated ``first`` (``|I1|``), run 2 ``second`` (``|I2|``), and
    ``both`` were updated in both (``|I1 & I2|``).
    """

    numel: int = 0
    first: int = 0
    second: int = 0
    both: int = 0


def popcount(packed: np.ndarray) -> int:
    """Return how many bits of a uint8 array are set.

    >>> popcount(np.array([0b111, 0b1], np.uint8))
    4
    """
    words = packed.size // 8 * 8
    counts = np.bitwise_count(packed[:words].view(np.uint64))
    rest = np.bitwise_count(packed[words:])
    return int(counts.sum(dtype=np.int64)) + int(rest.sum(dtype=np.int64))


def exponent_counts(first: np.ndarray, second: np.ndarray, init: np.ndarray) -> np.ndarray:
    """Return the sizes of two subnetworks among the weights of each bfloat16 exponent.

    The masks are bool. Returns int64, shape (256, 4): per exponent the number of weights, of those
    that run 1 and run 2 updated (``first``, ``second``), and of those that both did.

    The exponent is the stored one of bfloat16: 127 for 1, 0 for zero and subnormal numbers. A start
    in float16 or float32 is first rounded to bfloat16, to nearest and ties to even, which is the
    type that the authors' rule compares updates in. NaN, Inf and what rounds to Inf is refused.

    Of the weights 1 and 1.5 both runs updated the first; of 2 and 3 run 2 alone updated the last.

    >>> init = np.array([1.0, 1.5, 2.0, 3.0], np.float32)
    >>> first, second = np.array([True, False, False, False]), np.array([True, False, False, True])
    >>> exponent_counts(first, second, init)[127:129]
    array([[2, 1, 1, 1],
           [2, 0, 1, 0]])
    """
    if not first.dtype == second.dtype == np.bool_ or not first.shape == second.shape == init.shape:
        found = [f"{array.dtype} {list(array.shape)}" for array in (first, second, init)]
        raise ValueError(f"expected two bool masks of the weights' shape, found {found}")
    exponents = (to_bfloat16(init) >> np.uint16(7)) & np.uint16(0xFF)
    # One number for all that is to be told apart: exponent, run 1, run 2.
    keys = (exponents << np.uint16(2)) | (first.astype(np.uint16) << np.uint16(1)) | second
    return refuse_bad_exponents(np.bincount(keys.reshape(-1), minlength=4 * EXPONENTS), init.size)


def refuse_bad_exponents(by_key: np.ndarray, numel: int) -> np.ndarray:
    """Return ``exponent_counts`` from the number of weights of each key, exponent * 4 + marks."""
    counts = by_key.reshape(EXPONENTS, 2, 2)
    if bad := int(counts[-1].sum()):
        raise ValueError(f"{bad} of {numel} weights before finetuning are no finite bfloat16")
    return np.stack(
        [counts.sum((1, 2)), counts[:, 1].sum(1), counts[:, :, 1].sum(1), counts[:, 1, 1]], axis=1
    )


def chance_overlap(groups: np.ndarray) -> float:
    """Return how many weights two subnetworks share by chance, given their sizes in each group.

    Of ``n`` weights run 1 updated ``a`` and run 2 ``c``. When either picks its own at random, the
    other has picked each with probability ``c / n``: they share ``a c / n``. Groups add up, each
    a row ``n, a, c, ...``.

    Of 4 small weights run 1 updated 4 and run 2 updated 3, of 12 large ones 4 and 3: given that,
    chance shares 4 * 3 / 4 = 3 and 4 * 3 / 12 = 1. Ignoring magnitude, one would expect
    8 * 6 / 16 = 3.

    >>> chance_overlap(np.array([[4, 4, 3], [12, 4, 3]]))
    4.0
    >>> chance_overlap(np.array([[16, 8, 6]]))
    3.0
    """
    numel, first, second = groups[groups[:, 0] > 0, :3].astype(np.float64).T
    return float((first * (second / numel)).sum())


@dataclass(frozen=True)
class TensorOverlap:
    """What two subnetworks share in one tensor.

    ``by_magnitude`` is the ``chance_overlap`` of its ``exponent_counts``, None where the weights
    before finetuning are not known.
    """

    counts: OverlapCounts
    by_magnitude: float | None = None


@dataclass(frozen=True)
class Overlap:
    """One-sided overlaps of two subnetworks beside those of one null.

    Attributes:
        null: a key of ``NULLS``.
        o1: ``|I1 & I2| / |I1|`` in [0, 1], the share of subnetwork 1 that lies in subnetwork 2.
        o2: ``|I1 & I2| / |I2|``.
        o1_null, o2_null: what the null gives for them.
        lift: what the subnetworks share over what they share under the null, which is
            ``o1 / o1_null`` and ``o2 / o2_null``. 1 is chance; the most there can be is 1 over the
            larger of ``o1_null`` and ``o2_null``. nan where the null shares nothing.
        ci_low, ci_high: 95 % interval of ``lift``, see ``overlap_beside_nulls``.
    """

    null: str
    o1: float
    o2: float
    o1_null: float
    o2_null: float
    lift: float
    ci_low: float
    ci_high: float


def _columns(tensors: Sequence[TensorOverlap]) -> np.ndarray:
    """Return a row per tensor: numel, first, second, both, then what it shares by chance."""
    known = [tensor.by_magnitude is not None for tensor in tensors]
    if any(known) and not all(known):
        raise ValueError("the weights before finetuning are known for some tensors, expected all")
    rows = []
    for tensor in tensors:
        counts = tensor.counts
        sizes = [counts.numel, counts.first, counts.second, counts.both]
        finer = [] if tensor.by_magnitude is None else [tensor.by_magnitude]
        rows.append([*sizes, chance_overlap(np.array([sizes])), *finer])
    return np.array(rows, np.float64)


def _shared_by_chance(sums: np.ndarray) -> np.ndarray:
    """Return what each null shares, shape (..., nulls), from sums over rows of ``_columns``."""
    numel, first, second = sums[..., 0], sums[..., 1], sums[..., 2]
    return np.concatenate([(first * (second / numel))[..., None], sums[..., 4:]], axis=-1)


def _lift_intervals(
    table: np.ndarray, generator: np.random.Generator, draws: int
) -> list[tuple[float, float]]:
    tensors = len(table)
    sums = np.empty((draws, table.shape[1]))
    for draw in range(draws):
        repeats = np.bincount(generator.integers(tensors, size=tensors), minlength=tensors)
        sums[draw] = repeats @ table
    with np.errstate(divide="ignore", invalid="ignore"):
        lifts = sums[:, 3:4] / _shared_by_chance(sums)
    # A lift of 0 / 0 in one sample leaves no interval: np.quantile returns nan.
    low, high = np.quantile(lifts, [0.025, 0.975], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def overlap_beside_nulls(
    tensors: Sequence[TensorOverlap], generator: np.random.Generator, draws: int = DRAWS
) -> list[Overlap]:
    """Return the overlaps of section 5 beside each null, coarse to fine.

    The interval of the lift is a percentile bootstrap over tensors: whole tensors are drawn with
    replacement, as many as there are, and the lift is taken over what was drawn. It covers how much
    the lift differs between tensors, and that updates within a tensor depend on each other. It does
    not cover what other seeds, data or another start would give, nor a null that is too coarse. A
    tiny model has 25 to 40 tensors, of which layer norms hold hardly an update: the interval is
    rough there (about 92 % in simulations with 20 equal tensors), and rougher still where one
    tensor holds most updates. It is nan with fewer than two tensors, and where a sample held
    nothing that the null would share.

    ``per_magnitude`` is left out where no tensor has it. All nulls see the same ``draws``.

    Raises:
        ValueError: a subnetwork is empty, so that its overlap is not defined.

    Of two tensors with 8 weights each, both runs left the second alone. In the first, run 1 updated
    4 weights and run 2 two of these. Uniform chance shares 4 * 2 / 16 = 0.5, chance within the
    tensor 4 * 2 / 8 = 1.

    >>> parts = OverlapCounts(8, first=4, second=2, both=2), OverlapCounts(8)
    >>> tensors = [TensorOverlap(part) for part in parts]
    >>> for found in overlap_beside_nulls(tensors, np.random.default_rng(0)):
    ...     print(found.null, found.o1, found.o2, found.o1_null, found.o2_null, found.lift)
    uniform 0.5 1.0 0.125 0.25 4.0
    per_tensor 0.5 1.0 0.25 0.5 2.0
    """
    total = sum((tensor.counts for tensor in tensors), OverlapCounts())
    for number, size in ((1, total.first), (2, total.second)):
        if size == 0:
            raise ValueError(f"subnetwork {number} is empty: its overlap is not defined")
    table = _columns(tensors)
    intervals = [(float("nan"), float("nan"))] * len(NULLS)
    if len(tensors) > 1:
        intervals = _lift_intervals(table, generator, draws)
    found = []
    chances = _shared_by_chance(table.sum(axis=0)).tolist()
    for null, chance, interval in zip(NULLS, chances, intervals, strict=False):
        # Rounding must not carry it beyond what a whole subnetwork holds.
        shared = min(chance, total.first, total.second)
        found.append(
            Overlap(
                null,
                total.both / total.first,
                total.both / total.second,
                shared / total.first,
                shared / total.second,
                total.both / shared if shared else float("nan"),
                *interval,
            )
        )
    return found


def _bits(packed: np.ndarray, numel: int) -> np.ndarray:
    return np.unpackbits(packed, count=numel, bitorder="little").view(np.bool_)


def numpy_shared_bits(
    first: np.ndarray, second: np.ndarray, numel: int, init: np.ndarray | None = None
) -> tuple[OverlapCounts, np.ndarray | None]:
    """Return the sizes of two subnetworks, and ``exponent_counts`` where ``init`` is given.

    ``first`` and ``second`` are packed bits, the first weight lowest, zeros beyond the last.

    >>> first, second = np.array([0b0011], np.uint8), np.array([0b0110], np.uint8)
    >>> counts, by_exponent = numpy_shared_bits(first, second, 3, np.ones(3, np.float32))
    >>> counts, by_exponent[127].tolist()
    (OverlapCounts(numel=3, first=2, second=2, both=1), [3, 2, 2, 1])
    """
    if init is None:
        sizes = map(popcount, (first, second, first & second))
        return OverlapCounts(numel, *sizes), None
    groups = exponent_counts(_bits(first, numel), _bits(second, numel), init)
    return OverlapCounts(*groups.sum(axis=0).tolist()), groups
