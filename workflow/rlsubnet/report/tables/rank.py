"""Table 2: how close to full rank the update matrices are."""

import pandas as pd

from rlsubnet.report.measures import mean_rank_share
from rlsubnet.report.published import NOT_RUN, TABLE2_MODELS
from rlsubnet.report.tables.common import (
    Published,
    Results,
    Row,
    Scale,
    make_frame,
    names_of,
    pairs_of,
    paper_row,
    part_of,
)

_TABLE2 = [
    "part",
    "algorithm",
    "init",
    "tuned",
    "matrices",
    "update_rank_percent",
    "control_rank_percent",
    "stable_rank",
    "effective_rank",
    "paper_model",
    "paper_update_rank_percent",
    "source",
]


def table2(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return the mean update rank beside that of a random update of the same density.

    Ranks are per cent of the maximum possible rank, averaged over matrices; stable and effective
    rank are averaged as they are.
    """
    source = published["table2"]["source"]
    paper = {TABLE2_MODELS[row["model"]]: row for row in published["table2"]["rows"]}
    rows: list[Row] = []
    matched = set()
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
        name, printed = paper_row(paper, pair)
        if printed is not None:
            matched.add(name)
            row |= _printed(printed, source)
        rows.append(row)
    for name, printed in paper.items():
        if name not in matched:
            rows.append(
                {"part": NOT_RUN, "algorithm": printed["algo"], **_printed(printed, source)}
            )
    return make_frame(rows, _TABLE2)


def _printed(printed: Published, source: str) -> Row:
    return {
        "paper_model": printed["model"],
        "paper_update_rank_percent": printed["update_rank"],
        "source": source,
    }
