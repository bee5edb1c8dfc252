"""Tables 1, 2, 4, 5 and 6: sparsity, rank and overlap of updates beside the paper's."""

from collections.abc import Iterator, Sequence

import pandas as pd

from rlsubnet.config import Pair, Scale
from rlsubnet.config.model import ONLINE
from rlsubnet.data import Published
from rlsubnet.measure.overlap import NULLS
from rlsubnet.report.export import tolerance_name
from rlsubnet.report.results import (
    NOT_RUN,
    RULES,
    TABLE2_MODELS,
    TABLE5_NAMES,
    Results,
    bitwise_sparsity,
    clipped_share,
    late_fall,
    mean_rank_share,
    model_name,
    parameters,
    rows_of,
    saved_steps,
    sparsity,
    spelling,
)
from rlsubnet.report.settings import (
    distribution_columns,
    is_sft_stage,
    recipe_of,
    seed_groups,
    seed_text,
    steps_columns,
)
from rlsubnet.report.style import METHODS, RL_METHODS
from rlsubnet.report.tables import (
    MEAN_OF_SEEDS,
    MEASURED,
    ONE_OF_THE_SEEDS,
    ONE_SEED,
    PaperRows,
    Row,
    hidden,
    make_frame,
    names_of,
    pairs_of,
    paper_row,
    part_of,
    short_seeds,
    sparsity_percent,
    tolerance_of,
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
    marks = ("on_policy", "kl", "online")
    paper = PaperRows(
        {
            name: paper_row(
                source,
                init=row["init"],
                model=name,
                sparsity_percent=row["sparsity"],
                **{mark: row.get(mark) for mark in marks},
            )
            for name, row in printed.items()
        }
    )
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
            (row["model"], row["method"]): paper_row(
                source,
                model=row["model"],
                stage=row["kind"],
                in_distribution=row.get("in_distribution"),
                sparsity_percent=row["sparsity"],
            )
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
            name: paper_row(
                source,
                algorithm=row["algo"],
                model=name,
                **dict(zip(map(_at, printed_at), row["sparsity"], strict=True)),
            )
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
    atol = tolerance_of(scale)
    return {
        "sparsity_percent": 100 * sparsity(updates, atol),
        "sparsity_exact_percent": 100 * sparsity(updates, atol, "exact"),
        "sparsity_bitwise_percent": 100 * bitwise_sparsity(updates),
        "numel": parameters(updates),
    }


def _at(atol: float) -> str:
    return f"sparsity_{tolerance_name(atol)}_percent"


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
    paper = PaperRows(
        {
            name: paper_row(source, model=row["model"], update_rank_percent=row["update_rank"])
            for name, row in printed.items()
        }
    )
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
    paper = PaperRows(
        {
            axis: paper_row(
                source,
                **{f"setting{n}": str(row[f"i{n}"]["setting"]) for n in (1, 2)},
                **{f"sparsity{n}_percent": row[f"i{n}"]["sparsity"] for n in (1, 2)},
                **{f"o{n}_percent": row[f"i{n}"][f"o{n}"] for n in (1, 2)},
                **{f"o{n}_random_percent": row[f"i{n}"][f"random_o{n}"] for n in (1, 2)},
            )
            for axis, row in printed.items()
        }
    )
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
            "sparsity1_percent": sparsity_percent(scale, results, comparison.pair1),
            "sparsity2_percent": sparsity_percent(scale, results, comparison.pair2),
        }
        for row in _nulls(results.get("overlap", comparison.comparison)):
            if row["null"] == NULLS["uniform"]:
                row |= paper.beside(spelling(comparison.axis))
            rows.append(shared | row)
    rows += [row | {"axis": printed[axis]["axis"]} for axis, row in paper.alone()]
    return make_frame(rows, _TABLE4)


def _nulls(overlaps: pd.DataFrame) -> Iterator[Row]:
    """Yield what is measured under each null, the null named in words, coarse to fine."""
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


