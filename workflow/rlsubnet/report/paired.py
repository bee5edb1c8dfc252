"""Paired comparison of two runs on the same items: counts, intervals, difference and verdict.

Where a setting was run with several seeds, the comparisons of the seeds are parts of one of all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import stdev

import pandas as pd

from rlsubnet.config import Pair, Scale
from rlsubnet.evaluation.results import (
    both_errors,
    clustered_interval,
    crossed_mean,
    discordant,
    mcnemar_exact,
    paired_difference,
    t_interval,
    wilson_interval,
)
from rlsubnet.report.results import Results

MCNEMAR = "McNemar, exact"
CLUSTERED = "paired, clustered by item"
UNPAIRED = "unpaired z"
OVER_SEEDS = "z, items and seeds"
MEAN_OF_TASKS = "z, mean of tasks"
NO_ITEM_DIFFERS = "no item differs"
NOT_DISTINGUISHABLE = "not distinguishable"


@dataclass(frozen=True)
class Compared:
    """Accuracy of full and sub on the same items; ratios in [0, 1].

    Intervals are of 95 %, None where only a mean of tasks is given. `se` is the standard error of
    `sub - full` from the items, for these very runs; `p_value` the two-sided p of "no difference"
    by `test`. `parts` compares each seed; it is empty where there is one.
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
    parts: tuple["Compared", ...] = ()

    @property
    def delta(self) -> float:
        return self.sub - self.full

    def deviation_of(self, name: str) -> float:
        """Return the sample standard deviation over seeds of `full`, `sub` or `delta`, or NaN."""
        values = [getattr(part, name) for part in self.parts]
        return stdev(values) if len(values) > 1 else math.nan

    @property
    def seed_interval(self) -> tuple[float, float] | None:
        """Return Student's 95 % interval of delta from the seeds alone, None for one seed."""
        return t_interval([part.delta for part in self.parts]) if len(self.parts) > 1 else None

    @property
    def total_se(self) -> float:
        """Return the standard error of delta for other items and other seeds."""
        return both_errors(self.se, self.deviation_of("delta"), len(self.parts) or 1)

    @property
    def verdict(self) -> str:
        """Return which run is better, or that the items cannot tell; over seeds, by `total_se`."""
        found = verdict(self.delta, self.total_se, self.p_value)
        if found == NO_ITEM_DIFFERS and any(part.verdict != found for part in self.parts):
            # Seeds may differ item by item and cancel to a difference and a spread of zero.
            return NOT_DISTINGUISHABLE
        return found


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
        return NO_ITEM_DIFFERS
    # Written so that a standard error of NaN (one item) says nothing either.
    if not (abs(delta) > 2 * se and p_value < 0.05):
        return NOT_DISTINGUISHABLE
    return "sub higher" if delta > 0 else "full higher"


def compare_items(paired: pd.DataFrame) -> Compared:
    """Return the comparison of two runs on the same items.

    With one answer an item: Wilson intervals and McNemar's exact test. With several, an item is a
    cluster: normal intervals and a z test from the spread of the items' own means.
    `paired` has one row an item: samples, and the correct answers full and sub.

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


def compare_seeds(paired: Sequence[pd.DataFrame]) -> Compared:
    """Return the comparison of full and sub over one or several seeds, a table as above for each.

    Accuracies and delta are means over seeds. The items are averaged over seeds first: their
    intervals and `se` hold for other items and these seeds, `total_se` for other seeds, too.

    Two seeds on two items. Seed 1: sub gains both items, seed 2: neither. Items' mean gains are
    1/2 and 1/2, so nothing varies between items, and the seeds' spread is sqrt(1/2).

    >>> one = pd.DataFrame({"samples": [1, 1], "full": [0, 0], "sub": [1, 1]})
    >>> both = compare_seeds([one, one.assign(sub=[0, 0])])
    >>> both.delta, both.se, round(both.deviation_of("delta"), 4), round(both.total_se, 4)
    (0.5, 0.0, 0.7071, 0.5)
    >>> both.verdict
    'not distinguishable'
    """
    parts = tuple(compare_items(table) for table in paired)
    if len(parts) == 1:
        return parts[0]
    asked = {(len(table), int(table["samples"].iloc[0])) for table in paired}
    if len(asked) != 1:
        raise ValueError(f"seeds differ in their (items, samples of an item): {sorted(asked)}")
    n, samples = parts[0].n, int(paired[0]["samples"].iloc[0]) * len(parts)
    gains = [((table["sub"] - table["full"]) * len(parts) / samples).tolist() for table in paired]
    delta = crossed_mean(gains)
    full, sub = (sum(table[run].to_numpy() for table in paired).tolist() for run in ("full", "sub"))
    return Compared(
        n,
        sum(full),
        sum(sub),
        sum(full) / (n * samples),
        sum(sub) / (n * samples),
        clustered_interval(full, samples),
        clustered_interval(sub, samples),
        delta.item_error,
        two_sided_p(delta.mean, delta.error),
        OVER_SEEDS,
        parts,
    )


def mean_of_tasks(tasks: Sequence[Compared]) -> Compared:
    """Return the unweighted mean over tasks, as the paper's row "Avg"; tasks are independent."""
    count, seeds = len(tasks), len(tasks[0].parts)
    full = sum(task.full for task in tasks) / count
    sub = sum(task.sub for task in tasks) / count
    se = math.sqrt(sum(task.se**2 for task in tasks)) / count
    mean = Compared(
        n=sum(task.n for task in tasks),
        full_correct=sum(task.full_correct for task in tasks),
        sub_correct=sum(task.sub_correct for task in tasks),
        full=full,
        sub=sub,
        full_interval=None,
        sub_interval=None,
        se=se,
        p_value=two_sided_p(sub - full, se),
        test=MEAN_OF_TASKS,
        parts=tuple(mean_of_tasks([task.parts[seed] for task in tasks]) for seed in range(seeds)),
    )
    if not seeds:
        return mean
    return replace(mean, p_value=two_sided_p(mean.delta, mean.total_se), test=OVER_SEEDS)


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


