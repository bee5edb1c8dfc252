"""Table 3 and the gains: two runs on the same items, by seed and over seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rlsubnet.config import Pair, Scale
from rlsubnet.data import Published
from rlsubnet.report.paired import (
    Compared,
    answers_of_seeds,
    compare_counts,
    compare_seeds,
    mean_of_tasks,
)
from rlsubnet.report.results import NOT_RUN, Results, sparsity, spelling
from rlsubnet.report.settings import (
    GREEDY,
    LIKELIHOOD,
    SuiteFacts,
    seed_groups,
    seed_text,
    suite_facts,
)
from rlsubnet.report.style import METHODS
from rlsubnet.report.tables import (
    COLUMNS,
    MEAN_OF_SEEDS,
    ONE_OF_THE_SEEDS,
    ONE_SEED,
    Row,
    compared_columns,
    hidden,
    make_frame,
    names_of,
    p_text,
    pairs_of,
    paper_row,
    part_of,
    short_seeds,
    tolerance_of,
)

AVERAGE, OVERALL = "Avg", "Overall"
_BESIDE = ["paper_task", "paper_full_percent", "paper_sub_percent", "paper_delta_points", "source"]


def _counted(row: Mapping[str, Any]) -> Compared:
    return compare_counts(row["n"], row["full"], row["sub"])


def _published_rows(published: Published) -> tuple[dict[str, Row], dict[str, Row]]:
    """Return the paper's rows of Table 3 with decoded counts: (by task, by level)."""
    decoded, part_a, part_b = (published[name] for name in ("table3_counts", "table3a", "table3b"))
    counts = {row["task"]: _counted(row) for row in decoded["table3a"]}
    counts[AVERAGE] = mean_of_tasks(list(counts.values()))
    by_level = {row["level"]: _counted(row) for row in decoded["table3b"]}
    levels = {}
    for row in part_b["rows"]:
        level = row["level"]
        name = f"{part_b['benchmark']} {'' if level == OVERALL else 'level '}{level}"
        levels[str(level)] = _printed(part_b, row, name, by_level[level])
    tasks = {
        spelling(row["task"]): _printed(part_a, row, row["task"], counts[row["task"]])
        for row in part_a["rows"]
    }
    return tasks, levels


def _printed(table: Mapping[str, Any], row: Mapping[str, Any], name: str, counts: Compared) -> Row:
    """Return a row of the paper: printed values as they are, tests from the decoded counts."""
    columns = compared_columns(counts)
    computed = ["full_interval", "sub_interval", "delta_se_points"]
    if counts.full_interval is not None:  # a mean of tasks has no counts of its own
        computed += ["n", "full_correct", "sub_correct"]
    return paper_row(
        table["source"],
        algorithm=table["algo"],
        task=name,
        full_percent=row["full"],
        sub_percent=row["sub"],
        delta_points=row["delta"],
        **{column: columns[column] for column in computed},
        p_value=counts.p_value,
        verdict=counts.verdict,
    )


CHOICES = "(a) multiple choice"
PROBLEMS = "(b) problems by level"
PREFERENCES = "held-out preferences"
_PARTS = (CHOICES, PROBLEMS, PREFERENCES)


@dataclass(frozen=True)
class Accuracy:
    """Full against sub on one task or level, of one seed or as the mean over several.

    `pairs` are (full run, masked run), one a seed; `row` tells which of the two it is. `task` is
    `AVERAGE` for the mean of the choice tasks, `level` `OVERALL` for all problems and empty for
    other tasks. `chance` is None where it is not known, `stands_for` the paper's task beside it,
    and `as_the_paper` says whether the paper's numbers by level stand there.
    """

    pairs: Sequence[Pair]
    row: str
    part: str
    task: str
    level: str
    decoding: str
    sampled: bool
    compared: Compared
    chance: float | None = None
    stands_for: str = ""
    as_the_paper: bool = False

    @property
    def is_whole(self) -> bool:
        return self.task == AVERAGE or self.level == OVERALL


