"""Tables 1, 2, 4, 5 and 6: sparsity, rank and overlap of updates beside the paper's."""

from collections.abc import Iterator, Sequence
from typing import Any

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
    COLUMNS,
    MEAN_OF_SEEDS,
    MEASURED,
    ONE_OF_THE_SEEDS,
    ONE_SEED,
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
    with_paper,
)


def table1(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return update sparsity by algorithm: the authors' rule, the exact rule, equal bits.

    A row for every pair that names `table1`, then the paper's rows that no pair stands beside.
    """
    source, marks = published["table1"]["source"], ("on_policy", "kl", "online")
    paper = {
        name: {
            "algorithm": row["algo"],
            **paper_row(
                source,
                init=row["init"],
                model=name,
                sparsity_percent=row["sparsity"],
                **{mark: row.get(mark) for mark in marks},
            ),
        }
        for name, row in rows_of(published, "table1", "rl").items()
    }
    stages = "Paper's SFT stages: {low} to {high} % (Sec 3)"
    ours = []
    for pair in pairs_of(scale, "table1"):
        row = {"part": part_of(pair), **names_of(pair), **_measured(scale, results, pair)}
        if is_sft_stage(scale, pair):
            row["source"] = stages.format(**published["headline"]["sft_sparsity_range"])
        ours.append((model_name(pair.paper_model), row))
    return make_frame(with_paper(ours, paper), COLUMNS["table1"])


def table5(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return update sparsity of SFT and RL, in and out of the policy's distribution.

    Rows in distribution stand first. Which they are follows from the sheet, see `settings.data_of`;
    the paper's own mark stands beside.
    """
    source = published["table5"]["source"]
    paper = {
        (row["model"], row["method"]): {
            "method": row["method"],
            **paper_row(
                source,
                model=row["model"],
                stage=row["kind"],
                in_distribution=row.get("in_distribution"),
                sparsity_percent=row["sparsity"],
            ),
        }
        for row in published["table5"]["rows"]
    }
    ours: list[tuple[Any, Row]] = []
    for pair in pairs_of(scale, "table5"):
        row: Row = {
            # SFT and rejection sampling are rows of this table like all others, no controls.
            "part": MEASURED,
            "method": METHODS[pair.method].label,
            "stage": "RL" if pair.method in RL_METHODS else "SFT",
            "init": pair.init,
            "tuned": pair.tuned,
            **_measured(scale, results, pair),
            **distribution_columns(scale, pair),
        }
        # The paper's DPO rows are length-normalized DPO too (Open-Instruct's `dpo_norm`).
        method = pair.method.removesuffix("_NORM")
        model = model_name(pair.paper_model)
        ours.append(((TABLE5_NAMES.get(model, model), method), row))
    ours.sort(key=lambda one: ["yes", "no", ""].index(one[1].get("in_distribution", "")))
    return make_frame(with_paper(ours, paper), COLUMNS["table5"])


def table6(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return sparsity at every tolerance of the config, under the authors' and the exact rule.

    The paper's values stand beside the authors' rule, which is the one they were made with.
    """
    source = published["table6"]["source"]
    printed_at = [float(atol) for atol in published["table6"]["tolerances"]]
    paper = {
        name: paper_row(
            source,
            algorithm=row["algo"],
            model=name,
            **dict(zip(map(_at, printed_at), row["sparsity"], strict=True)),
        )
        for name, row in rows_of(published, "table6", "rl").items()
    }
    tolerances = sorted(float(atol) for atol in scale.config["measure"]["tolerances"])
    columns = [
        *["part", "algorithm", "init", "tuned", "rule"],
        *[_at(atol) for atol in tolerances],
        *["paper_algorithm", "paper_model"],
        *[f"paper_{_at(atol)}" for atol in printed_at],
        "source",
    ]
    ours = []
    for pair in pairs_of(scale, "table6"):
        names = {"part": part_of(pair), **names_of(pair)}
        updates = results.updates(pair.pair)
        for rule in RULES:
            shares = {_at(atol): 100 * sparsity(updates, atol, rule) for atol in tolerances}
            beside = model_name(pair.paper_model) if rule == "official" else ""
            ours.append((beside, {**names, "rule": rule, **shares}))
    return make_frame(with_paper(ours, paper), columns)


def _measured(scale: Scale, results: Results, pair: Pair) -> Row:
    """Return the label of a pair, its sparsity by every rule, and how far it was trained."""
    updates, atol = results.updates(pair.pair), tolerance_of(scale)
    return {
        "label": pair.label,
        "sparsity_percent": 100 * sparsity(updates, atol),
        "sparsity_exact_percent": 100 * sparsity(updates, atol, "exact"),
        "sparsity_bitwise_percent": 100 * bitwise_sparsity(updates),
        "numel": parameters(updates),
        **steps_columns(scale, pair),
    }


def _at(atol: float) -> str:
    return f"sparsity_{tolerance_name(atol)}_percent"


def table2(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return the mean update rank beside that of a random update of the same density.

    Ranks are per cent of the maximum possible rank, averaged over matrices; stable and effective
    rank are averaged as they are.
    """
    source = published["table2"]["source"]
    paper = {
        TABLE2_MODELS[row["model"]]: {
            "algorithm": row["algo"],
            **paper_row(source, model=row["model"], update_rank_percent=row["update_rank"]),
        }
        for row in published["table2"]["rows"]
    }
    ours = []
    for pair in pairs_of(scale, "table2"):
        ranks = results.get("ranks", pair.pair)
        row = {
            "part": part_of(pair),
            **names_of(pair),
            "matrices": len(ranks),
            "update_rank_percent": 100 * mean_rank_share(ranks),
            "control_rank_percent": 100 * mean_rank_share(ranks, "rank_of_random_control"),
            "stable_rank": float(ranks["stable_rank"].mean()),
            "effective_rank": float(ranks["effective_rank"].mean()),
        }
        ours.append((model_name(pair.paper_model), row))
    return make_frame(with_paper(ours, paper), COLUMNS["table2"])


def table4(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return one-sided overlaps o1 and o2 (section 5), a row for each comparison and null.

    The paper's row stands beside the uniform null, the only one it has, of every comparison whose
    `axis` has the same name.
    """
    source = published["table4"]["source"]
    paper = {
        spelling(row["axis"]): {
            "axis": row["axis"],
            **paper_row(
                source,
                **{f"setting{n}": str(row[f"i{n}"]["setting"]) for n in (1, 2)},
                **{f"sparsity{n}_percent": row[f"i{n}"]["sparsity"] for n in (1, 2)},
                **{f"o{n}_percent": row[f"i{n}"][f"o{n}"] for n in (1, 2)},
                **{f"o{n}_random_percent": row[f"i{n}"][f"random_o{n}"] for n in (1, 2)},
            ),
        }
        for row in published["table4"]["rows"]
    }
    ours = []
    for comparison in scale.comparisons.values():
        if "table4" not in comparison.items:
            continue
        shared = {
            "part": MEASURED,
            "axis": comparison.axis,
            "label": comparison.label,
            "setting1": comparison.setting1,
            "setting2": comparison.setting2,
            "sparsity1_percent": sparsity_percent(scale, results, comparison.pair1),
            "sparsity2_percent": sparsity_percent(scale, results, comparison.pair2),
        }
        for null, row in _nulls(results.get("overlap", comparison.comparison)):
            beside = spelling(comparison.axis) if null == "uniform" else ""
            ours.append((beside, shared | row))
    return make_frame(with_paper(ours, paper), COLUMNS["table4"])


def _nulls(overlaps: pd.DataFrame) -> Iterator[tuple[str, Row]]:
    """Yield (null, what is measured under it, the null named in words), coarse to fine."""
    found = {overlap.null: overlap for overlap in overlaps.itertuples()}
    if unknown := [null for null in found if null not in NULLS]:
        path = overlaps.attrs.get("path", "overlap")
        raise ValueError(f"{path}, column null: unknown {unknown}, expected {list(NULLS)}")
    for null in [null for null in NULLS if null in found]:
        overlap = found[null]
        shares = ("o1", "o2", "o1_null", "o2_null")
        yield (
            null,
            {
                "null": NULLS[null],
                **{f"{name}_percent": 100 * getattr(overlap, name) for name in shares},
                "lift": overlap.lift,
                "lift_ci_low": overlap.ci_low,
                "lift_ci_high": overlap.ci_high,
            },
        )


REGULARIZATION = "(a) KL regularization and gradient clipping"
COURSE = "(b) course of training"
_SPARSITIES = ("sparsity_percent", "sparsity_exact_percent")
_PARTS = ("never", "cancelled", "subnetwork")


def section6(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return (a) sparsity beside KL and clipping, (b) what happened to the weights along a run.

    A pair that names `section6` is (start, run). Seeds of one setting are led by a row of their
    mean. Part (b) has the runs among them whose recipe saves checkpoints on the way.
    """
    pairs = pairs_of(scale, "section6")
    ours = [
        (_paper_kl(scale, row, group[0]), {"part": REGULARIZATION, **row})
        for group in seed_groups(scale, pairs, "tuned")
        for row in _regularized(scale, results, group)
    ]
    rows = with_paper(ours, _with_and_without_kl(published), f"{REGULARIZATION}, paper, {NOT_RUN}")
    saved = [pair for pair in pairs if pair.tuned in scale.runs and scale.saves_steps(pair.tuned)]
    ours = [(pair.method, {"part": COURSE, **_course(scale, results, pair)}) for pair in saved]
    paper = {"PRIME": _printed_course(published)}
    rows += with_paper(ours, paper, f"{COURSE}, paper, {NOT_RUN}")
    return make_frame(rows, COLUMNS["section6"])


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
    measured = [*_SPARSITIES, "kl_mean", "grad_norm_mean", "clipped_percent"]
    mean = rows[0] | {
        "row": MEAN_OF_SEEDS,
        "seed": seed_text(scale, group, "tuned"),
        "label": f"{group[0].label}, mean of {len(group)} seeds",
        "tuned": ", ".join(pair.tuned for pair in group),
        "sparsity_sd_points": float(frame["sparsity_percent"].std()),
        **{name: float(frame[name].mean()) for name in measured if name in frame},
    }
    return [mean, *rows]


def _one_run(scale: Scale, results: Results, pair: Pair) -> Row:
    measured = _measured(scale, results, pair)
    row: Row = {
        **names_of(pair),
        "seed": seed_text(scale, [pair], "tuned"),
        **{name: measured[name] for name in ("label", *_SPARSITIES)},
        **steps_columns(scale, pair),
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


def _with_and_without_kl(published: Published) -> dict[Any, Row]:
    runs = {"yes": "grpo_with_kl", "no": "grpo_without_kl"}
    return {
        kl: paper_row(
            run["source"],
            algorithm="GRPO",
            model=run["model"],
            kl=kl,
            sparsity_percent=run["sparsity"],
        )
        for kl, run in ((kl, published["section6"][name]) for kl, name in runs.items())
    }


def _paper_kl(scale: Scale, row: Row, pair: Pair) -> str:
    """Return which of the paper's GRPO runs a row stands beside, if any.

    The paper prints no number for training without clipping; seeds stand behind their mean.
    """
    if pair.method != "GRPO" or row["row"] == ONE_OF_THE_SEEDS or row.get("clip", "none") == "none":
        return ""
    return "yes" if recipe_of(scale, pair.tuned)["kl_coef"] > 0 else "no"


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


def section4(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return the share of equal weights at 1e-5 and 1e-4, and what the frozen weights did.

    A pair that names `section4` compares a full run with its masked one. Below each stands the
    null: the start against the full run. Most weights never move, so most are equal whatever is
    compared; only the distance between the two rows says something about the subnetwork. A run with
    a random mask of the same size is a control, without a null of its own.
    """
    values = published["conjecture1"]
    paper = {
        algorithm: {
            "algorithm": algorithm,
            "compared": FULL_AGAINST_SUB,
            **paper_row(
                values["source"],
                **{
                    "same_1e-5_percent": values[f"{algorithm.lower()}_same_weights_at_1e-5"],
                    "same_1e-4_percent": values["both_same_weights_at_1e-4"],
                },
            ),
        }
        for algorithm in ("DPO", "PRIME")
    }
    ours: list[tuple[Any, Row]] = []
    for pair, start in masked_pairs(scale):
        frozen = _frozen(results, pair.tuned)
        if scale.runs[pair.tuned].has_random_mask:
            row = _same(results, pair, start.method, FULL_AGAINST_RANDOM)
            ours.append(("", row | frozen))
            continue
        row = _same(results, pair, start.method, FULL_AGAINST_SUB)
        # Open-Instruct's DPO command, which the paper used, is the length-normalized one.
        ours.append((start.method.removesuffix("_NORM"), row | frozen))
        ours.append(("", _same(results, start, start.method, NULL)))
    return make_frame(with_paper(ours, paper), COLUMNS["section4"])


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