_KEY = ["task", "level", "item_id", "samples"]


def paired_answers(scale: Scale, results: Results, pair: Pair) -> pd.DataFrame:
    """Return one row an item: task, level, item_id, samples, suite, and what each run had right.

    Columns `full` and `sub` are the pair's `init` and `tuned`, named as in Table 3. Runs that were
    not asked the same items of the same files are refused.
    """
    full, sub = results.get("answers", pair.init), results.get("answers", pair.tuned)
    _check_same_data(results, f"pair {pair.pair}", pair.init, pair.tuned)
    for one, other in ((full, sub), (sub, full)):
        known = set(other[_KEY].itertuples(index=False, name=None))
        alone = [row for row in one[_KEY].itertuples(index=False, name=None) if row not in known]
        if alone:
            task, _, item, samples = alone[0]
            raise ValueError(
                f"{one.attrs['path']}: {len(alone)} items are not in {other.attrs['path']}, the "
                f"first is task {task}, item {item} with {samples} samples"
            )
    paired = full.merge(sub, on=_KEY, how="left", suffixes=("_full", "_sub"))
    suites = {task: _suite_of(task, scale, full.attrs["path"]) for task in paired["task"].unique()}
    return paired.rename(columns={"correct_full": "full", "correct_sub": "sub"}).assign(
        suite=paired["task"].map(suites)
    )


def answers_of_seeds(
    scale: Scale, results: Results, pairs: Sequence[Pair]
) -> dict[str, list[pd.DataFrame]]:
    """Return the paired answers of every task: a table a seed, with the same items in a row."""
    tables = [paired_answers(scale, results, pair) for pair in pairs]
    first = tables[0][_KEY]
    for pair, table in zip(pairs[1:], tables[1:], strict=True):
        _check_same_data(
            results, f"seeds {pairs[0].pair} and {pair.pair}", pairs[0].init, pair.init
        )
        if not first.equals(table[_KEY]):
            raise ValueError(
                f"pairs {pairs[0].pair} and {pair.pair} are seeds of one setting, but their runs "
                f"were asked other items, or in another order"
            )
    return {
        str(task): [table[table["task"] == task] for table in tables]
        for task in first["task"].unique()
    }


def _check_same_data(results: Results, owner: str, one: str, other: str) -> None:
    digests = [
        results.get("scores", run).drop_duplicates("task").set_index("task")["data_sha256"]
        for run in (one, other)
    ]
    for task, digest in digests[0].items():
        if digests[1].get(task) != digest:
            raise ValueError(
                f"{owner}, task {task}: {one} and {other} were evaluated on "
                f"different data: {digest} and {digests[1].get(task)}"
            )


def _suite_of(task: str, scale: Scale, path: str) -> str:
    for suite in scale.config["evaluation"]["suites"]:
        if task == suite or task.startswith(f"{suite}_"):
            return suite
    raise ValueError(
        f"{path}: task {task!r} belongs to none of the suites "
        f"{scale.config['evaluation']['suites']}"
    )
