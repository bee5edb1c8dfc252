"""Answers and scores of one model, as the workflow's later steps read them; no torch."""

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from math import comb, hypot, nan, sqrt
from pathlib import Path
from statistics import stdev
from typing import Any, NamedTuple

from rlsubnet.columns import Answer, names
from rlsubnet.files import replacing

Z95 = 1.96


class Interval(NamedTuple):
    """Bounds of a confidence interval, within [0, 1]."""

    low: float
    high: float


def wilson_interval(correct: float, n: float, z: float = Z95) -> Interval:
    """Return Wilson's score interval for ``correct`` successes in ``n`` independent trials.

    ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`` with ``p = correct / n``. Unlike
    ``p +- z SE`` it stays within [0, 1] and has a width at 0 and at ``n`` of ``n``.

    >>> [round(bound, 4) for bound in wilson_interval(5, 10)]
    [0.2366, 0.7634]
    >>> [round(bound, 4) for bound in wilson_interval(0, 10)]
    [0.0, 0.2775]
    """
    if n <= 0 or not 0 <= correct <= n:
        raise ValueError(f"expected 0 <= correct <= n and n > 0, found {correct} of {n}")
    share = correct / n
    center = share + z * z / (2 * n)
    spread = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The bounds are exactly 0 and 1 at the ends; rounding would miss them by 1e-17.
    low = 0.0 if correct == 0 else (center - spread) / scale
    high = 1.0 if correct == n else (center + spread) / scale
    return Interval(low, high)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and its standard error ``sqrt(sum (x - mean)^2 / (n (n - 1)))``.

    >>> mean_and_error([1.0, 2.0, 3.0, 6.0])[0]
    3.0
    >>> round(mean_and_error([1.0, 2.0, 3.0, 6.0])[1], 4)  # sqrt(14 / 12)
    1.0801
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"a standard error needs at least 2 values, found {n}")
    mean = sum(values) / n
    return mean, sqrt(sum((value - mean) ** 2 for value in values) / (n * (n - 1)))


def t_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Return Student's interval of the mean of a few values, ``mean +- t SD / sqrt(n)``.

    ``t`` is the quantile ``(1 + level) / 2`` of ``n - 1`` degrees of freedom: 12.706 for two values
    and 4.303 for three, where a normal interval would take 1.96.

    Args:
        level: share of such intervals that hold the true mean.

    >>> [round(end, 3) for end in t_interval([1.0, 2.0, 3.0])]  # 2 +- 4.303 / sqrt(3)
    [-0.484, 4.484]
    """
    # Importing scipy takes longer than any other table needs for its numbers.
    from scipy.special import stdtrit

    mean, error = mean_and_error(values)
    width = float(stdtrit(len(values) - 1, (1 + level) / 2)) * error
    return mean - width, mean + width


class CrossedMean(NamedTuple):
    """Mean of values that are crossed by seed and item, with its standard errors.

    Attributes:
        item_error: from the items, the seeds as they are; NaN for one item.
        error: for other items and other seeds, see :func:`both_errors`.
    """

    mean: float
    item_error: float
    error: float


def both_errors(item_error: float, seed_deviation: float, seeds: int) -> float:
    """Return a standard error that holds for other items and for other seeds.

    ``sqrt(SE^2 + SD^2 / k)``. Both terms hold the noise of a single item in a single seed, so the
    sum counts it twice and is too large rather than too small. One seed says nothing about others:
    then it is the items' error alone.

    >>> both_errors(0.3, 0.8, 4)
    0.5
    >>> both_errors(0.3, float("nan"), 1)
    0.3
    """
    return item_error if seeds == 1 else hypot(item_error, seed_deviation / sqrt(seeds))


def crossed_mean(table: Sequence[Sequence[float]]) -> CrossedMean:
    """Return the mean of one value for each seed and item.

    An item is averaged over seeds before the spread of the items is taken: what the seeds answer
    to one item resembles each other.

    Args:
        table: a row for each seed, with a value for each item, in the same order.

    Items' means 0, 0, 3: SE = sqrt(6 / (3 * 2)) = 1. Seeds' means 0 and 2: SD = sqrt(2).

    >>> found = crossed_mean([[0.0, 0.0, 0.0], [0.0, 0.0, 6.0]])
    >>> found.mean, round(found.item_error, 6), round(found.error, 4)  # sqrt(1 + 2 / 2)
    (1.0, 1.0, 1.4142)
    """
    lengths = {len(row) for row in table}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"expected as many values for each seed, found {sorted(lengths)}")
    items = [sum(column) / len(table) for column in zip(*table, strict=True)]
    means = [sum(row) / len(row) for row in table]
    item_error = mean_and_error(items)[1] if len(items) > 1 else nan
    deviation = stdev(means) if len(means) > 1 else nan
    error = both_errors(item_error, deviation, len(means))
    return CrossedMean(sum(items) / len(items), item_error, error)


def clustered_interval(correct: Sequence[int], samples: int, z: float = Z95) -> Interval:
    """Return the interval of an accuracy over problems that were sampled several times each.

    The samples of one problem resemble each other, so the problems are the independent units:
    ``mean +- z SE`` of the share correct per problem, cut to [0, 1]. Where that has no width (one
    problem, or the same share on every problem), Wilson's interval over the problems is returned,
    as if each had been sampled once.

    >>> [round(bound, 3) for bound in clustered_interval([0, 4, 2, 2], 4)]  # SE = sqrt(0.5 / 12)
    [0.1, 0.9]
    """
    shares = [count / samples for count in correct]
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"expected counts between 0 and {samples} for at least one problem")
    if len(set(correct)) == 1:
        return wilson_interval(shares[0] * len(shares), len(shares), z)
    mean, error = mean_and_error(shares)
    return Interval(max(0.0, mean - z * error), min(1.0, mean + z * error))


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Return the two-sided p value of McNemar's exact test on paired right and wrong answers.

    Items that both models get right, or both wrong, say nothing. If the models are equally good,
    each of the ``b + c`` others is a fair coin: ``p = min(1, 2 P(X <= min(b, c)))`` with ``X``
    binomial(b + c, 1/2).

    >>> mcnemar_exact(1, 5)  # 2 (1 + 6) / 2^6
    0.21875
    >>> mcnemar_exact(0, 0)
    1.0
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"expected counts, found {only_first} and {only_second}")
    n = only_first + only_second
    tail = sum(comb(n, k) for k in range(min(only_first, only_second) + 1))
    # Integers until the last step: exact for any n, where 0.5 ** n would vanish.
    return 1.0 if 2 * tail >= 2**n else 2 * tail / 2**n


def discordant(first: Sequence[int], second: Sequence[int]) -> tuple[int, int]:
    """Return how many items only the first, and only the second model gets right.

    >>> discordant([1, 1, 0, 0, 1], [1, 0, 1, 0, 0])
    (2, 1)
    """
    pairs = list(zip(first, second, strict=True))
    return sum(a > b for a, b in pairs), sum(b > a for a, b in pairs)


def paired_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return the mean of ``second - first`` over the same problems, and its standard error.

    >>> difference, error = paired_difference([0.5, 0.25, 0.0], [0.75, 0.5, 0.5])
    >>> round(difference, 4), round(error, 4)  # differences 1/4, 1/4, 1/2
    (0.3333, 0.0833)
    """
    return mean_and_error([b - a for a, b in zip(first, second, strict=True)])


