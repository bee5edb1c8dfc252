"""Tables 1, 2, 4, 5 and 6: sparsity, rank and overlap of updates beside the paper's."""

from collections.abc import Iterator

import pandas as pd

from rlsubnet.measure.overlap import NULLS
from rlsubnet.report.export import tolerance_name
from rlsubnet.report.results import (
    RULES,
    TABLE2_MODELS,
    TABLE5_NAMES,
    bitwise_sparsity,
    mean_rank_share,
    model_name,
    parameters,
    rows_of,
    sparsity,
    spelling,
)
from rlsubnet.report.settings import distribution_columns, is_sft_stage, steps_columns
from rlsubnet.report.style import RL_METHODS
from rlsubnet.report.tables.common import (
    MEASURED,
    PaperRows,
    Published,
    Results,
    Row,
    Scale,
    make_frame,
    names_of,
    pairs_of,
    part_of,
)

_SPARSITIES = ["sparsity_percent", "sparsity_exact_percent", "sparsity_bitwise_percent", "numel"]
_STEPS = ["lr", "steps", "lr_sum"]
_TABLE1 = [
    *["part", "algorithm", "label", "init", "tuned", *_SPARSITIES, *_STEPS],
    *["paper_init", "paper_model", "paper_sparsity_percent"],
    *["paper_on_policy", "paper_kl", "paper_online", "source"],
]
_TABLE5 = [
    *["part", "label", "method", "stage", "init", "tuned", *_SPARSITIES, *_STEPS],
    *["in_distribution", "data_origin", "paper_model", "paper_stage"],
    *["paper_in_distribution", "paper_sparsity_percent", "source"],
]


