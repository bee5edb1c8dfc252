"""Every row of the paper's Tables 1 to 6: its numbers beside ours."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from rlsubnet.report.export import tolerance_name
from rlsubnet.report.results import TABLE2_MODELS, model_name, rows_of, spelling
from rlsubnet.report.tables.accuracy import table3
from rlsubnet.report.tables.common import MEAN_OF_SEEDS, ONE_SEED
from rlsubnet.report.tables.updates import table1, table2, table4, table5, table6
from rlsubnet.report.verdicts import rules
from rlsubnet.report.verdicts.numbers import Source, is_papers, seeds_name
from rlsubnet.report.verdicts.rules import Line, another_model, line, on_same_model

Row = Mapping[str, Any]


def table_claims(source: Source) -> Iterator[Line]:
    """Yield one line for each row that the paper prints in Tables 1 to 6."""
    yield from _table1(source)
    yield from _table2(source)
    yield from _table3(source)
    yield from _table4(source)
    yield from _table5(source)
    yield from _table6(source)


def slug(text: object) -> str:
    """Return a printed name as part of an id.

    >>> slug("Seed + Data + Algo."), slug("AGIEval LSAT-AR")
    ('Seed+Data+Algo', 'AGIEval-LSAT-AR')
    """
    return re.sub(r"\s+", "-", re.sub(r"\s*\+\s+", "+", str(text)).strip(" ."))


def _table1(source: Source) -> Iterator[Line]:
    frame, again = table1(*source), rows_of(source.published, "table6", "rl")
    for row in source.published["table1"]["rows"]:
        model = model_name(row["rl"])
        found = _numbers(
            source,
            f"table1/{model}",
            f"{row['algo']}: share of weights unchanged from {row['init']} to {model}",
            "Table 1",
            {"sparsity_percent": row["sparsity"]},
            _rows(frame, paper_model=model),
        )
        other = again[model]["sparsity"][-1] if model in again else row["sparsity"]
        if abs(other - row["sparsity"]) > rules.POINTS:
            found = found._replace(paper=f"{found.paper} (Table 6: {other} %)")
        yield found


def _table2(source: Source) -> Iterator[Line]:
    frame = table2(*source)
    for row in source.published["table2"]["rows"]:
        yield _numbers(
            source,
            f"table2/{TABLE2_MODELS[row['model']]}",
            f"{row['algo']}: mean update rank of {row['model']}, of the full rank",
            "Table 2",
            {"update_rank_percent": row["update_rank"]},
            _rows(frame, paper_model=row["model"]),
        )


def _table5(source: Source) -> Iterator[Line]:
    frame = table5(*source)
    for row in source.published["table5"]["rows"]:
        kind = "in" if row["in_distribution"] else "out of"
        found = [
            found
            for found in _rows(frame, paper_model=row["model"])
            if spelling(found["method"].removesuffix("-norm")) == spelling(row["method"])
        ]
        yield _numbers(
            source,
            f"table5/{row['model']}/{row['method']}",
            f"{row['method']} ({kind} distribution): share of weights unchanged, {row['model']}",
            "Table 5",
            {"sparsity_percent": row["sparsity"]},
            found,
        )


def _table6(source: Source) -> Iterator[Line]:
    frame = table6(*source)
    tolerances = [tolerance_name(float(t)) for t in source.published["table6"]["tolerances"]]
    for row in source.published["table6"]["rows"]:
        model = model_name(row["rl"])
        printed = {
            f"sparsity_{name}_percent": value
            for name, value in zip(tolerances, row["sparsity"], strict=True)
        }
        yield _numbers(
            source,
            f"table6/{model}",
            f"{row['algo']}: share of weights unchanged at {', '.join(tolerances)}, {model}",
            "Table 6",
            printed,
            _rows(frame, paper_model=model, rule="official"),
            digits=2,
        )


def _rows(frame: pd.DataFrame, **values: str) -> list[Row]:
    """Return the measured rows of a table with these values."""
    chosen = frame[frame["tuned"] != ""]
    for column, value in values.items():
        chosen = chosen[chosen[column] == value]
    return [{str(key): cell for key, cell in row.items()} for row in chosen.to_dict("records")]


def _numbers(
    source: Source,
    id: str,
    claim: str,
    where: str,
    printed: Mapping[str, float],
    rows: list[Row],
    digits: int = 1,
) -> Line:
    """Return the line of a row of numbers; only the paper's own checkpoints can agree or differ."""
    released = [pair for pair in source.scale.pairs.values() if is_papers(source, pair)]
    ends = {(pair.init, pair.tuned) for pair in released}
    own = [row for row in rows if (row["init"], row["tuned"]) in ends]
    shown = own or rows
    measured = [column for column in printed if shown and column in shown[0]]
    numbers = [(float(row[name]), printed[name]) for row in shown for name in measured]
    here = [
        f"{', '.join(f'{row[name]:.{digits}f}' for name in measured)} % ({row['tuned']})"
        for row in shown
    ]
    said = f"{', '.join(str(value) for value in printed.values())} %"
    ruling = on_same_model(bool(own), rules.same_numbers(numbers))
    return line(id, claim, where, said, "; ".join(here), ruling)


