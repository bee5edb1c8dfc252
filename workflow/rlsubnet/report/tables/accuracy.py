"""Table 3: accuracy of full and subnetwork finetuning on the same items, by seed and over seeds."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from rlsubnet.config import Pair
from rlsubnet.report.accuracy import Compared, compare_items, compare_seeds, mean_of_tasks
from rlsubnet.report.answers import answers_of_seeds
from rlsubnet.report.settings import seed_groups, seed_text
from rlsubnet.report.style import method_label
from rlsubnet.report.suites import LIKELIHOOD, Asked, asked
from rlsubnet.report.tables.common import (
    MEAN_OF_SEEDS,
    ONE_OF_THE_SEEDS,
    ONE_SEED,
    Published,
    Results,
    Row,
    Scale,
    compared_columns,
    make_frame,
    p_text,
    pairs_of,
)
from rlsubnet.report.tables.published_accuracy import AVERAGE, OVERALL, PublishedAccuracy

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