def accuracies(scale: Scale, results: Results) -> list[Accuracy]:
    """Return the accuracies of Table 3: part by part, the mean of several seeds before each.

    A pair that names `table3` is (full run, masked run). Part (a) of the paper is DPO on five
    choice tasks, part (b) PRIME on problems in five levels; ours are made-up stand-ins.
    """
    found: list[Accuracy] = []
    for group in seed_groups(scale, pairs_of(scale, "table3"), "init"):
        for pairs, row, answers in _each_seed(scale, results, group):
            suites: dict[str, dict[str, list[pd.DataFrame]]] = {}
            for task, tables in answers.items():
                suites.setdefault(tables[0]["suite"].iloc[0], {})[task] = tables
            for suite, tasks in suites.items():
                facts = suite_facts(scale.config, suite)
                of_kind = {"choices": _choices, "problems": _problems}.get(facts.kind, _preferences)
                found += [Accuracy(pairs, row, **one) for one in of_kind(suite, facts, tasks)]
    return sorted(found, key=lambda one: _PARTS.index(one.part))


def _each_seed(
    scale: Scale, results: Results, group: Sequence[Pair]
) -> Iterator[tuple[Sequence[Pair], str, dict[str, list[pd.DataFrame]]]]:
    """Yield (pairs, what the row is, answers by task): all seeds together, then each."""
    answers = answers_of_seeds(scale, results, group)
    if len(group) > 1:
        yield group, MEAN_OF_SEEDS, answers
    for number, pair in enumerate(group):
        one = {task: [tables[number]] for task, tables in answers.items()}
        yield [pair], ONE_OF_THE_SEEDS if len(group) > 1 else ONE_SEED, one


def _choices(
    suite: str, facts: SuiteFacts, tasks: Mapping[str, list[pd.DataFrame]]
) -> Iterator[dict[str, Any]]:
    shared = {"part": CHOICES, "level": "", "decoding": facts.decoding, "sampled": facts.sampled(1)}
    compared = {
        task.removeprefix(f"{suite}_"): compare_seeds(tables) for task, tables in tasks.items()
    }
    for name, one in compared.items():
        known = {"chance": facts.chances.get(name), "stands_for": facts.stands_for.get(name, "")}
        yield {**shared, **known, "task": name, "compared": one}
    mean = mean_of_tasks(list(compared.values()))
    yield {**shared, "task": AVERAGE, "stands_for": AVERAGE, "compared": mean}


def _problems(
    suite: str, facts: SuiteFacts, tasks: Mapping[str, list[pd.DataFrame]]
) -> Iterator[dict[str, Any]]:
    for tables in tasks.values():
        samples = int(tables[0]["samples"].iloc[0])
        for level in [*sorted(set(tables[0]["level"]) - {""}), OVERALL]:
            chosen = [
                table if level == OVERALL else table[table["level"] == level] for table in tables
            ]
            yield {
                "part": PROBLEMS,
                "task": suite,
                "level": level,
                "decoding": facts.decoded(samples),
                "sampled": facts.sampled(samples),
                "compared": compare_seeds(chosen),
                # The paper's numbers come from one answer a problem.
                "as_the_paper": facts.math500 and samples == 1,
            }


def _preferences(
    suite: str, facts: SuiteFacts, tasks: Mapping[str, list[pd.DataFrame]]
) -> Iterator[dict[str, Any]]:
    shared = {"part": PREFERENCES, "task": suite, "level": "", "decoding": LIKELIHOOD}
    for tables in tasks.values():
        yield {**shared, "sampled": False, "compared": compare_seeds(tables), "chance": 0.5}


def beside_the_papers(
    found: Sequence[Accuracy], published: Published
) -> tuple[list[Row], list[Row]]:
    """Return (what the paper prints beside each accuracy, its own rows with decoded counts).

    A part of the paper's table that nothing of ours stands beside is marked as not run.
    """
    tasks, levels = _published_rows(published)
    printed = [_row_beside(one, tasks, levels) for one in found]
    beside = [{name: row[name] for name in _BESIDE if row} for row in printed]
    used = {row["source"] for row in beside if row}
    own = []
    for row in [*tasks.values(), *levels.values()]:
        missing = "" if row["source"] in used else f", {NOT_RUN}"
        own.append({"part": f"paper, {row['source']}{missing}", **row})
    return beside, own


def _row_beside(one: Accuracy, tasks: Mapping[str, Row], levels: Mapping[str, Row]) -> Row:
    method = one.pairs[0].method
    if one.stands_for and method in ("DPO", "DPO_NORM"):
        name = spelling(one.stands_for)
        return next((row for task, row in tasks.items() if task.endswith(name)), {})
    return levels[one.level] if one.as_the_paper and method == "PRIME" else {}