REGULARIZATION = "(a) KL regularization and gradient clipping"
COURSE = "(b) course of training"
_MEASURED = ["sparsity_percent", "sparsity_exact_percent", "kl_mean", "grad_norm_mean"]
_MEASURED += ["clipped_percent"]
_PARTS = ["never", "cancelled", "subnetwork"]
_SECTION6 = [
    *["part", "algorithm", "row", "seed", "label", "init", "tuned", "lr", "steps", "lr_sum"],
    *["kl_coef", "clip", *_MEASURED, "sparsity_sd_points"],
    *["schedule", "saved_steps", "last_sparsity_percent", *[f"{part}_percent" for part in _PARTS]],
    *["outside_most_percent", "outside_most_step", "step_updated_percent"],
    *["late_fall_points", "still_falling"],
    *["paper_algorithm", "paper_model", "paper_kl", "paper_sparsity_percent"],
    *[f"paper_{part}_percent" for part in _PARTS],
    *["paper_outside_percent", "paper_step_updated_percent", "source"],
]


def section6(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return (a) sparsity beside KL and clipping, (b) what happened to the weights along a run.

    A pair that names `section6` is (start, run). Seeds of one setting are led by a row of their
    mean. Part (b) has the runs among them whose recipe saves checkpoints on the way.
    """
    pairs = pairs_of(scale, "section6")
    beside = _with_and_without_kl(published)
    rows: list[Row] = []
    printed = set()
    for group in seed_groups(scale, pairs, "tuned"):
        for row in _regularized(scale, results, group):
            kl = _paper_row_beside(scale, row, group[0])
            if kl:
                printed.add(kl)
                row |= beside[kl]
            rows.append({"part": REGULARIZATION, **row})
    missing = f"{REGULARIZATION}, paper, {NOT_RUN}"
    rows += [{"part": missing, **row} for kl, row in beside.items() if kl not in printed]
    course = [_course(scale, results, pair) for pair in pairs if _has_trajectory(scale, pair)]
    paper = _printed_course(published)
    for row in course:
        rows.append({"part": COURSE, **row, **(paper if row["algorithm"] == "PRIME" else {})})
    if not any(row["algorithm"] == "PRIME" for row in course):
        rows.append({"part": f"{COURSE}, paper, {NOT_RUN}", **paper})
    return make_frame(rows, _SECTION6)


def section6_in_print(frame: pd.DataFrame) -> pd.DataFrame:
    """Return section 6 as it is printed: the label names the run, column Seed what a row is."""
    return hidden(short_seeds(frame), ["row", "init", "tuned"])


def _regularized(scale: Scale, results: Results, group: Sequence[Pair]) -> list[Row]:
    """Return part (a) of one setting: the mean over its seeds where there are several, each run."""
    kind = ONE_OF_THE_SEEDS if len(group) > 1 else ONE_SEED
    rows = [_one_run(scale, results, pair) | {"row": kind} for pair in group]
    if len(group) == 1:
        return rows
    frame = pd.DataFrame(rows)
    mean = rows[0] | {
        "row": MEAN_OF_SEEDS,
        "seed": seed_text(scale, group, "tuned"),
        "label": f"{group[0].label}, mean of {len(group)} seeds",
        "tuned": ", ".join(pair.tuned for pair in group),
        "sparsity_sd_points": float(frame["sparsity_percent"].std()),
        **{name: float(frame[name].mean()) for name in _MEASURED if name in frame},
    }
    return [mean, *rows]


def _one_run(scale: Scale, results: Results, pair: Pair) -> Row:
    updates = results.updates(pair.pair)
    atol = tolerance_of(scale)
    row: Row = {
        **names_of(pair),
        "seed": seed_text(scale, [pair], "tuned"),
        "label": pair.label,
        **steps_columns(scale, pair),
        "sparsity_percent": 100 * sparsity(updates, atol),
        "sparsity_exact_percent": 100 * sparsity(updates, atol, "exact"),
    }
    if pair.tuned not in scale.runs:
        return row
    run, recipe = scale.runs[pair.tuned], recipe_of(scale, pair.tuned)
    metrics = results.get("metrics", pair.tuned)
    # With `pre_clip` the mask comes first, and only what is left of the gradient is clipped.
    clipped = run.mask and recipe["mask_at"] == "pre_clip"
    norms = metrics["grad_norm_masked" if clipped else "grad_norm"]
    if run.algorithm in ONLINE:
        row["kl_coef"] = f"{recipe['kl_coef']:g}"
        row["kl_mean"] = float(metrics["kl"].mean())
    return row | {
        "clip": "none" if recipe["clip"] is None else f"{recipe['clip']:g}",
        "grad_norm_mean": float(norms.mean()),
        "clipped_percent": 100 * clipped_share(norms, recipe["clip"]),
    }


def _with_and_without_kl(published: Published) -> dict[str, Row]:
    return {
        kl: paper_row(
            run["source"],
            algorithm="GRPO",
            model=run["model"],
            kl=kl,
            sparsity_percent=run["sparsity"],
        )
        for kl, run in (
            ("yes", published["section6"]["grpo_with_kl"]),
            ("no", published["section6"]["grpo_without_kl"]),
        )
    }


def _paper_row_beside(scale: Scale, row: Row, pair: Pair) -> str:
    """Return which of the paper's GRPO runs a row stands beside, if any.

    The paper prints no number for training without clipping; seeds stand behind their mean.
    """
    if pair.method != "GRPO" or row["row"] == ONE_OF_THE_SEEDS or row.get("clip", "none") == "none":
        return ""
    return "yes" if recipe_of(scale, pair.tuned)["kl_coef"] > 0 else "no"


def _has_trajectory(scale: Scale, pair: Pair) -> bool:
    return pair.tuned in scale.runs and scale.saves_steps(pair.tuned)


def _course(scale: Scale, results: Results, pair: Pair) -> Row:
    """Return part (b) of one run; here a weight is updated when its bits differ."""
    steps = saved_steps(results, pair.tuned).sort_values("step")
    last, most = steps.iloc[-1], steps.loc[steps["outside_percent"].idxmax()]
    late, whole = late_fall(steps["step"], steps["sparsity"])
    return {
        **names_of(pair),
        "seed": seed_text(scale, [pair], "tuned"),
        "label": pair.label,
        **steps_columns(scale, pair),
        "schedule": recipe_of(scale, pair.tuned)["schedule"],
        "saved_steps": len(steps),
        "last_sparsity_percent": last["sparsity_percent"],
        **{f"{part}_percent": last[f"{part}_percent"] for part in _PARTS},
        "outside_most_percent": most["outside_percent"],
        "outside_most_step": int(most["step"]),
        "step_updated_percent": 100 - steps["step_sparsity_percent"].mean(),
        "late_fall_points": 100 * late,
        "still_falling": "yes" if late > whole / 10 else "no",
    }


def _printed_course(published: Published) -> Row:
    figures = published["figures"]
    parts = {"never": "never_updated", "cancelled": "cancelled", "subnetwork": "subnetwork"}
    return paper_row(
        "Sec 6, Figures 2, 5, 6 and 7",
        algorithm=figures["fig2"]["algo"],
        sparsity_percent=figures["fig5"]["converges_to"],
        **{f"{part}_percent": figures["fig2"][name] for part, name in parts.items()},
        outside_percent=figures["fig6"]["ever_updated_outside_final"],
        step_updated_percent=figures["fig7"]["mean_updated_per_consecutive_pair"],
    )


FULL_AGAINST_SUB = "full against sub"
FULL_AGAINST_RANDOM = "full against a random subnetwork (control)"
NULL = "start against full (null)"
_TOLERANCES = {"1e-5": 1e-5, "1e-4": 1e-4}
_SECTION4 = [
    *["part", "algorithm", "compared", "init", "tuned"],
    *[f"same_{name}{rule}_percent" for name in _TOLERANCES for rule in ("", "_exact")],
    *["same_bitwise_percent", "max_abs_diff", "numel", "frozen_weights", "frozen_changed"],
    *["subnetwork_weights", "subnetwork_changed"],
    *["paper_same_1e-5_percent", "paper_same_1e-4_percent", "source"],
]


def section4(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return the share of equal weights at 1e-5 and 1e-4, and what the frozen weights did.

    A pair that names `section4` compares a full run with its masked one. Below each stands the
    null: the start against the full run. Most weights never move, so most are equal whatever is
    compared; only the distance between the two rows says something about the subnetwork. A run with
    a random mask of the same size is a control, without a null of its own.
    """
    rows: list[Row] = []
    measured = set()
    for pair, start in masked_pairs(scale):
        if scale.runs[pair.tuned].has_random_mask:
            row = _same(results, pair, start.method, FULL_AGAINST_RANDOM)
            rows.append({**row, **_frozen(results, pair.tuned)})
            continue
        paper = _paper_key(start.method)
        measured.add(paper)
        row = {
            **_same(results, pair, start.method, FULL_AGAINST_SUB),
            **_frozen(results, pair.tuned),
            **_printed(published, paper),
        }
        rows += [row, _same(results, start, start.method, NULL)]
    for paper, algorithm in (("dpo", "DPO"), ("prime", "PRIME")):
        if paper not in measured:
            row = {"part": NOT_RUN, "algorithm": algorithm, "compared": FULL_AGAINST_SUB}
            rows.append({**row, **_printed(published, paper)})
    return make_frame(rows, _SECTION4)


def masked_pairs(scale: Scale) -> Iterator[tuple[Pair, Pair]]:
    """Yield (full run and masked run, start and full run) of what names `section4`.

    The null itself is none of them; it stands below the row of its own mask. A pair whose init is
    not the run that its mask was made from is refused.
    """
    for pair in pairs_of(scale, "section4"):
        run = scale.runs.get(pair.tuned)
        if run is None or not run.mask:
            continue
        start = scale.pairs[run.mask_pair]
        if pair.init != start.tuned:
            raise ValueError(
                f"pair {pair.pair}, item section4: init is {pair.init!r}, expected "
                f"{start.tuned!r}, the full run that the mask of {pair.tuned!r} was made from"
            )
        yield pair, start


def _same(results: Results, pair: Pair, method: str, compared: str) -> Row:
    updates = results.updates(pair.pair)
    row: Row = {
        "part": MEASURED,
        "algorithm": METHODS[method].label,
        "compared": compared,
        "init": pair.init,
        "tuned": pair.tuned,
        "same_bitwise_percent": 100 * bitwise_sparsity(updates),
        "max_abs_diff": float(updates["max_abs_diff"].max()),
        "numel": parameters(updates),
    }
    for name, atol in _TOLERANCES.items():
        row[f"same_{name}_percent"] = 100 * sparsity(updates, atol)
        row[f"same_{name}_exact_percent"] = 100 * sparsity(updates, atol, "exact")
    return row


def _frozen(results: Results, run: str) -> Row:
    counts = results.get("frozen", run)
    kinds = ("frozen", "subnetwork")
    weights = {f"{kind}_weights": int(counts[kind].sum()) for kind in kinds}
    return weights | {f"{kind}_changed": int(counts[f"{kind}_changed"].sum()) for kind in kinds}


def _paper_key(method: str) -> str:
    # Open-Instruct's DPO command, which the paper used, is the length-normalized one.
    return {"DPO": "dpo", "DPO_NORM": "dpo", "PRIME": "prime"}.get(method, "")


def _printed(published: Published, paper: str) -> Row:
    if not paper:
        return {}
    values = published["conjecture1"]
    shares = {
        "same_1e-5_percent": values[f"{paper}_same_weights_at_1e-5"],
        "same_1e-4_percent": values["both_same_weights_at_1e-4"],
    }
    return paper_row(values["source"], **shares)
