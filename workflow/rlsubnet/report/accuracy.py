"""Paired comparison of two runs on the same items: counts, intervals, difference and verdict."""

import math
from dataclasses import dataclass

import pandas as pd

from rlsubnet.evaluation.statistics import (
    clustered_interval,
    discordant,
    mcnemar_exact,
    paired_difference,
    wilson_interval,
)

MCNEMAR = "McNemar, exact"
CLUSTERED = "paired, clustered by item"
UNPAIRED = "unpaired z"


@dataclass(frozen=True)
class Compared:
    """Accuracy of full and sub on the same items; ratios in [0, 1].

    Attributes:
        n: number of items.
        full_correct: correct answers of full, summed over samples.
        sub_correct: the same of sub.
        full: share of correct answers of full.
        sub: the same of sub.
        full_interval: 95 % interval of `full`, None where only a mean of tasks is given.
        sub_interval: the same of `sub`.
        se: standard error of `sub - full`.
        p_value: two-sided p of "no difference".
        test: name of the test behind `p_value`.
    """

    n: int
    full_correct: int
    sub_correct: int
    full: float
    sub: float
    full_interval: tuple[float, float] | None
    sub_interval: tuple[float, float] | None
    se: float
    p_value: float
    test: str

    @property
    def delta(self) -> float:
        """Return sub - full, the paper's Delta."""
        return self.sub - self.full

    @property
    def verdict(self) -> str:
        """Return which run is better, or that the items cannot tell."""
        return verdict(self.delta, self.se, self.p_value)


def verdict(delta: float, se: float, p_value: float) -> str:
    """Return what a difference says: nothing within two standard errors or from p = 0.05 up.

    The p is asked too because a standard error means little when few items differ: four items that
    only full gets right give delta / SE = -2.0 but p = 0.125. Without any spread the two runs
    scored the same on each item, which is more than that the items cannot tell them apart.

    >>> verdict(0.01, 0.02, 0.6), verdict(0.05, 0.02, 0.01), verdict(-0.05, 0.02, 0.125)
    ('not distinguishable', 'sub higher', 'not distinguishable')
    >>> verdict(0.0, 0.0, 1.0)
    'no item differs'
    """
    if delta == 0 and se == 0:
        return "no item differs"
    # Written so that a standard error of NaN (one item) says nothing either.
    if not (abs(delta) > 2 * se and p_value < 0.05):
        return "not distinguishable"
    return "sub higher" if delta > 0 else "full higher"


def compare_items(paired: pd.DataFrame) -> Compared:
    """Return the comparison of two runs on the same items.

    With one answer an item: Wilson intervals and McNemar's exact test. With several, an item is a
    cluster: normal intervals and a z test from the spread of the items' own means.

    Args:
        paired: one row per item, columns samples, full, sub (correct answers of each run).

    Raises:
        ValueError: items differ in their number of samples.

    Two items, both right in sub, one in full: delta 0.5, one discordant item, p = 1.

    >>> two = compare_items(pd.DataFrame({"samples": [1, 1], "full": [1, 0], "sub": [1, 1]}))
    >>> two.delta, two.p_value
    (0.5, 1.0)
    """
    samples = paired["samples"].unique()
    if len(samples) != 1:
        raise ValueError(f"items differ in their number of samples: {sorted(samples)}")
    per_item, n = int(samples[0]), len(paired)
    full, sub = paired["full"].tolist(), paired["sub"].tolist()
    shares = [[count / per_item for count in counts] for counts in (full, sub)]
    # One item has no spread: nothing can be said, least of all that the runs differ.
    difference, se = (
        paired_difference(*shares) if n > 1 else (shares[1][0] - shares[0][0], math.nan)
    )
    if per_item == 1:
        p_value, test = mcnemar_exact(*discordant(full, sub)), MCNEMAR
        intervals = (wilson_interval(sum(full), n), wilson_interval(sum(sub), n))
    else:
        p_value, test = two_sided_p(difference, se), CLUSTERED
        intervals = (clustered_interval(full, per_item), clustered_interval(sub, per_item))
    return Compared(
        n,
        sum(full),
        sum(sub),
        sum(shares[0]) / n,
        sum(shares[1]) / n,
        *intervals,
        se,
        p_value,
        test,
    )


def mean_of_tasks(parts: list[Compared]) -> Compared:
    """Return the unweighted mean over tasks, as the paper's row "Avg"; tasks are independent."""
    count = len(parts)
    full = sum(part.full for part in parts) / count
    sub = sum(part.sub for part in parts) / count
    se = math.sqrt(sum(part.se**2 for part in parts)) / count
    return Compared(
        n=sum(part.n for part in parts),
        full_correct=sum(part.full_correct for part in parts),
        sub_correct=sum(part.sub_correct for part in parts),
        full=full,
        sub=sub,
        full_interval=None,
        sub_interval=None,
        se=se,
        p_value=two_sided_p(sub - full, se),
        test="z, mean of tasks",
    )


def compare_counts(n: int, full_correct: int, sub_correct: int) -> Compared:
    """Return the comparison of two counts on `n` items each, without knowing which were right.

    The paper prints no per-item answers; unpaired, its test is weaker than a paired one would be.

    >>> compare_counts(100, 50, 50).p_value
    1.0
    """
    full, sub = full_correct / n, sub_correct / n
    se = math.sqrt((full * (1 - full) + sub * (1 - sub)) / n)
    intervals = (wilson_interval(full_correct, n), wilson_interval(sub_correct, n))
    p_value = two_sided_p(sub - full, se)
    return Compared(n, full_correct, sub_correct, full, sub, *intervals, se, p_value, UNPAIRED)


def two_sided_p(difference: float, se: float) -> float:
    """Return the two-sided p of a normal test.

    >>> round(two_sided_p(1.96, 1.0), 3), two_sided_p(0.0, 0.0)
    (0.05, 1.0)
    """
    if se == 0:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(abs(difference / se) / math.sqrt(2))