def table3(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return accuracy of full and sub with intervals and paired tests, beside the paper's."""
    found = accuracies(scale, results)
    beside, printed = beside_the_papers(found, published)
    rows = [_row(scale, one) | paper for one, paper in zip(found, beside, strict=True)]
    return make_frame([*rows, *printed], COLUMNS["table3"])


def _row(scale: Scale, one: Accuracy) -> Row:
    compared = one.compared
    row = {
        "part": one.part,
        "algorithm": METHODS[one.pairs[0].method].label,
        "row": one.row,
        "seed": seed_text(scale, one.pairs, "init"),
        "full": ", ".join(pair.init for pair in one.pairs),
        "sub": ", ".join(pair.tuned for pair in one.pairs),
        "task": one.task,
        "level": one.level,
        "decoding": one.decoding,
        **compared_columns(compared),
        "p_value": compared.p_value,
        "test": compared.test,
        "verdict": compared.verdict,
    }
    if one.chance is not None:
        row["chance_percent"] = 100 * one.chance
    if compared.parts:
        row |= {
            f"{name}_sd_points": 100 * compared.deviation_of(name)
            for name in ("full", "sub", "delta")
        }
        row["delta_total_se_points"] = 100 * compared.total_se
        row["p_by_seed"] = ", ".join(p_text(part.p_value) for part in compared.parts)
    return row


@dataclass(frozen=True)
class Gain:
    """A run against its start on one suite of problems, of one seed or as the mean over several.

    `compared.full` is the start, `compared.sub` the run; the other attributes are as in `Accuracy`.
    """

    pairs: Sequence[Pair]
    row: str
    suite: str
    decoding: str
    sampled: bool
    compared: Compared

    @property
    def points(self) -> float:
        return 100 * self.compared.delta

    @property
    def se(self) -> float:
        return 100 * self.compared.se

    @property
    def name(self) -> str:
        """Return the runs; with the suite where answers were not sampled."""
        runs = ", ".join(pair.tuned for pair in self.pairs)
        return runs if self.sampled else f"{runs}, {self.suite}"


def measured_gains(scale: Scale, results: Results) -> list[Gain]:
    """Return the gain of every run over its start on the problems, greedy answers last.

    A pair that names `gains` is (start, run). Runs that start from the same model and differ in
    their seed only are led by their mean.
    """
    found = []
    for group in seed_groups(scale, pairs_of(scale, "gains"), "tuned"):
        for pairs, row, answers in _each_seed(scale, results, group):
            for tables in answers.values():
                suite, samples = tables[0]["suite"].iloc[0], int(tables[0]["samples"].iloc[0])
                facts = suite_facts(scale.config, suite)
                if facts.kind == "problems":
                    how = facts.decoded(samples), facts.sampled(samples)
                    found.append(Gain(pairs, row, suite, *how, compare_seeds(tables)))
    return sorted(found, key=lambda one: one.decoding == GREEDY)


def gains(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return the gain of every run with the sparsity of its update beside it.

    The paper reports no accuracy of its starting points, so nothing of it stands beside ours.
    """
    tolerance = tolerance_of(scale)
    rows = []
    for one in measured_gains(scale, results):
        first, seeds = one.pairs[0], len(one.pairs)
        measured = [sparsity(results.updates(pair.pair), tolerance) for pair in one.pairs]
        rows.append(
            {
                "part": part_of(first),
                **names_of(first),
                "row": one.row,
                "seed": seed_text(scale, one.pairs, "tuned"),
                "tuned": ", ".join(pair.tuned for pair in one.pairs),
                "label": f"{first.label}, mean of {seeds} seeds" if seeds > 1 else first.label,
                "sparsity_percent": 100 * sum(measured) / seeds,
                "task": one.suite,
                "decoding": one.decoding,
                **_gain_columns(one),
            }
        )
    return make_frame(rows, COLUMNS["gains"])


def _gain_columns(one: Gain) -> Row:
    compared, gain, se = one.compared, one.points, one.se
    words = {"sub higher": "higher", "full higher": "lower"}
    row = {
        "n": compared.n,
        "init_percent": 100 * compared.full,
        "tuned_percent": 100 * compared.sub,
        "gain_points": gain,
        "gain_se_points": se,
        **_interval("gain", (gain - 1.96 * se, gain + 1.96 * se)),
        "p_value": compared.p_value,
        "test": compared.test,
        "verdict": words.get(compared.verdict, compared.verdict),
    }
    if compared.seed_interval:
        low, high = compared.seed_interval
        row |= {
            "gain_sd_points": 100 * compared.deviation_of("delta"),
            "gain_total_se_points": 100 * compared.total_se,
            **_interval("gain_seeds", (100 * low, 100 * high)),
        }
    return row


def _interval(name: str, ends: tuple[float, float]) -> Row:
    """Return an interval of a gain in print, and whether zero lies outside.

    >>> _interval("gain", (0.04, 2.5))
    {'gain_interval': '+0.0 to +2.5', 'gain_excludes_zero': 'yes'}
    """
    low, high = ends
    return {
        f"{name}_interval": f"{low:+.1f} to {high:+.1f}",
        f"{name}_excludes_zero": "yes" if low > 0 or high < 0 else "no",
    }


SUMMARY = "summary, means over seeds where there are several"
_SUMMARY_SPREAD = ["full_sd_points", "sub_sd_points"]
# What the summary leaves to the parts below it, what no part of ours prints.
_DETAIL = ["level", "full_correct", "sub_correct", "full_interval", "sub_interval"]
_DETAIL += ["p_by_seed", "chance_percent"]
_UNPRINTED = ["row", "decoding", "test", "delta_total_se_points", "source"]
_UNPRINTED += ["paper_full_percent", "paper_sub_percent"]


def table3_in_print(frame: pd.DataFrame) -> pd.DataFrame:
    """Return Table 3 as it is printed: a summary, the parts (a) and (b), then the paper's rows.

    Of several seeds the parts show their mean, and each of them only where all tasks or all levels
    are taken together. The standard error of a mean is the one of items and seeds. The paper's
    accuracies stand below with their counts; beside ours stands its delta.
    """
    measured = frame["part"].isin([CHOICES, PROBLEMS, PREFERENCES])
    ours = short_seeds(frame[measured])
    total = ours["delta_total_se_points"]
    ours = ours.assign(delta_se_points=total.where(total.notna(), ours["delta_se_points"]))
    together = (
        (ours["task"] == AVERAGE) | (ours["level"] == OVERALL) | (ours["part"] == PREFERENCES)
    )
    of_several = ours["row"] == ONE_OF_THE_SEEDS
    shown = pd.concat(
        [
            hidden(_summary(ours[together & ~of_several]), _DETAIL),
            hidden(_parts(ours[together | ~of_several]), _SUMMARY_SPREAD),
        ]
    )
    shown = hidden(shown, _UNPRINTED)
    if not shown.duplicated(["part", "algorithm", "seed", "task", "level"]).any():
        shown = hidden(shown, ["full", "sub"])
    return pd.concat([shown, frame[~measured]], ignore_index=True)


def _summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what each method did on everything together, one method after another."""
    by_method = rows.sort_values("algorithm", key=_first_seen, kind="stable")
    task = by_method["task"].replace(AVERAGE, "mean of the choice tasks")
    problems = by_method["part"] == PROBLEMS
    return by_method.assign(
        part=SUMMARY, task=task.where(~problems, task + ", " + by_method["decoding"])
    )


def _parts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the parts split by the way of answering, which their title then tells."""
    problems = rows["part"] == PROBLEMS
    if rows[problems]["task"].nunique() == 1:
        rows = rows.assign(task=rows["task"].where(~problems, ""))
    split = rows.assign(part=rows["part"] + ", " + rows["decoding"])
    # Sampled and greedy answers take turns, a method after another: one part after the other.
    return split.sort_values("part", key=_first_seen, kind="stable")


def _first_seen(values: pd.Series) -> pd.Series:
    return values.map({value: place for place, value in enumerate(dict.fromkeys(values))})


def gains_in_print(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the gains as they are printed: a part for each way of answering, greedy last."""
    shown = frame.assign(part=frame["part"] + ", " + frame["decoding"])
    shown = shown.sort_values("decoding", key=lambda names: names == "greedy", kind="stable")
    shown = shown.sort_values("part", key=_first_seen, kind="stable")
    # The label names the run.
    unprinted = ["row", "tuned", "task", "decoding", "gain_total_se_points", "test"]
    return hidden(short_seeds(shown), unprinted)
