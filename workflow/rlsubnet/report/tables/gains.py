"""What finetuning bought: accuracy of a run against its start, beside the sparsity it cost."""

from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from rlsubnet.config import Pair
from rlsubnet.report.accuracy import Compared, compare_items, compare_seeds
from rlsubnet.report.answers import answers_of_seeds
from rlsubnet.report.measures import sparsity
from rlsubnet.report.settings import seed_groups, seed_text
from rlsubnet.report.suites import asked, decoding_of
from rlsubnet.report.tables.common import (
    MEAN_OF_SEEDS,
    ONE_OF_THE_SEEDS,
    ONE_SEED,
    Published,
    Results,
    Row,
    Scale,
    make_frame,
    names_of,
    pairs_of,
    part_of,
)

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
            rows += _rows(scale, results, group, answers, MEAN_OF_SEEDS)
        kind = ONE_OF_THE_SEEDS if len(group) > 1 else ONE_SEED
        for number, pair in enumerate(group):
            one = {task: [tables[number]] for task, tables in answers.items()}
            rows += _rows(scale, results, [pair], one, kind)
    rows.sort(key=lambda row: row["decoding"] == decoding_of(1))
    return make_frame(rows, _GAINS)


def _rows(
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