def table1(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return update sparsity by algorithm: the authors' rule, the exact rule, equal bits.

    A row for every pair that names `table1`, then the paper's rows that no pair stands beside.
    """
    printed = rows_of(published, "table1", "rl")
    source = published["table1"]["source"]
    paper = PaperRows({name: _printed_table1(row, source) for name, row in printed.items()})
    sft_range = published["headline"]["sft_sparsity_range"]
    rows: list[Row] = []
    for pair in pairs_of(scale, "table1"):
        row: Row = {
            "part": part_of(pair),
            "label": pair.label,
            **names_of(pair),
            **_measured(scale, results, pair.pair),
            **steps_columns(scale, pair),
        }
        if is_sft_stage(scale, pair):
            row["source"] = (
                f"Paper's SFT stages: {sft_range['low']} to {sft_range['high']} % (Sec 3)"
            )
        rows.append(row | paper.beside(model_name(pair.paper_model)))
    rows += [row | {"algorithm": printed[name]["algo"]} for name, row in paper.alone()]
    return make_frame(rows, _TABLE1)


def table5(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return update sparsity of SFT and RL, in and out of the policy's distribution.

    Rows in distribution stand first. Which they are follows from the sheet, see `settings.data_of`;
    the paper's own mark stands beside.
    """
    source = published["table5"]["source"]
    paper = PaperRows(
        {
            (row["model"], row["method"]): _printed_table5(row, source)
            for row in published["table5"]["rows"]
        }
    )
    rows: list[Row] = []
    for pair in pairs_of(scale, "table5"):
        names = names_of(pair)
        row: Row = {
            # SFT and rejection sampling are rows of this table like all others, no controls.
            "part": MEASURED,
            "label": pair.label,
            "method": names["algorithm"],
            "stage": "RL" if pair.method in RL_METHODS else "SFT",
            "init": pair.init,
            "tuned": pair.tuned,
            **_measured(scale, results, pair.pair),
            **steps_columns(scale, pair),
            **distribution_columns(scale, pair),
        }
        # The paper's DPO rows are length-normalized DPO too (Open-Instruct's `dpo_norm`).
        method = "DPO" if pair.method == "DPO_NORM" else pair.method
        model = model_name(pair.paper_model)
        rows.append(row | paper.beside((TABLE5_NAMES.get(model, model), method)))
    rows.sort(key=lambda row: ["yes", "no", ""].index(row.get("in_distribution", "")))
    rows += [row | {"method": method} for (_, method), row in paper.alone()]
    return make_frame(rows, _TABLE5)


def table6(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return sparsity at every tolerance of the config, under the authors' and the exact rule.

    The paper's values stand beside the authors' rule, which is the one they were made with.
    """
    source = published["table6"]["source"]
    printed_at = [float(atol) for atol in published["table6"]["tolerances"]]
    paper = PaperRows(
        {
            name: _printed_table6(name, row, printed_at, source)
            for name, row in rows_of(published, "table6", "rl").items()
        }
    )
    tolerances = sorted(float(atol) for atol in scale.config["measure"]["tolerances"])
    columns = [
        *["part", "algorithm", "init", "tuned", "rule"],
        *[_at(atol) for atol in tolerances],
        *["paper_algorithm", "paper_model"],
        *[f"paper_{_at(atol)}" for atol in printed_at],
        "source",
    ]
    rows: list[Row] = []
    for pair in pairs_of(scale, "table6"):
        updates = results.updates(pair.pair)
        for rule in RULES:
            row: Row = {"part": part_of(pair), **names_of(pair), "rule": rule}
            row |= {_at(atol): 100 * sparsity(updates, atol, rule) for atol in tolerances}
            if rule == "official":
                row |= paper.beside(model_name(pair.paper_model))
            rows.append(row)
    rows += [row for _, row in paper.alone()]
    return make_frame(rows, columns)


def _measured(scale: Scale, results: Results, pair: str) -> Row:
    updates = results.updates(pair)
    atol = float(scale.config["measure"]["table_tolerance"])
    return {
        "sparsity_percent": 100 * sparsity(updates, atol),
        "sparsity_exact_percent": 100 * sparsity(updates, atol, "exact"),
        "sparsity_bitwise_percent": 100 * bitwise_sparsity(updates),
        "numel": parameters(updates),
    }


def _printed_table1(printed: Published, source: str) -> Row:
    return {
        "paper_init": printed["init"],
        "paper_model": model_name(printed["rl"]),
        "paper_sparsity_percent": printed["sparsity"],
        **{
            f"paper_{mark}": _yes_or_no(printed.get(mark)) for mark in ("on_policy", "kl", "online")
        },
        "source": source,
    }


def _printed_table5(printed: Published, source: str) -> Row:
    return {
        "paper_model": printed["model"],
        "paper_stage": printed["kind"],
        "paper_in_distribution": _yes_or_no(printed.get("in_distribution")),
        "paper_sparsity_percent": printed["sparsity"],
        "source": source,
    }


def _printed_table6(name: str, printed: Published, tolerances: list[float], source: str) -> Row:
    values = zip(tolerances, printed["sparsity"], strict=True)
    return {
        "paper_algorithm": printed["algo"],
        "paper_model": name,
        **{f"paper_{_at(atol)}": value for atol, value in values},
        "source": source,
    }


def _at(atol: float) -> str:
    return f"sparsity_{tolerance_name(atol)}_percent"


def _yes_or_no(mark: bool | None) -> str:
    return "" if mark is None else ("yes" if mark else "no")


_TABLE2 = [
    *["part", "algorithm", "init", "tuned", "matrices", "update_rank_percent"],
    *["control_rank_percent", "stable_rank", "effective_rank"],
    *["paper_model", "paper_update_rank_percent", "source"],
]


def table2(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return the mean update rank beside that of a random update of the same density.

    Ranks are per cent of the maximum possible rank, averaged over matrices; stable and effective
    rank are averaged as they are.
    """
    source = published["table2"]["source"]
    printed = {TABLE2_MODELS[row["model"]]: row for row in published["table2"]["rows"]}
    paper = PaperRows({name: _printed_table2(row, source) for name, row in printed.items()})
    rows: list[Row] = []
    for pair in pairs_of(scale, "table2"):
        ranks = results.get("ranks", pair.pair)
        row: Row = {
            "part": part_of(pair),
            **names_of(pair),
            "matrices": len(ranks),
            "update_rank_percent": 100 * mean_rank_share(ranks),
            "control_rank_percent": 100 * mean_rank_share(ranks, "rank_of_random_control"),
            "stable_rank": float(ranks["stable_rank"].mean()),
            "effective_rank": float(ranks["effective_rank"].mean()),
        }
        rows.append(row | paper.beside(model_name(pair.paper_model)))
    rows += [row | {"algorithm": printed[name]["algo"]} for name, row in paper.alone()]
    return make_frame(rows, _TABLE2)


def _printed_table2(printed: Published, source: str) -> Row:
    return {
        "paper_model": printed["model"],
        "paper_update_rank_percent": printed["update_rank"],
        "source": source,
    }


_SETTINGS = ["setting1", "setting2", "sparsity1_percent", "sparsity2_percent"]
_OVERLAPS = ["o1_percent", "o2_percent"]
_TABLE4 = [
    *["part", "axis", "label", *_SETTINGS, *_OVERLAPS],
    *["null", "o1_null_percent", "o2_null_percent", "lift", "lift_ci_low", "lift_ci_high"],
    *[f"paper_{name}" for name in (*_SETTINGS, *_OVERLAPS)],
    *["paper_o1_random_percent", "paper_o2_random_percent", "source"],
]


def table4(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return one-sided overlaps o1 and o2 (section 5), a row for each comparison and null.

    The paper's row stands beside the uniform null, the only one it has, of every comparison whose
    `axis` has the same name.
    """
    source = published["table4"]["source"]
    printed = {spelling(row["axis"]): row for row in published["table4"]["rows"]}
    paper = PaperRows({axis: _printed_table4(row, source) for axis, row in printed.items()})
    atol = float(scale.config["measure"]["table_tolerance"])
    rows: list[Row] = []
    for comparison in scale.comparisons.values():
        if "table4" not in comparison.items:
            continue
        shared: Row = {
            "part": MEASURED,
            "axis": comparison.axis,
            "label": comparison.label,
            "setting1": comparison.setting1,
            "setting2": comparison.setting2,
            "sparsity1_percent": 100 * sparsity(results.updates(comparison.pair1), atol),
            "sparsity2_percent": 100 * sparsity(results.updates(comparison.pair2), atol),
        }
        for row in _nulls(results.get("overlap", comparison.comparison)):
            if row["null"] == NULLS["uniform"]:
                row |= paper.beside(spelling(comparison.axis))
            rows.append(shared | row)
    rows += [row | {"axis": printed[axis]["axis"]} for axis, row in paper.alone()]
    return make_frame(rows, _TABLE4)


def _nulls(overlaps: pd.DataFrame) -> Iterator[Row]:
    """Yield what is measured under each null, the null named in words, coarse to fine.

    Raises:
        ValueError: the file holds a null that nothing is known of.
    """
    found = {overlap.null: overlap for overlap in overlaps.itertuples()}
    if unknown := [null for null in found if null not in NULLS]:
        path = overlaps.attrs.get("path", "overlap")
        raise ValueError(f"{path}, column null: unknown {unknown}, expected {list(NULLS)}")
    for null, words in NULLS.items():
        if null not in found:
            continue
        overlap = found[null]
        yield {
            "null": words,
            **{
                f"{name}_percent": 100 * getattr(overlap, name)
                for name in ("o1", "o2", "o1_null", "o2_null")
            },
            "lift": overlap.lift,
            "lift_ci_low": overlap.ci_low,
            "lift_ci_high": overlap.ci_high,
        }


def _printed_table4(printed: Published, source: str) -> Row:
    first, second = printed["i1"], printed["i2"]
    return {
        "paper_setting1": str(first["setting"]),
        "paper_setting2": str(second["setting"]),
        "paper_sparsity1_percent": first["sparsity"],
        "paper_sparsity2_percent": second["sparsity"],
        "paper_o1_percent": first["o1"],
        "paper_o2_percent": second["o2"],
        "paper_o1_random_percent": first["random_o1"],
        "paper_o2_random_percent": second["random_o2"],
        "source": source,
    }
