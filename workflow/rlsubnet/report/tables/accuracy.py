"""Table 3 and the gains: two runs on the same items, by seed and over seeds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from rlsubnet.config import Pair
from rlsubnet.report.paired import (
    Compared,
    answers_of_seeds,
    compare_counts,
    compare_items,
    compare_seeds,
    mean_of_tasks,
)
from rlsubnet.report.results import NOT_RUN, sparsity
from rlsubnet.report.settings import LIKELIHOOD, Asked, asked, decoding_of, seed_groups, seed_text
from rlsubnet.report.style import method_label
from rlsubnet.report.tables.common import (
    MEAN_OF_SEEDS,
    ONE_OF_THE_SEEDS,
    ONE_SEED,
    Published,
    Results,
    Row,
    Scale,
    compared_columns,
    hidden,
    make_frame,
    names_of,
    p_text,
    pairs_of,
    part_of,
    short_seeds,
)

AVERAGE, OVERALL = "Avg", "Overall"
_BESIDE = ["paper_task", "paper_full_percent", "paper_sub_percent", "paper_delta_points", "source"]


class PublishedAccuracy:
    """The paper's Table 3: what stands beside our rows, and its own rows with decoded counts."""

    def __init__(self, published: Published) -> None:
        decoded = published["table3_counts"]
        tasks = {row["task"]: _counted(row) for row in decoded["table3a"]}
        tasks[AVERAGE] = mean_of_tasks(list(tasks.values()))
        levels = {str(row["level"]): _counted(row) for row in decoded["table3b"]}
        part_a, part_b = published["table3a"], published["table3b"]
        self._tasks = {
            _key(row["task"]): _printed(part_a, row, row["task"], tasks[row["task"]])
            for row in part_a["rows"]
        }
        self._levels = {
            str(row["level"]): _printed(
                part_b, row, _level_name(part_b, row["level"]), levels[str(row["level"])]
            )
            for row in part_b["rows"]
        }
        self._used: set[str] = set()

    def task(self, method: str, stands_for: str) -> Row:
        """Return the paper's printed DPO accuracies on the task that ours stands for."""
        found = [row for key, row in self._tasks.items() if key.endswith(_key(stands_for))]
        return self._beside(found[0]) if found and method in ("DPO", "DPO_NORM") else {}

    def level(self, method: str, level: str) -> Row:
        """Return the paper's printed PRIME accuracies at a difficulty level."""
        return self._beside(self._levels[level]) if method == "PRIME" else {}

    def rows(self) -> list[Row]:
        """Return the paper's rows with decoded counts, marked where nothing of ours has them."""
        rows = []
        for printed in [*self._tasks.values(), *self._levels.values()]:
            source = printed["source"]
            missing = "" if source in self._used else f", {NOT_RUN}"
            rows.append({"part": f"paper, {source}{missing}", **printed})
        return rows

    def _beside(self, printed: Row) -> Row:
        self._used.add(printed["source"])
        return {name: printed[name] for name in _BESIDE}


def _counted(row: Mapping[str, Any]) -> Compared:
    return compare_counts(row["n"], row["full"], row["sub"])


def _level_name(table: Mapping[str, Any], level: object) -> str:
    return f"{table['benchmark']} {'' if level == OVERALL else 'level '}{level}"


def _key(task: str) -> str:
    return "".join(character for character in task.lower() if character.isalnum())


def _printed(table: Mapping[str, Any], row: Mapping[str, Any], name: str, counts: Compared) -> Row:
    """Return a row of the paper: printed values as they are, tests from the decoded counts."""
    columns = compared_columns(counts)
    if counts.full_interval is None:
        # A mean of tasks has no counts of its own.
        columns |= {"n": None, "full_correct": None, "sub_correct": None}
    computed = ("n", "full_correct", "sub_correct", "full_interval", "sub_interval")
    return {
        "paper_algorithm": table["algo"],
        "paper_task": name,
        "paper_full_percent": row["full"],
        "paper_sub_percent": row["sub"],
        "paper_delta_points": row["delta"],
        **{f"paper_{column}": columns[column] for column in computed},
        "paper_delta_se_points": columns["delta_se_points"],
        "paper_p_value": counts.p_value,
        "paper_verdict": counts.verdict,
        "source": table["source"],
    }


