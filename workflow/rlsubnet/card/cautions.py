"""What a reader of a card could take wrongly, where the numbers give reason to say it."""

import math

import numpy as np

from rlsubnet.card.facts import Facts, TensorFacts, total_norms
from rlsubnet.card.parts import AT, measured, per_cent
from rlsubnet.measure.sparsity import RULES, TABLE_TOLERANCE, total_counts

# Bits of the fraction, the leading one not counted: two neighbors at 1.0 are 2**-BITS apart.
FRACTION_BITS = {"BF16": 7, "F16": 10, "F32": 23}
# Points of sparsity from which on a tolerance is worth a word.
_POINTS = 0.02
_RANGE_BITS = 127


def step_size(magnitude: float, dtype: str) -> float:
    """Return how far apart two neighbors of a type are at a magnitude.

    >>> step_size(1.0, "BF16"), step_size(0.02, "BF16") == 2.0**-13  # 0.02 lies above 2**-6
    (0.0078125, True)
    """
    return 2.0 ** (math.floor(math.log2(magnitude)) - FRACTION_BITS[dtype])


def typical_magnitude(by_exponent: np.ndarray) -> float:
    """Return the power of two below the median weight that is not zero, 0.0 without such weights.

    >>> counts = np.zeros((256, 2), np.int64)
    >>> counts[127, 0], counts[126, 0] = 5, 1  # five weights in [1, 2), one in [0.5, 1)
    >>> typical_magnitude(counts)
    1.0
    """
    weights = by_exponent[:, 0].copy()
    weights[0] = 0
    if not weights.any():
        return 0.0
    middle = int(np.searchsorted(np.cumsum(weights), weights.sum() / 2))
    return float(2.0 ** (middle - _RANGE_BITS))


def _frozen_norms(facts: Facts) -> list[str]:
    """Return whether layer norms stand still because their type is too coarse for the update."""
    norms = [t for t in facts.tensors if t.is_norm and t.counts.numel and t.dtypes[1] == "BF16"]
    others = [t for t in facts.tensors if not t.is_norm]
    if not norms or not others:
        return []
    typical = typical_magnitude(sum((t.by_exponent for t in norms), np.zeros((256, 2), np.int64)))
    counts = total_counts(t.counts for t in norms)
    still = 1 - counts.bitwise_changed / counts.numel
    moved = total_norms(others).update_rms
    if not typical or not moved or still < 0.5 or moved >= step_size(typical, "BF16") / 2:
        return []
    step = step_size(typical, "BF16")
    return [
        f"{per_cent(still, 1)} of the layer-norm weights have not changed a bit, and that may be "
        f"rounding. They lie near {typical:g}, where two bfloat16 numbers are {measured(step)} "
        f"apart; the other weights moved by {measured(moved)} (root mean square), "
        f"{step / moved:,.0f} times less. A layer-norm update of that size rounds to nothing "
        "when the file is saved."
    ]


def _tolerance(facts: Facts) -> list[str]:
    counts = facts.counts
    with_tolerance = counts.sparsity("official", TABLE_TOLERANCE)
    without = 1 - counts.bitwise_changed / counts.numel
    # In other types the official rule rounds first: that is not the tolerance's doing.
    if facts.dtypes != {"BF16"} or with_tolerance - without < _POINTS:
        return []
    return [
        f"The tolerance makes {100 * (with_tolerance - without):.1f} points of the sparsity: "
        f"{per_cent(with_tolerance, 1)} of the weights count as unchanged at {AT}, but only "
        f"{per_cent(without, 1)} have the same bits. The differing ones moved by less than "
        f"{AT}, which for weights below 0.002 is one step of bfloat16 or more."
    ]


def _float32(facts: Facts) -> list[str]:
    if facts.dtypes != {"F32"}:
        return []
    official, exact = (facts.counts.sparsity(rule, TABLE_TOLERANCE) for rule in RULES)
    return [
        "Both checkpoints are stored in float32. The paper's are bfloat16, whose rounding hides "
        f"small updates, and the official rule rounds as well: {per_cent(official, 1)} count as "
        f"unchanged by it, {per_cent(exact, 1)} by the exact rule."
    ]


def _square_ranks(facts: Facts) -> list[str]:
    below = [
        rank
        for rank in facts.ranks
        if rank.measured.rank < rank.max_rank and abs(rank.measured.rank - rank.control) <= 1
    ]
    if not below:
        return []
    return [
        f"{len(below)} of {len(facts.ranks)} matrices have a rank below the largest possible one, "
        "but so has the random control, within one: that comes from how many weights changed, or "
        "from the numerical tolerance, and says nothing about structure."
    ]


def _nothing(tensors: tuple[TensorFacts, ...]) -> list[str]:
    if any(tensor.counts.bitwise_changed for tensor in tensors):
        return []
    return ["The two checkpoints have the same weights, bit by bit."]


def _begun(note: str) -> str:
    """Return a note with a capital in front, unless it begins with a name."""
    return note[0].upper() + note[1:] if note.partition(" ")[0].isalpha() else note


def cautions(facts: Facts) -> list[str]:
    """Return what to know before quoting a number of the card, the weightiest first."""
    found = _nothing(facts.tensors)
    if not found:
        found = [
            *_float32(facts),
            *_frozen_norms(facts),
            *_tolerance(facts),
            *_square_ranks(facts),
        ]
    return [*found, *(f"{_begun(note)}." for note in facts.notes)]
