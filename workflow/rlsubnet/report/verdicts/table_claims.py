"""Every row of the paper's Tables 1 to 6: its numbers beside ours."""

import re
from collections.abc import Iterator, Sequence

from rlsubnet.config import Pair
from rlsubnet.report.export import tolerance_name
from rlsubnet.report.results import (
    TABLE2_MODELS,
    TABLE5_NAMES,
    mean_rank_share,
    model_name,
    rows_of,
    sparsity,
)
from rlsubnet.report.settings import distribution_columns
from rlsubnet.report.tables.accuracy import beside_the_papers
from rlsubnet.report.tables.common import pairs_of
from rlsubnet.report.verdicts import rules
from rlsubnet.report.verdicts.numbers import (
    Source,
    is_papers,
    overlaps_of,
    seeds_name,
    summed_accuracies,
)
from rlsubnet.report.verdicts.rules import Line, another_model, line, on_same_model


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
    again = rows_of(source.published, "table6", "rl")
    for row in source.published["table1"]["rows"]:
        model = model_name(row["rl"])
        found = _numbers(
            source,
            f"table1/{model}",
            f"{row['algo']}: share of weights unchanged from {row['init']} to {model}",
            "Table 1",
            [row["sparsity"]],
            [(pair, [_sparsity(source, pair)]) for pair in _pairs_beside(source, "table1", model)],
        )
        other = again[model]["sparsity"][-1] if model in again else row["sparsity"]
        if abs(other - row["sparsity"]) > rules.POINTS:
            found = found._replace(paper=f"{found.paper} (Table 6: {other} %)")
        yield found


def _table2(source: Source) -> Iterator[Line]:
    for row in source.published["table2"]["rows"]:
        model = TABLE2_MODELS[row["model"]]
        ranks = [
            (pair, [100 * mean_rank_share(source.results.get("ranks", pair.pair))])
            for pair in _pairs_beside(source, "table2", model)
        ]
        claim = f"{row['algo']}: mean update rank of {row['model']}, of the full rank"
        yield _numbers(source, f"table2/{model}", claim, "Table 2", [row["update_rank"]], ranks)


def _table5(source: Source) -> Iterator[Line]:
    def place(pair: Pair) -> int:
        mark = distribution_columns(source.scale, pair).get("in_distribution", "")
        return ["yes", "no", ""].index(mark)

    for row in source.published["table5"]["rows"]:
        kind = "in" if row["in_distribution"] else "out of"
        found = [
            pair
            for pair in sorted(pairs_of(source.scale, "table5"), key=place)
            if TABLE5_NAMES.get(name := model_name(pair.paper_model), name) == row["model"]
            and pair.method.removesuffix("_NORM") == row["method"]
        ]
        yield _numbers(
            source,
            f"table5/{row['model']}/{row['method']}",
            f"{row['method']} ({kind} distribution): share of weights unchanged, {row['model']}",
            "Table 5",
            [row["sparsity"]],
            [(pair, [_sparsity(source, pair)]) for pair in found],
        )


def _table6(source: Source) -> Iterator[Line]:
    scale, results, published = source
    printed_at = [float(atol) for atol in published["table6"]["tolerances"]]
    ours = {float(atol) for atol in scale.config["measure"]["tolerances"]}
    for row in published["table6"]["rows"]:
        model = model_name(row["rl"])
        found = []
        for pair in _pairs_beside(source, "table6", model):
            updates = results.updates(pair.pair)
            numbers = [100 * sparsity(updates, t) if t in ours else None for t in printed_at]
            found.append((pair, numbers))
        tolerances = ", ".join(map(tolerance_name, printed_at))
        yield _numbers(
            source,
            f"table6/{model}",
            f"{row['algo']}: share of weights unchanged at {tolerances}, {model}",
            "Table 6",
            row["sparsity"],
            found,
            digits=2,
        )