def score_rows(
    answers: Sequence[Answer], data_sha256: Mapping[str, str], backend: str = "native"
) -> list[dict[str, Any]]:
    """Return one row per task and level and one per task with level ``all``.

    ``n`` counts responses, so a sampled task has problems times samples; its interval treats the
    problems as the independent units (``clustered``), the others have Wilson's.

    >>> answers = [Answer("a", "1", "x", 1, 1), Answer("a", "2", "y", 1, 0)]
    >>> [(row["level"], row["n"], row["correct"]) for row in score_rows(answers, {"a": "00"})]
    [('1', 1, 1), ('2', 1, 0), ('all', 2, 1)]
    """
    rows = []
    for task in dict.fromkeys(answer.task for answer in answers):
        of_task = [answer for answer in answers if answer.task == task]
        groups = {
            level: [answer for answer in of_task if answer.level == level]
            for level in sorted({answer.level for answer in of_task} - {""})
        }
        groups["all"] = of_task
        for level, group in groups.items():
            kind, interval = _interval(group)
            rows.append(
                {
                    "task": task,
                    "level": level,
                    "n": sum(answer.samples for answer in group),
                    "correct": sum(answer.correct for answer in group),
                    "ci_low": f"{interval.low:.6f}",
                    "ci_high": f"{interval.high:.6f}",
                    "interval": kind,
                    "backend": backend,
                    "data_sha256": data_sha256[task],
                }
            )
    return rows


def _interval(group: Sequence[Answer]) -> tuple[str, Interval]:
    counts = {answer.samples for answer in group}
    if len(counts) != 1:
        raise ValueError(f"task {group[0].task}: numbers of samples differ: {sorted(counts)}")
    correct = [answer.correct for answer in group]
    samples = counts.pop()
    if samples == 1:
        return "wilson", wilson_interval(sum(correct), len(group))
    return "clustered", clustered_interval(correct, samples)


def write_answers(path: Path | str, answers: Sequence[Answer]) -> None:
    """Write the answers as gzipped CSV; the same answers give the same bytes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names(Answer))
    writer.writerows(vars(answer).values() for answer in answers)
    with (
        replacing(path) as temporary,
        temporary.open("wb") as stream,
        # A gzip header holds a name and a time: leave both out.
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed,
    ):
        packed.write(text.getvalue().encode("utf-8"))
