"""Scores and answers as files; intervals and tests against hand-worked numbers and scipy."""

import csv
import gzip
import random
from math import sqrt

import numpy as np
import pytest
from scipy import stats
from scipy.stats import binomtest, norm

from rlsubnet.columns import Answer, ScoreRow, names
from rlsubnet.evaluation.results import (
    clustered_interval,
    crossed_mean,
    mcnemar_exact,
    mean_and_error,
    paired_difference,
    score_rows,
    t_interval,
    wilson_interval,
    write_answers,
)

ANSWERS = [
    Answer("arith_sampled", "2", "b", 4, 1),
    Answer("arith_sampled", "1", "a", 4, 4),
    Answer("arith_sampled", "2", "c", 4, 3),
    Answer("mc5_first_step", "", "x", 1, 1),
    Answer("mc5_first_step", "", "y", 1, 0),
]
DIGESTS = {"arith_sampled": "aa", "mc5_first_step": "bb"}


def test_scores_have_a_row_per_level_and_one_for_all_and_clusters_where_sampled():
    rows = score_rows(ANSWERS, DIGESTS)
    keys = ("task", "level", "n", "correct", "interval", "data_sha256")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("arith_sampled", "1", 4, 4, "clustered", "aa"),
        ("arith_sampled", "2", 8, 4, "clustered", "aa"),
        ("arith_sampled", "all", 12, 8, "clustered", "aa"),
        ("mc5_first_step", "all", 2, 1, "wilson", "bb"),
    ]
    for row, interval in ((2, clustered_interval([1, 4, 3], 4)), (3, wilson_interval(1, 2))):
        found = (float(rows[row]["ci_low"]), float(rows[row]["ci_high"]))
        assert found == pytest.approx(interval, abs=1e-6)
    assert {row["backend"] for row in rows} == {"native"}
    assert all(tuple(row) == names(ScoreRow) for row in rows)


def test_unequal_numbers_of_samples_are_refused():
    answers = [Answer("a", "1", "x", 4, 1), Answer("a", "1", "y", 2, 1)]
    with pytest.raises(ValueError, match=r"task a: numbers of samples differ: \[2, 4\]"):
        score_rows(answers, {"a": ""})


def test_answers_come_back_and_the_same_answers_give_the_same_bytes(tmp_path):
    one, two = tmp_path / "one.csv.gz", tmp_path / "sub" / "two.csv.gz"
    write_answers(one, ANSWERS)
    write_answers(two, ANSWERS)
    with gzip.open(one, "rt", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["task", "level", "item_id", "samples", "correct"]
    assert rows == [[str(value) for value in vars(answer).values()] for answer in ANSWERS]
    assert one.read_bytes() == two.read_bytes()
    # Bytes 4 to 8 of a gzip header hold the time; flag 8 in byte 3 would announce a file name.
    assert one.read_bytes()[3:8] == bytes(5)


Z95 = float(norm.ppf(0.975))


@pytest.mark.parametrize(("correct", "n"), [(0, 7), (7, 7), (1, 2), (57, 230), (361, 500), (1, 1)])
def test_wilson_interval_equals_scipy(correct, n):
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    interval = wilson_interval(correct, n, z=Z95)
    assert interval == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(
    ("b", "c"), [(0, 1), (4, 4), (0, 3), (3, 10), (10, 3), (25, 31), (400, 331), (600, 520)]
)
def test_mcnemar_equals_scipy_s_binomial_test(b, c):
    assert mcnemar_exact(b, c) == pytest.approx(binomtest(b, b + c, 0.5).pvalue, rel=1e-9)


def test_clustered_interval_takes_problems_and_not_samples_for_independent():
    # Shares 1, 1, 0, 0: mean 1/2, SE = sqrt(4 * 1/4 / 12) = 0.288675; z = 1.
    interval = clustered_interval([8, 8, 0, 0], 8, z=1.0)
    assert interval == pytest.approx((0.5 - 0.288675, 0.5 + 0.288675), abs=1e-6)
    # 100 problems that are all right or all wrong: 1600 samples know no more than 100.
    clustered, naive = clustered_interval([16] * 50 + [0] * 50, 16), wilson_interval(800, 1600)
    ratio = (clustered.high - clustered.low) / (naive.high - naive.low)
    assert ratio == pytest.approx(4, rel=0.02)
    # Equal shares still have an interval.
    for correct, same_as in (([4, 4, 4], (3, 3)), ([0, 0], (0, 2)), ([2], (0.5, 1))):
        assert clustered_interval(correct, 4) == wilson_interval(*same_as)


def test_clustered_interval_covers_the_truth_95_times_in_100():
    rng = random.Random(0)
    covered, trials = 0, 1000
    for _ in range(trials):
        # Half the problems are hard (0.1), half easy (0.7): the truth is 0.4.
        chances = [rng.choice((0.1, 0.7)) for _ in range(60)]
        correct = [sum(rng.random() < chance for _ in range(8)) for chance in chances]
        low, high = clustered_interval(correct, 8)
        covered += low <= 0.4 <= high
    # Standard error of the coverage 0.007.
    assert covered / trials == pytest.approx(0.95, abs=0.025)


def test_paired_difference_is_smaller_in_error_than_unpaired():
    first, second = [0.0, 0.5, 1.0, 0.25], [0.25, 0.5, 1.0, 0.5]
    difference, error = paired_difference(first, second)
    # Differences 1/4, 0, 0, 1/4: mean 1/8, SE = sqrt(4 * (1/8)^2 / 12).
    assert difference == 0.125
    assert error == pytest.approx(sqrt(4 / 64 / 12))
    unpaired = sqrt(mean_and_error(first)[1] ** 2 + mean_and_error(second)[1] ** 2)
    assert error < unpaired


def test_students_interval_is_that_of_scipy():
    values = [3.3, 2.5, 1.0]
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert t_interval(values) == pytest.approx(expected)


def test_the_error_of_a_crossed_mean_covers_other_items_and_other_seeds():
    # x = item + seed + noise, variances 1, 0.5 and 0.25, on 40 items in 3 seeds.
    generator = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        noise = generator.normal(0, 0.5, (3, 40))
        items, seeds = generator.normal(0, 1, 40), generator.normal(0, 0.5**0.5, (3, 1))
        found.append(crossed_mean((items + seeds + noise).tolist()))
    # True error of the mean: sqrt(1/40 + 0.5/3 + 0.25/120) = 0.4402.
    assert np.std([mean.mean for mean in found]) == pytest.approx(0.4402, rel=0.05)
    # Its square is too large by the noise that both terms hold, 0.25 / 120.
    squares = np.mean([mean.error**2 for mean in found])
    assert squares == pytest.approx(0.4402**2 + 0.25 / 120, rel=0.05)
    # The items' error alone would be a third of the truth: it knows nothing of other seeds.
    assert np.mean([mean.item_error for mean in found]) < 0.2


def test_one_seed_leaves_the_items_error_alone():
    found = crossed_mean([[0.0, 0.5, 1.0]])
    assert found.mean == 0.5
    assert found.error == found.item_error == pytest.approx(mean_and_error([0.0, 0.5, 1.0])[1])


def test_numbers_that_no_statistic_has_are_refused():
    for correct, n in ((0, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="0 <= correct <= n"):
            wilson_interval(correct, n)
    with pytest.raises(ValueError, match="at least 2 values"):
        t_interval([1.0])
    for table in ([], [[]], [[1.0, 2.0], [1.0]]):
        with pytest.raises(ValueError, match="as many values for each seed"):
            crossed_mean(table)