def _pairs_beside(source: Source, item: str, model: str) -> list[Pair]:
    """Return the pairs of a table that a model of the paper stands beside."""
    pairs = pairs_of(source.scale, item)
    return [pair for pair in pairs if pair.paper_model and model_name(pair.paper_model) == model]


def _sparsity(source: Source, pair: Pair) -> float:
    atol = float(source.scale.config["measure"]["table_tolerance"])
    return 100 * sparsity(source.results.updates(pair.pair), atol)


def _numbers(
    source: Source,
    id: str,
    claim: str,
    where: str,
    printed: Sequence[float],
    measured: Sequence[tuple[Pair, Sequence[float | None]]],
    digits: int = 1,
) -> Line:
    """Return the line of a row of numbers; only the paper's own checkpoints can agree or differ.

    Args:
        source: for the paper's models.
        id: of the claim.
        claim: what the numbers are.
        where: the table.
        printed: the paper's numbers.
        measured: ours of each pair, None where this scale does not measure one.
        digits: decimals in print.
    """
    own = [(pair, numbers) for pair, numbers in measured if is_papers(source, pair)]
    shown = own or measured
    compared = [
        (ours, number)
        for _, numbers in shown
        for ours, number in zip(numbers, printed, strict=True)
        if ours is not None
    ]
    here = [
        f"{', '.join(f'{x:.{digits}f}' for x in numbers if x is not None)} % ({pair.tuned})"
        for pair, numbers in shown
    ]
    ruling = on_same_model(bool(own), rules.same_numbers(compared))
    paper = f"{', '.join(str(value) for value in printed)} %"
    return line(id, claim, where, paper, "; ".join(here), ruling)


def _table3(source: Source) -> Iterator[Line]:
    found = summed_accuracies(source)
    beside, printed = beside_the_papers(found, source.published)
    for row in printed:
        task, part = row["paper_task"], row["source"].replace("Table 3", "table3").strip()
        ours = [
            one for one, paper in zip(found, beside, strict=True) if paper.get("paper_task") == task
        ]
        yield line(
            f"{part.replace('(', '').replace(')', '')}/"
            f"{slug(task.removeprefix('MATH500 ').removeprefix('level '))}",
            f"{row['paper_algorithm']}: accuracy of full and of sub, {task}",
            row["source"],
            f"{row['paper_full_percent']} and {row['paper_sub_percent']} %, difference "
            f"{row['paper_delta_points']:+} (SE {row['paper_delta_se_points']:.1f}: "
            f"{row['paper_verdict']})",
            "; ".join(
                f"{100 * one.compared.full:.1f} and {100 * one.compared.sub:.1f} %, difference "
                f"{100 * one.compared.delta:+.1f} (SE {100 * one.compared.se:.1f}; "
                f"{seeds_name(one)}, {one.task})"
                for one in ours
            ),
            another_model(bool(ours)),
        )


def _table4(source: Source) -> Iterator[Line]:
    comparisons, pairs = source.scale.comparisons, source.scale.pairs
    for row in source.published["table4"]["rows"]:
        one, two = row["i1"], row["i2"]
        here = []
        # The paper's row stands beside the uniform null alone, the only one it has.
        for found in overlaps_of(source, row["axis"], "uniform"):
            ours = comparisons[found.comparison]
            first, second = (_sparsity(source, pairs[p]) for p in (ours.pair1, ours.pair2))
            here.append(
                f"o1/o2 {found.o1:.1f}/{found.o2:.1f} %, random "
                f"{found.o1_null:.1f}/{found.o2_null:.1f} %, sparsity {first:.1f}/{second:.1f} % "
                f"({ours.label or ours.setting1 + ' and ' + ours.setting2})"
            )
        yield line(
            f"table4/{slug(row['axis'])}",
            f"Overlap of {one['setting']} and {two['setting']}",
            "Table 4",
            f"o1/o2 {one['o1']}/{two['o2']} %, random {one['random_o1']}/{two['random_o2']} %, "
            f"sparsity {one['sparsity']}/{two['sparsity']} %",
            "; ".join(here),
            another_model(bool(here)),
        )