def _table3(source: Source) -> Iterator[Line]:
    frame = table3(*source)
    frame = frame[(frame["sub"] != "") | (frame["paper_verdict"] != "")]
    for printed in frame[frame["paper_verdict"] != ""].to_dict("records"):
        task = printed["paper_task"]
        found = frame[(frame["paper_task"] == task) & frame["row"].isin([ONE_SEED, MEAN_OF_SEEDS])]
        part = printed["source"].replace("Table 3", "table3").replace("(", "").replace(")", "")
        yield line(
            f"{part}/{slug(str(task).removeprefix('MATH500 ').removeprefix('level '))}",
            f"{printed['paper_algorithm']}: accuracy of full and of sub, {task}",
            printed["source"],
            f"{printed['paper_full_percent']} and {printed['paper_sub_percent']} %, difference "
            f"{printed['paper_delta_points']:+} (SE {printed['paper_delta_se_points']:.1f}: "
            f"{printed['paper_verdict']})",
            "; ".join(
                f"{row['full_percent']:.1f} and {row['sub_percent']:.1f} %, difference "
                f"{row['delta_points']:+.1f} (SE {row['delta_se_points']:.1f}; {seeds_name(row)}, "
                f"{row['task']})"
                for row in found.to_dict("records")
            ),
            another_model(len(found) > 0),
        )


def _table4(source: Source) -> Iterator[Line]:
    frame = table4(*source)
    for row in source.published["table4"]["rows"]:
        one, two = row["i1"], row["i2"]
        same = frame["axis"].map(spelling) == spelling(row["axis"])
        # The paper's row stands beside the uniform null alone, the only one it has.
        found = frame[same & frame["o1_percent"].notna() & frame["paper_o1_percent"].notna()]
        yield line(
            f"table4/{slug(row['axis'])}",
            f"Overlap of {one['setting']} and {two['setting']}",
            "Table 4",
            f"o1/o2 {one['o1']}/{two['o2']} %, random {one['random_o1']}/{two['random_o2']} %, "
            f"sparsity {one['sparsity']}/{two['sparsity']} %",
            "; ".join(
                f"o1/o2 {r['o1_percent']:.1f}/{r['o2_percent']:.1f} %, random "
                f"{r['o1_null_percent']:.1f}/{r['o2_null_percent']:.1f} %, sparsity "
                f"{r['sparsity1_percent']:.1f}/{r['sparsity2_percent']:.1f} % "
                f"({r['label'] or r['setting1'] + ' and ' + r['setting2']})"
                for r in found.to_dict("records")
            ),
            another_model(len(found) > 0),
        )
