"""What finetuning bought: accuracy of a run against its start, beside the sparsity it cost."""

import pandas as pd

from rlsubnet.report.accuracy import Compared, compare_items
from rlsubnet.report.answers import paired_answers
from rlsubnet.report.measures import sparsity
from rlsubnet.report.tables.common import (
    Published,
    Results,
    Row,
    Scale,
    make_frame,
    names_of,
    pairs_of,
    part_of,
)

_GAINS = ["part", "algorithm", "label", "init", "tuned", "sparsity_percent"]
_GAINS += ["task", "decoding", "n", "init_percent", "tuned_percent", "gain_points"]
_GAINS += ["gain_se_points", "gain_interval", "p_value", "test", "verdict"]


def gains(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return the gain of every run over its start on the problems, with sparsity beside it.

    A pair that names `gains` is (start, run). The paper reports no accuracy of its starting
    points, so nothing of it stands beside ours.
    """
    tolerance = float(scale.config["measure"]["table_tolerance"])
    rows: list[Row] = []
    for pair in pairs_of(scale, "gains"):
        paired = paired_answers(scale, results, pair)
        measured = sparsity(results.updates(pair.pair), tolerance)
        shared = {
            "part": part_of(pair),
            "label": pair.label,
            **names_of(pair),
            "sparsity_percent": 100 * measured,
        }
        for _, items in paired.groupby("task", sort=False):
            suite, samples = items["suite"].iloc[0], int(items["samples"].iloc[0])
            if scale.config["data"][suite]["kind"] == "problems":
                rows.append({**shared, **_row(suite, samples, compare_items(items))})
    rows.sort(key=lambda row: row["decoding"] == "greedy")
    return make_frame(rows, _GAINS)


def _row(suite: str, samples: int, compared: Compared) -> Row:
    gain, se = 100 * compared.delta, 100 * compared.se
    words = {"sub higher": "higher", "full higher": "lower"}
    return {
        "task": suite,
        "decoding": "greedy" if samples == 1 else f"sampled, {samples} an item",
        "n": compared.n,
        "init_percent": 100 * compared.full,
        "tuned_percent": 100 * compared.sub,
        "gain_points": gain,
        "gain_se_points": se,
        "gain_interval": f"{gain - 1.96 * se:+.1f} to {gain + 1.96 * se:+.1f}",
        "p_value": compared.p_value,
        "test": compared.test,
        "verdict": words.get(compared.verdict, compared.verdict),
    }
