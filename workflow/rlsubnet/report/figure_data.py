"""Tidy tables for the figures: all statistics happen here, drawing elsewhere."""

import pandas as pd

from rlsubnet.config import Pair, Scale
from rlsubnet.data import Published
from rlsubnet.report.results import Results, layer_sparsity, rows_of, saved_steps, sparsity
from rlsubnet.report.settings import ONLINE, distribution_columns, is_sft_stage, seed_groups
from rlsubnet.report.style import RL_METHODS
from rlsubnet.report.tables import COLUMNS, pairs_of, tolerance_of

SFT_STAGE, RL_STAGE, CONTROL_STAGE = "SFT", "RL", "controls"
LOSS, REWARD = "Training loss", "Training reward"
MEAN = "mean"


def densities(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return the updated share of weights in SFT and RL, ours and the paper's (Figure 1).

    The two ends are equal except where the paper prints a range over models. Stage is `SFT` for SFT
    that other training starts from, `RL`, or `controls` for all other pairs: those without
    reinforcement learning, and those out of distribution.
    """
    atol = tolerance_of(scale)
    rows = []
    for pair, label in labeled(pairs_of(scale, "fig1")):
        density = 100 * (1 - sparsity(results.updates(pair.pair), atol))
        rows.append(("ours", _stage(scale, pair), pair.method, label, density, density))
    for name, row in rows_of(published, "table1", "rl").items():
        density = 100 - row["sparsity"]
        rows.append(("paper", RL_STAGE, row["algo"], name, density, density))
    most, least = published["figures"]["fig1"]["sft_sparsity_range"]
    rows.append(("paper", SFT_STAGE, "SFT", "SFT stages (range)", 100 - least, 100 - most))
    return pd.DataFrame(rows, columns=COLUMNS["densities"])


def _stage(scale: Scale, pair: Pair) -> str:
    if pair.method in RL_METHODS:
        apart = distribution_columns(scale, pair).get("in_distribution") == "no"
        return CONTROL_STAGE if apart else RL_STAGE
    return SFT_STAGE if is_sft_stage(scale, pair) else CONTROL_STAGE


def layers(scale: Scale, results: Results) -> pd.DataFrame:
    """Return sparsity by layer and matrix of every pair that names `fig3` (Figure 3).

    Matrix `average` is the layer as a whole, weighted by parameters.
    """
    atol = tolerance_of(scale)
    tables = []
    for pair, label in labeled(pairs_of(scale, "fig3")):
        table = layer_sparsity(results.updates(pair.pair), atol)
        table["sparsity_percent"] = 100 * table.pop("sparsity")
        tables.append(table.assign(label=label, method=pair.method))
    return _joined(tables, COLUMNS["layers"])


def losses(scale: Scale, results: Results) -> pd.DataFrame:
    """Return training loss or reward of full and masked runs, step by step (Figure 4).

    A policy gradient's loss is no measure of progress: its advantages are centred in every batch.
    Algorithms that draw their own responses show the share of right ones instead.

    `difference` is sub - full; `share_better_percent` the share of steps, over all seeds of a
    label, at which sub has the lower loss or the higher reward. Seeds of one setting share a label,
    and rows of their mean, with `MEAN` for a seed, come last.
    """
    tables = []
    for group in seed_groups(scale, pairs_of(scale, "fig4"), "init"):
        runs = [_training(scale, results, pair) for pair in group]
        table = pd.concat(runs, ignore_index=True)
        sign = -1 if table["quantity"].iloc[0] == LOSS else 1
        whole = {
            "label": group[0].label or group[0].pair,
            "mean_difference": table["difference"].mean(),
            "share_better_percent": 100 * (sign * table["difference"] > 0).mean(),
        }
        if len(runs) > 1:
            names = ["method", "quantity", "step"]
            mean = table.drop(columns="seed").groupby(names, sort=False).mean().reset_index()
            table = pd.concat([table, mean.assign(seed=MEAN)], ignore_index=True)
        tables.append(table.assign(**whole)[COLUMNS["losses"]])
    return _joined(tables, COLUMNS["losses"])


def logs_of(results: Results, pair: Pair) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what the two runs of a pair logged at the same steps."""
    full, sub = results.get("metrics", pair.init), results.get("metrics", pair.tuned)
    if full["step"].tolist() != sub["step"].tolist():
        raise ValueError(
            f"{sub.attrs['path']}: {len(sub)} steps, expected the {len(full)} steps of "
            f"{full.attrs['path']}"
        )
    return full, sub


def _training(scale: Scale, results: Results, pair: Pair) -> pd.DataFrame:
    full, sub = logs_of(results, pair)
    run = scale.runs[pair.init]
    quantity, column = (REWARD, "reward") if run.algorithm in ONLINE else (LOSS, "loss")
    difference = sub[column] - full[column]
    return pd.DataFrame(
        {
            "method": pair.method,
            "quantity": quantity,
            "seed": str(run.seed),
            "step": full["step"],
            "full": full[column],
            "sub": sub[column],
            "full_smooth": smoothed(full[column]),
            "sub_smooth": smoothed(sub[column]),
            "difference": difference,
            "difference_smooth": smoothed(difference),
        }
    )


def trajectories(item: str, scale: Scale, results: Results) -> pd.DataFrame:
    """Return the saved steps of every run that feeds Figure 2, 5, 6 or 7; see `saved_steps`."""
    tables = [
        saved_steps(results, pair.tuned).assign(label=label, method=pair.method)
        for pair, label in labeled(pairs_of(scale, item))
    ]
    return _joined(tables, COLUMNS["trajectories"])


def step_accuracies(scale: Scale, results: Results) -> pd.DataFrame:
    """Return the accuracy at each saved step, and at the start, of every run that feeds Figure 7.

    Decoding is `sampled` or `greedy`, step 0 the start, low and high a 95 % interval. A run that
    was not evaluated on one of the config's `evaluation.step_suites` is refused.
    """
    suites = scale.config["evaluation"]["step_suites"]
    tables = []
    for pair, label in labeled(pairs_of(scale, "fig7") if suites else []):
        scores = results.get("step_scores", pair.tuned)
        whole = scores[scores["level"] == "all"]
        for suite in suites:
            for decoding, task in tasks_of_step_suite(scale, suite).items():
                rows = whole[whole["task"] == task]
                if rows.empty:
                    raise ValueError(
                        f"{scores.attrs['path']}: no task {task}; "
                        f"found: {sorted(set(whole['task']))}"
                    )
                table = pd.DataFrame(
                    {
                        "step": rows["step"],
                        "accuracy_percent": 100 * rows["correct"] / rows["n"],
                        "low_percent": 100 * rows["ci_low"],
                        "high_percent": 100 * rows["ci_high"],
                    }
                )
                names = {"label": label, "method": pair.method, "suite": suite}
                tables.append(table.assign(**names, decoding=decoding))
    return _joined(tables, COLUMNS["step_accuracies"])


def tasks_of_step_suite(scale: Scale, suite: str) -> dict[str, str]:
    """Return decoding -> task of a suite of problems; olmes answers each problem once."""
    if scale.config["evaluation"]["backend"] == "olmes":
        return {"greedy": suite}
    return {decoding: f"{suite}_{decoding}" for decoding in ("sampled", "greedy")}


def labeled(pairs: list[Pair]) -> list[tuple[Pair, str]]:
    """Return each pair with its label; its name is added where several share one or have none.

    Figures tell rows apart by their label: two pairs with the same would be drawn as one.
    """
    labels = [pair.label for pair in pairs]
    found = []
    for pair in pairs:
        name = f"{pair.label} ({pair.pair})" if pair.label else pair.pair
        found.append((pair, pair.label if labels.count(pair.label) == 1 and pair.label else name))
    return found


def smoothed(values: pd.Series) -> pd.Series:
    """Return the centred moving mean over a twentieth of the steps, at least five.

    >>> smoothed(pd.Series([0.0, 0.0, 5.0, 0.0, 0.0])).tolist()
    [1.6666666666666667, 1.25, 1.0, 1.25, 1.6666666666666667]
    """
    window = max(5, len(values) // 20)
    return values.rolling(window, center=True, min_periods=1).mean()


def _joined(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    filled = [table for table in tables if not table.empty]
    if not filled:
        return pd.DataFrame(columns=columns)
    return pd.concat(filled, ignore_index=True)[columns]