CHOICES = "(a) multiple choice"
PROBLEMS = "(b) problems by level"
PREFERENCES = "held-out preferences"
_COMPARED = ["n", "full_correct", "sub_correct", "full_percent", "full_interval", "sub_percent"]
_COMPARED += ["sub_interval", "delta_points", "delta_se_points"]
_SPREAD = ["full_sd_points", "sub_sd_points", "delta_sd_points", "delta_total_se_points"]
_TABLE3 = [
    *["part", "algorithm", "row", "seed", "full", "sub", "task", "level", "decoding"],
    *[*_COMPARED, *_SPREAD, "p_value", "p_by_seed", "test", "verdict", "chance_percent"],
    *["paper_algorithm", "paper_task", "paper_full_percent", "paper_sub_percent"],
    *["paper_delta_points", "paper_n", "paper_full_correct", "paper_sub_correct"],
    *["paper_full_interval", "paper_sub_interval", "paper_delta_se_points", "paper_p_value"],
    *["paper_verdict", "source"],
]


def table3(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return accuracy of full and sub with intervals and paired tests, beside the paper's.

    A pair that names `table3` is (full run, masked run). Part (a) of the paper is DPO on five
    choice tasks, part (b) PRIME on problems in five levels; ours are made-up stand-ins.

    Pairs whose full runs differ in their seed only are led by rows of their mean. Column `row`
    tells them apart: `MEAN_OF_SEEDS`, `ONE_OF_THE_SEEDS`, and `ONE_SEED` where no other was run.
    """
    paper = PublishedAccuracy(published)
    rows: list[Row] = []
    for group in seed_groups(scale, pairs_of(scale, "table3"), "init"):
        answers = answers_of_seeds(scale, results, group)
        if len(group) > 1:
            rows += _rows(scale, group, answers, MEAN_OF_SEEDS, paper)
        kind = ONE_OF_THE_SEEDS if len(group) > 1 else ONE_SEED
        for number, pair in enumerate(group):
            one = {task: [tables[number]] for task, tables in answers.items()}
            rows += _rows(scale, [pair], one, kind, paper)
    parts = (CHOICES, PROBLEMS, PREFERENCES)
    rows.sort(key=lambda row: parts.index(row["part"]))
    return make_frame([*rows, *paper.rows()], _TABLE3)


def _rows(
    scale: Scale,
    group: Sequence[Pair],
    answers: Mapping[str, list[pd.DataFrame]],
    kind: str,
    paper: PublishedAccuracy,
) -> Iterator[Row]:
    """Yield the rows of one seed, or of the mean over several."""
    method = group[0].method
    names = {
        "algorithm": method_label(method),
        "row": kind,
        "seed": seed_text(scale, group, "init"),
        "full": ", ".join(pair.init for pair in group),
        "sub": ", ".join(pair.tuned for pair in group),
    }
    suites: dict[str, dict[str, list[pd.DataFrame]]] = {}
    for task, tables in answers.items():
        suites.setdefault(tables[0]["suite"].iloc[0], {})[task] = tables
    for suite, tasks in suites.items():
        told = asked(scale.config, suite)
        if told.kind == "choices":
            found = _choice_rows(suite, told, tasks, method, paper)
        elif told.kind == "problems":
            found = _problem_rows(suite, told, tasks, method, paper)
        else:
            found = _preference_rows(suite, tasks)
        for row in found:
            yield {**names, **row}


def _compare(tables: Sequence[pd.DataFrame]) -> Compared:
    return compare_items(tables[0]) if len(tables) == 1 else compare_seeds(tables)


def _choice_rows(
    suite: str,
    told: Asked,
    tasks: Mapping[str, list[pd.DataFrame]],
    method: str,
    paper: PublishedAccuracy,
) -> Iterator[Row]:
    shared = {"part": CHOICES, "decoding": told.decoding}
    compared = {task.removeprefix(f"{suite}_"): _compare(tables) for task, tables in tasks.items()}
    for name, found in compared.items():
        row = {**shared, "task": name, **_measured(found)}
        if name in told.chances:
            row["chance_percent"] = 100 * told.chances[name]
        if name in told.stands_for:
            row |= paper.task(method, told.stands_for[name])
        yield row
    mean = mean_of_tasks(list(compared.values()))
    yield {**shared, "task": AVERAGE, **_measured(mean), **paper.task(method, AVERAGE)}


def _problem_rows(
    suite: str,
    told: Asked,
    tasks: Mapping[str, list[pd.DataFrame]],
    method: str,
    paper: PublishedAccuracy,
) -> Iterator[Row]:
    for tables in tasks.values():
        samples = int(tables[0]["samples"].iloc[0])
        shared = {"part": PROBLEMS, "task": suite, "decoding": told.decoded(samples)}
        for level in [*sorted(set(tables[0]["level"]) - {""}), OVERALL]:
            chosen = [
                table if level == OVERALL else table[table["level"] == level] for table in tables
            ]
            # The paper's numbers come from one answer a problem.
            beside = paper.level(method, level) if told.math500 and samples == 1 else {}
            yield {**shared, "level": level, **_measured(_compare(chosen)), **beside}


def _preference_rows(suite: str, tasks: Mapping[str, list[pd.DataFrame]]) -> Iterator[Row]:
    row = {"part": PREFERENCES, "task": suite, "decoding": LIKELIHOOD, "chance_percent": 50.0}
    for tables in tasks.values():
        yield {**row, **_measured(_compare(tables))}


def _measured(compared: Compared) -> Row:
    row = {
        **compared_columns(compared),
        "p_value": compared.p_value,
        "test": compared.test,
        "verdict": compared.verdict,
    }
    if compared.parts:
        row |= {
            f"{name}_sd_points": 100 * compared.deviation_of(name)
            for name in ("full", "sub", "delta")
        }
        row["delta_total_se_points"] = 100 * compared.total_se
        row["p_by_seed"] = ", ".join(p_text(part.p_value) for part in compared.parts)
    return row


_GAINS = ["part", "algorithm", "row", "seed", "label", "init", "tuned", "sparsity_percent"]
_GAINS += ["task", "decoding", "n", "init_percent", "tuned_percent", "gain_points"]
_GAINS += ["gain_se_points", "gain_interval", "gain_excludes_zero"]
_GAINS += ["gain_sd_points", "gain_total_se_points"]
_GAINS += ["gain_seeds_interval", "gain_seeds_excludes_zero", "p_value", "test", "verdict"]


def gains(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return the gain of every run over its start on the problems, with sparsity beside it.

    A pair that names `gains` is (start, run). Runs that start from the same model and differ in
    their seed only are led by a row of their mean. The paper reports no accuracy of its starting
    points, so nothing of it stands beside ours.
    """
    rows: list[Row] = []
    for group in seed_groups(scale, pairs_of(scale, "gains"), "tuned"):
        answers = answers_of_seeds(scale, results, group)
        if len(group) > 1:
            rows += _gain_rows(scale, results, group, answers, MEAN_OF_SEEDS)
        kind = ONE_OF_THE_SEEDS if len(group) > 1 else ONE_SEED
        for number, pair in enumerate(group):
            one = {task: [tables[number]] for task, tables in answers.items()}
            rows += _gain_rows(scale, results, [pair], one, kind)
    rows.sort(key=lambda row: row["decoding"] == decoding_of(1))
    return make_frame(rows, _GAINS)


def _gain_rows(
    scale: Scale,
    results: Results,
    group: Sequence[Pair],
    answers: Mapping[str, list[pd.DataFrame]],
    kind: str,
) -> Iterator[Row]:
    """Yield the rows of one run, or of the mean over the seeds of one setting."""
    tolerance = float(scale.config["measure"]["table_tolerance"])
    measured = [sparsity(results.updates(pair.pair), tolerance) for pair in group]
    label = group[0].label
    shared = {
        "part": part_of(group[0]),
        **names_of(group[0]),
        "row": kind,
        "seed": seed_text(scale, group, "tuned"),
        "tuned": ", ".join(pair.tuned for pair in group),
        "label": f"{label}, mean of {len(group)} seeds" if len(group) > 1 else label,
        "sparsity_percent": 100 * sum(measured) / len(measured),
    }
    for tables in answers.values():
        suite, samples = tables[0]["suite"].iloc[0], int(tables[0]["samples"].iloc[0])
        told = asked(scale.config, suite)
        if told.kind == "problems":
            compared = compare_items(tables[0]) if len(tables) == 1 else compare_seeds(tables)
            names = {"task": suite, "decoding": told.decoded(samples)}
            yield {**shared, **names, **_columns(compared)}


def _columns(compared: Compared) -> Row:
    gain, se = 100 * compared.delta, 100 * compared.se
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
            "gain_sd_points": 100 * compared.seed_deviation,
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
