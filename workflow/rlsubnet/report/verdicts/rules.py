"""Every rule by which a claim of the paper agrees with what a scale shows, or does not.

A rule takes plain numbers and answers with one of four words and the sentence that decided. It
sees no name, no scale and no claim, so it cannot prefer an answer. Thresholds come from the paper's
own words and numbers, never from ours. Shares are per cent, in [0, 100]; where a rule gets no
number, the answer is `not run`. The doctests stand on both sides of each boundary.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec

AGREES, DIFFERS = "agrees", "differs"
NOT_COMPARABLE, NOT_RUN = "not comparable", "not run"
WORDS = (AGREES, DIFFERS, NOT_COMPARABLE, NOT_RUN)
Rest = ParamSpec("Rest")


class Ruling(NamedTuple):
    """One of the four words and the rule that decided, in words."""

    verdict: str
    rule: str


NOTHING = Ruling(NOT_RUN, "No row of the sheets measures it.")
OTHER = Ruling(
    NOT_COMPARABLE, "A percentage of another model or test is no estimate of the paper's."
)


def given(
    rule: Callable[Concatenate[Any, Rest], tuple[bool, str] | Ruling],
) -> Callable[Concatenate[Any, Rest], Ruling]:
    """Return a rule that says `not run` without numbers and puts its yes or no into words."""

    @wraps(rule)
    def decide(numbers: Any, *args: Rest.args, **kwargs: Rest.kwargs) -> Ruling:
        if not numbers:
            return NOTHING
        found = rule(numbers, *args, **kwargs)
        if isinstance(found, Ruling):
            return found
        return Ruling(AGREES if found[0] else DIFFERS, found[1])

    return decide


def on_same_model(own: bool, ruling: Ruling) -> Ruling:
    """Return a ruling about printed numbers, which only the paper's own checkpoints can have.

    >>> on_same_model(False, Ruling(AGREES, "...")).verdict, on_same_model(False, NOTHING).verdict
    ('not comparable', 'not run')
    """
    return ruling if own or ruling.verdict == NOT_RUN else OTHER


def another_model(measured: bool) -> Ruling:
    """Return what is said of numbers that no model of ours can have, if there are any.

    >>> another_model(True).verdict, another_model(False).verdict
    ('not comparable', 'not run')
    """
    return OTHER if measured else NOTHING


def every(rulings: Iterable[Ruling]) -> Ruling:
    """Return what one rule says of several runs: agreement needs all of them.

    >>> every([Ruling(AGREES, "a"), Ruling(DIFFERS, "b")]), every([]).verdict
    (Ruling(verdict='differs', rule='b'), 'not run')
    """
    strictness = (DIFFERS, NOT_COMPARABLE, NOT_RUN, AGREES)
    return min(rulings, key=lambda ruling: strictness.index(ruling.verdict), default=NOTHING)


# "Sparse": more than half of the weights unchanged. The paper names no limit; its least sparse
# RL model has 53.2 % (Table 6), its SFT stages have 6 to 15 %.
HALF = 50.0
# Printed to 0.1 or 0.01; a released model's revision and the rows of a resized vocabulary move it.
POINTS = 0.5
# "Comparable" in section 6 are 69.8 and 68.8; models of one method lie up to 17.5 apart (Table 1).
COMPARABLE_POINTS = 5.0
# "Similarly": within a factor of two. "Nearly all": nine in ten. "Nearly", "almost": 95 %.
FACTOR, NEARLY_ALL, NEARLY = 2.0, 90.0, 95.0
# What is printed as 100 %. "Consistently", "steadily", "slowly": in three quarters of the cases.
IDENTICAL, STEADY = 99.95, 75.0
# Per cent of what something must act on (steps, divergence) to be missed; of a loss, to be seen.
ACTED, VISIBLE, LEVEL = 5.0, 0.1, 0.05  # the last: of a test


@given
def same_numbers(pairs: Sequence[tuple[float, float]]) -> tuple[bool, str]:
    """Return whether numbers (ours, printed) differ by at most `POINTS`.

    >>> same_numbers([(81.9, 81.4)]).verdict, same_numbers([(80.8, 81.4)]).verdict
    ('agrees', 'differs')
    """
    # A difference of exactly the tolerance agrees, whatever the last bit of a float says.
    near = all(abs(ours - printed) <= POINTS + 1e-9 for ours, printed in pairs)
    return near, f"Within {POINTS} points of every printed number."


@given
def sparse(sparsities: Sequence[float]) -> tuple[bool, str]:
    """Return whether every update leaves more than half of the weights unchanged.

    >>> sparse([50.1, 90]).verdict, sparse([50.0, 90]).verdict
    ('agrees', 'differs')
    """
    return min(sparsities) > HALF, f"Each leaves more than {HALF:.0f} % of the weights unchanged."


@given
def dense(sparsities: Sequence[float]) -> tuple[bool, str]:
    """Return whether every update changes at least half of the weights.

    >>> dense([7.7, 50.0]).verdict, dense([7.7, 50.1]).verdict
    ('agrees', 'differs')
    """
    return max(sparsities) <= HALF, f"Each changes at least {100 - HALF:.0f} % of the weights."


@given
def sparse_with_all(
    sparsities: Mapping[str, float], methods: Sequence[str]
) -> tuple[bool, str] | Ruling:
    """Return whether every method was run and is sparse; one dense method is enough to differ.

    >>> [sparse_with_all(f, ["A", "B"])[0] for f in ({"A": 60, "B": 51}, {"A": 60}, {"A": 40})]
    ['agrees', 'not run', 'differs']
    """
    missing = [method for method in methods if method not in sparsities]
    if missing and min(sparsities.values()) > HALF:
        return Ruling(NOT_RUN, f"Needs all {len(methods)}; not run: {', '.join(missing)}.")
    rule = f"Each of the {len(methods)} leaves more than {HALF:.0f} % of the weights unchanged."
    return min(sparsities.values()) > HALF, rule


@given
def sparser(ones: Sequence[float], others: Sequence[float]) -> tuple[bool, str] | Ruling:
    """Return whether the least sparse of the first is sparser than the sparsest of the others.

    >>> sparser([60, 70], [59.9]).verdict, sparser([60, 70], [60]).verdict
    ('agrees', 'differs')
    """
    if not others:
        return NOTHING
    return min(ones) > max(others), "Each of the first is sparser than each of the second."


@given
def caused_by(effect: Sequence[float], control: Sequence[float]) -> tuple[bool, str] | Ruling:
    """Return whether sparsity goes away with its supposed cause, at equal rate and steps.

    >>> caused_by([60], [50]).verdict, caused_by([60], [51]).verdict, caused_by([40], [51]).verdict
    ('agrees', 'differs', 'not comparable')
    """
    if not control:
        return NOTHING
    if min(effect) <= HALF:
        return Ruling(NOT_COMPARABLE, "The updates that it would explain are not all sparse.")
    rule = f"Without the cause, at equal learning rate and steps, at most {HALF:.0f} % unchanged."
    return max(control) <= HALF, rule


@given
def often_above(sparsities: Sequence[float], percent: float) -> tuple[bool, str]:
    """Return whether more than half of the values lie above a printed one.

    >>> often_above([71, 72, 60], 70).verdict, often_above([71, 60], 70).verdict
    ('agrees', 'differs')
    """
    above = sum(value > percent for value in sparsities)
    return 2 * above > len(sparsities), f"More than half of them lie above {percent} %."


@given
def within(values: Sequence[float], low: float, high: float) -> tuple[bool, str]:
    """Return whether all values lie in a printed range, give or take `POINTS`.

    >>> within([4.5, 30.5], 5, 30).verdict, within([30.6], 5, 30).verdict
    ('agrees', 'differs')
    """
    inside = low - POINTS <= min(values) and max(values) <= high + POINTS
    return inside, f"All lie in {low} to {high} %, give or take {POINTS} points."


@given
def even(models: Sequence[Sequence[float]]) -> tuple[bool, str] | Ruling:
    """Return whether in no model one layer's density is more than twice another's.

    >>> even([[20, 40], [3, 4]]).verdict, even([[20, 40.1]]).verdict, even([[0, 0]]).verdict
    ('agrees', 'differs', 'not comparable')
    """
    if any(max(layers) == 0 for layers in models):
        return Ruling(NOT_COMPARABLE, "A model without any update is even by definition.")
    alike = [max(layers) <= FACTOR * min(layers) for layers in models]
    return all(alike), f"The densest layer is at most {FACTOR:.0f} times the least dense one."


@given
def nearly_all_alike(models: Sequence[tuple[float, Sequence[float]]]) -> tuple[bool, str]:
    """Return whether nine in ten matrices are as dense as their model's layers, within two.

    >>> [nearly_all_alike([(20, [10] * 8 + more)])[0] for more in ([40, 41], [9.9, 41])]
    ['agrees', 'differs']
    """
    shares = []
    for whole, parts in models:
        alike = [whole / FACTOR <= part <= FACTOR * whole for part in parts]
        shares.append(100 * sum(alike) / len(alike))
    rule = f"At least {NEARLY_ALL:.0f} % of a model's matrices have a density within a factor of "
    return min(shares) >= NEARLY_ALL, f"{rule}{FACTOR:.0f} of that of its layers as a whole."


@given
def nearly_complete(shares: Sequence[float]) -> tuple[bool, str]:
    """Return whether each share is at least 95 %: of full rank, of untouched norms.

    >>> nearly_complete([95.0]).verdict, nearly_complete([94.9, 100]).verdict
    ('agrees', 'differs')
    """
    return min(shares) >= NEARLY, f"At least {NEARLY:.0f} % in each."


@given
def beyond_control(shares: Sequence[float], controls: Sequence[float]) -> tuple[bool, str] | Ruling:
    """Return whether what is nearly complete is less than that in a control.

    >>> beyond_control([98], [94.9]).verdict, beyond_control([98], [95]).verdict
    ('agrees', 'differs')
    """
    if min(shares) < NEARLY:
        return Ruling(NOT_COMPARABLE, f"Not each of them reaches {NEARLY:.0f} % itself.")
    return max(controls) < NEARLY, f"The control stays below {NEARLY:.0f} %."


@given
def closer(pairs: Sequence[tuple[float, float]], than: str) -> tuple[bool, str] | Ruling:
    """Return whether full and sub differ in at most half as many weights as a null or control.

    Each pair is (full against sub, the null or control); the paper's, with the start, are below.

    >>> [closer(pairs, "x")[0] for pairs in ([(6.0, 18.6), (9.5, 23.0)], [(9.4, 18.6)])]
    ['agrees', 'differs']
    """
    if any(null == 0 for _, null in pairs):
        return Ruling(NOT_COMPARABLE, f"Nothing differs between {than}, either.")
    rule = f"Full and sub differ in at most half as many weights as {than}."
    return all(2 * different <= null for different, null in pairs), rule


@given
def identical(pairs: Sequence[tuple[float, float]]) -> tuple[bool, str] | Ruling:
    """Return whether equal shares round to 100.0 for (full against sub), not for (the null).

    >>> [identical([pair]).verdict for pair in ((99.95, 80), (99.94, 80), (100, 99.95))]
    ['agrees', 'differs', 'not comparable']
    """
    if max(null for _, null in pairs) >= IDENTICAL:
        return Ruling(NOT_COMPARABLE, "At this tolerance start and full are identical, too.")
    return min(same for same, _ in pairs) >= IDENTICAL, f"At least {IDENTICAL} % in every pair."


@given
def as_accurate(
    deltas: Sequence[tuple[float, float]], gains: Sequence[tuple[float, float]]
) -> tuple[bool, str] | Ruling:
    """Return whether no (sub - full, p) counts, where a full run has a (gain, standard error).

    With two comparisons a p must be below 0.025 to count; a gain of 2 standard errors is none.

    >>> [as_accurate([(1, p), (0, 1)], [(g, 0.5)])[0] for p, g in ((0.02, 3), (0.025, 3), (1, 1.0))]
    ['differs', 'agrees', 'not comparable']
    """
    if gains and not any(gain > 2 * se for gain, se in gains):
        return Ruling(NOT_COMPARABLE, "No full run gained on its start: nothing to recover.")
    rule = f"No average differs at p < {LEVEL} / number of averages (Bonferroni)."
    return all(p >= LEVEL / len(deltas) for _, p in deltas), rule


@given
def all_lower(
    deltas: Sequence[tuple[float, float]], gains: Sequence[tuple[float, float]]
) -> tuple[bool, str] | Ruling:
    """Return whether each (control - full, p) is below 0, where each full run has a (gain, error).

    >>> [all_lower([(-1, p)], [(gain, 0.5)])[0] for p, gain in ((0.049, 3), (0.05, 3), (0, 1.0))]
    ['agrees', 'differs', 'not comparable']
    """
    if any(gain <= 2 * se for gain, se in gains):
        return Ruling(NOT_COMPARABLE, "Full did not gain on its start: nothing to recover.")
    rule = f"The control is less accurate than full at p < {LEVEL}, paired by item."
    return all(change < 0 and p < LEVEL for change, p in deltas), rule


@given
def nowhere_worse(deltas: Sequence[tuple[float, float]]) -> tuple[bool, str]:
    """Return whether no (sub - full, p) says that sub is less accurate on a task.

    >>> [nowhere_worse([(-1, p), (2, 0.001)]).verdict for p in (0.025, 0.024)]
    ['agrees', 'differs']
    """
    rule = f"Sub is nowhere lower at p < {LEVEL} / number of tasks (Bonferroni)."
    return not any(delta < 0 and p < LEVEL / len(deltas) for delta, p in deltas), rule


@given
def lower_loss(runs: Sequence[tuple[float, float]]) -> tuple[bool, str]:
    """Return whether sub's loss is lower in three steps of four, and visibly so on average.

    Each run is (share of steps with lower loss, mean difference in per cent of full's mean loss).

    >>> [lower_loss([run]).verdict for run in ((75, -0.1), (100, -0.09), (74, -1))]
    ['agrees', 'differs', 'differs']
    """
    rule = f"Lower at {STEADY:.0f} % of the steps and by {VISIBLE} % of the loss on average."
    return all(share >= STEADY and change <= -VISIBLE for share, change in runs), rule


@given
def above_null(lifts: Sequence[tuple[float, float]]) -> tuple[bool, str] | Ruling:
    """Return whether every overlap / null is above 1: (ratio, lower end of its interval or NaN).

    >>> [above_null([lift]).verdict for lift in ((1.1, 1.01), (1.1, 1.0), (1.01, math.nan))]
    ['agrees', 'differs', 'agrees']
    """
    if any(math.isnan(lift) for lift, _ in lifts):
        return Ruling(NOT_COMPARABLE, "A subnetwork is empty: nothing can overlap.")
    lowest = min(lift if math.isnan(low) else low for lift, low in lifts)
    return lowest > 1, "Overlap / null > 1, by the lower end of its 95 % interval if it has one."


@given
def limited_impact(differences: Sequence[tuple[float, float]]) -> tuple[bool, str] | Ruling:
    """Return whether sparsity with and without something is comparable, where it did anything.

    Each is (difference in points, how far it acted: per cent of the steps, of the divergence).

    >>> [limited_impact([(9, 4.9), *more])[0] for more in ([(-5, 5)], [(5.1, 5)], [])]
    ['agrees', 'differs', 'not comparable']
    """
    acted = [abs(change) for change, share in differences if share >= ACTED]
    if not acted:
        rule = f"It acted on less than {ACTED:.0f} % of the steps, or of the divergence."
        return Ruling(NOT_COMPARABLE, rule)
    rule = f"Sparsity with and without it differs by at most {COMPARABLE_POINTS:.0f} points."
    return max(acted) <= COMPARABLE_POINTS, rule


@given
def ordered(shares: Sequence[tuple[float, float, float]]) -> tuple[bool, str]:
    """Return whether never updated > subnetwork > cancelled > 0 in each run.

    >>> [ordered([run]).verdict for run in ((72, 20, 8), (45, 50, 5), (80, 20, 0))]
    ['agrees', 'differs', 'differs']
    """
    return all(a > b > c > 0 for a, b, c in shares), "Never > subnetwork > cancelled > 0."


@given
def decays(sparsities: Sequence[float]) -> tuple[bool, str]:
    """Return whether sparsity ends below its first value and falls in three steps of four.

    >>> decays([90, 85, 86, 80, 79]).verdict, decays([90, 91, 86, 87, 80]).verdict
    ('agrees', 'differs')
    """
    falling = _share(change <= 0 for change in _changes(sparsities))
    rule = f"Lower at the end; {STEADY:.0f} % of the changes between saved steps do not rise."
    return sparsities[-1] < sparsities[0] and falling >= STEADY, rule


@given
def levels_off(falls: Sequence[tuple[float, float, bool]]) -> tuple[bool, str] | Ruling:
    """Return whether the last quarter of the steps takes at most a tenth of the fall from 100.

    Each run is (fall of the last quarter, whole fall, whether its learning rate was constant). At a
    steady pace it would be a quarter; a rate that falls to 0 settles by itself.

    >>> [levels_off([(late, 40, True)]).verdict for late in (4, 4.1)]
    ['agrees', 'differs']
    """
    if not all(constant for *_, constant in falls):
        return Ruling(NOT_COMPARABLE, "A learning rate that falls to 0 settles by itself.")
    rule = "The last quarter of the steps takes at most a tenth of the whole fall."
    return all(late <= whole / 10 for late, whole, _ in falls), rule


@given
def rises_then_declines(values: Sequence[float]) -> tuple[bool, str]:
    """Return whether a share has its peak inside the first two thirds, rising before, then falling.

    The last value is 0 by definition; a late peak shows nothing else.

    >>> [rises_then_declines(v)[0] for v in ([1, 3, 2, 1.5, 0], [1, 2, 3, 0], [1, 2, 2.5, 3, 0])]
    ['agrees', 'agrees', 'differs']
    """
    peak = values.index(max(values))
    sides = [(-1, values[: peak + 1]), (1, values[peak:])]
    steady = [_share(sign * c <= 0 for c in _changes(side)) >= STEADY for sign, side in sides]
    rule = f"A peak after the first and within two thirds of the saved steps, {STEADY:.0f} % of the"
    inside = 0 < peak <= 2 * (len(values) - 1) / 3
    return inside and all(steady), f"{rule} changes before it rising, of those after it falling."


def _changes(values: Sequence[float]) -> list[float]:
    return [after - before for before, after in zip(values, values[1:], strict=False)]


def _share(marks: Iterable[bool]) -> float:
    listed = list(marks)
    return 100 * sum(listed) / len(listed) if listed else 0.0


# As many are listed; of more, the lowest and the highest.
_LISTED = 4


class Line(NamedTuple):
    """A claim of the paper, what it says, what this scale shows, and the verdict."""

    part: str
    id: str
    claim: str
    where: str
    paper: str
    here: str
    verdict: str
    decided_by: str


def named(values: Sequence[tuple[str, float]], unit: str = " %", digits: int = 1) -> str:
    """Return values with the names of their runs or pairs; of many, lowest and highest.

    >>> named([("dpo", 64.57), ("ppo", 70.0)])
    '64.6 % (dpo), 70.0 % (ppo)'
    >>> named([(name, place) for place, name in enumerate("abcde")])
    '0.0 % (a) to 4.0 % (e), 5 in all'
    """
    if len(values) <= _LISTED:
        return ", ".join(f"{value:.{digits}f}{unit} ({name})" for name, value in values)
    ordered = sorted(values, key=lambda pair: pair[1])
    ends = [f"{value:.{digits}f}{unit} ({name})" for name, value in (ordered[0], ordered[-1])]
    return f"{' to '.join(ends)}, {len(values)} in all"


def joined(*parts: str) -> str:
    """Return sentences side by side, without the empty ones.

    >>> joined("64.6 % (dpo)", "", "null 35.2 %")
    '64.6 % (dpo); null 35.2 %'
    """
    return "; ".join(part for part in parts if part)


def labeled(label: str, text: str) -> str:
    """Return a text with what it is, or nothing where there is none.

    >>> labeled("control", "81.8 % (sft_rl_lr)"), labeled("control", "")
    ('control: 81.8 % (sft_rl_lr)', '')
    """
    return f"{label}: {text}" if text else ""
