"""Table 3: accuracy of full and subnetwork finetuning on the same items."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from rlsubnet.report.accuracy import Compared, compare_counts, compare_items, mean_of_tasks
from rlsubnet.report.answers import paired_answers
from rlsubnet.report.published import NOT_RUN
from rlsubnet.report.style import method_label
from rlsubnet.report.tables.common import (
    Published,
    Results,
    Row,
    Scale,
    make_frame,
    pairs_of,
)
from rlsubnet.tasks.choices import CHOICE_TASKS

CHOICES = "(a) multiple choice"
PROBLEMS = "(b) problems by level"
PREFERENCES = "held-out preferences"
LIKELIHOOD = "log-likelihood"
AVERAGE, OVERALL = "Avg", "Overall"
_BESIDE = ["paper_task", "paper_full_percent", "paper_sub_percent", "paper_delta_points", "source"]
_COMPARED = ["n", "full_correct", "sub_correct", "full_percent", "full_interval", "sub_percent"]
_COMPARED += ["sub_interval", "delta_points", "delta_se_points", "p_value"]
_TABLE3 = [
    *["part", "algorithm", "full", "sub", "task", "level", "decoding"],
    *[*_COMPARED, "test", "verdict", "chance_percent"],
    *["paper_algorithm", "paper_task", "paper_full_percent", "paper_sub_percent"],
    *["paper_delta_points", "paper_n", "paper_full_correct", "paper_sub_correct"],
    *["paper_full_interval", "paper_sub_interval", "paper_delta_se_points", "paper_p_value"],
    *["paper_verdict", "source"],
]


def table3(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return accuracy of full and sub with intervals and paired tests, beside the paper's.

    A pair that names `table3` is (full run, masked run). Part (a) of the paper is DPO on five
    choice tasks, part (b) PRIME on problems in five levels; ours are made-up stand-ins.
    """
    paper = _Paper(published)
    rows: list[Row] = []
    for pair in pairs_of(scale, "table3"):
        names = {"algorithm": method_label(pair.method), "full": pair.init, "sub": pair.tuned}
        paired = paired_answers(scale, results, pair)
        for suite, items in paired.groupby("suite", sort=False):
            kind = scale.config["data"][suite]["kind"]
            if kind == "choices":
                found = _choice_rows(suite, items, pair.method, paper)
            elif kind == "problems":
                found = _problem_rows(suite, items, pair.method, paper)
            else:
                found = _preference_rows(suite, items)
            rows += [{**names, **row} for row in found]
    parts = (CHOICES, PROBLEMS, PREFERENCES)
    rows.sort(key=lambda row: parts.index(row["part"]))
    return make_frame([*rows, *paper.rows()], _TABLE3)


def _choice_rows(suite: str, items: pd.DataFrame, method: str, paper: "_Paper") -> Iterator[Row]:
    compared = []
    for task in items["task"].unique():
        name = task.removeprefix(f"{suite}_")
        compared.append(compare_items(items[items["task"] == task]))
        row = {
            "part": CHOICES,
            "task": name,
            "decoding": LIKELIHOOD,
            **_measured(compared[-1]),
        }
        if name in CHOICE_TASKS:
            row["chance_percent"] = 100 * CHOICE_TASKS[name].chance
            row |= paper.task(method, CHOICE_TASKS[name].stands_for)
        yield row
    yield {
        "part": CHOICES,
        "task": AVERAGE,
        "decoding": LIKELIHOOD,
        **_measured(mean_of_tasks(compared)),
        **paper.task(method, AVERAGE),
    }


def _problem_rows(suite: str, items: pd.DataFrame, method: str, paper: "_Paper") -> Iterator[Row]:
    for task in items["task"].unique():
        answers = items[items["task"] == task]
        samples = int(answers["samples"].iloc[0])
        shared = {
            "part": PROBLEMS,
            "task": suite,
            "decoding": "greedy" if samples == 1 else f"sampled, {samples} an item",
        }
        groups = {
            level: answers[answers["level"] == level] for level in sorted(set(answers["level"]))
        }
        for level, group in [*groups.items(), (OVERALL, answers)]:
            # The paper's numbers come from one answer a problem.
            beside = paper.level(method, level) if samples == 1 else {}
            yield {**shared, "level": level, **_measured(compare_items(group)), **beside}


def _preference_rows(suite: str, items: pd.DataFrame) -> Iterator[Row]:
    row = {"part": PREFERENCES, "task": suite, "decoding": LIKELIHOOD, "chance_percent": 50.0}
    yield {**row, **_measured(compare_items(items))}


def _measured(compared: Compared) -> Row:
    return {**_columns(compared), "test": compared.test, "verdict": compared.verdict}


def _columns(compared: Compared) -> Row:
    return {
        "n": compared.n,
        "full_correct": compared.full_correct,
        "sub_correct": compared.sub_correct,
        "full_percent": 100 * compared.full,
        "sub_percent": 100 * compared.sub,
        "full_interval": _interval(compared.full_interval),
        "sub_interval": _interval(compared.sub_interval),
        "delta_points": 100 * compared.delta,
        "delta_se_points": 100 * compared.se,
        "p_value": compared.p_value,
    }


def _interval(ends: tuple[float, float] | None) -> str:
    """Return an interval in per cent as printed.

    >>> _interval((0.161, 0.272))
    '16.1 to 27.2'
    """
    return "" if ends is None else f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"


class _Paper:
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
    columns = _columns(counts)
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
