"""Section 4: how equal the full model and the one trained in its subnetwork are."""

import pandas as pd

from rlsubnet.config import Pair
from rlsubnet.report.measures import bitwise_sparsity, parameters, sparsity
from rlsubnet.report.published import NOT_RUN
from rlsubnet.report.style import method_label
from rlsubnet.report.tables.common import (
    MEASURED,
    Published,
    Results,
    Row,
    Scale,
    make_frame,
    pairs_of,
)

FULL_AGAINST_SUB = "full against sub"
FULL_AGAINST_RANDOM = "full against a random subnetwork (control)"
NULL = "start against full (null)"
_TOLERANCES = {"1e-5": 1e-5, "1e-4": 1e-4}
_SECTION4 = [
    "part",
    "algorithm",
    "compared",
    "init",
    "tuned",
    *[f"same_{name}{rule}_percent" for name in _TOLERANCES for rule in ("", "_exact")],
    "same_bitwise_percent",
    "max_abs_diff",
    "numel",
    "frozen_weights",
    "frozen_changed",
    "subnetwork_weights",
    "subnetwork_changed",
    "paper_same_1e-5_percent",
    "paper_same_1e-4_percent",
    "source",
]


def section4(scale: Scale, results: Results, published: Published) -> pd.DataFrame:
    """Return the share of equal weights at 1e-5 and 1e-4, and what the frozen weights did.

    A pair that names `section4` compares a full run with its masked one. Below each stands the
    null: the start against the full run. Most weights never move, so most are equal whatever is
    compared; only the distance between the two rows says something about the subnetwork. A run with
    a random mask of the same size is a control, without a null of its own.
    """
    source = published["conjecture1"]["source"]
    rows: list[Row] = []
    measured = set()
    for pair in pairs_of(scale, "section4"):
        run = scale.runs.get(pair.tuned)
        if run is None or not run.mask:
            # The null itself; it stands below the full-against-sub row of its own mask.
            continue
        start = scale.pairs[run.mask_pair]
        _check_same_full(pair, start)
        if run.has_random_mask:
            row = _same(results, pair, start.method, FULL_AGAINST_RANDOM)
            rows.append({**row, **_frozen(results, pair.tuned)})
            continue
        paper = _paper_key(start.method)
        measured.add(paper)
        row = {
            **_same(results, pair, start.method, FULL_AGAINST_SUB),
            **_frozen(results, pair.tuned),
            **_printed(published, paper, source),
        }
        rows += [row, _same(results, start, start.method, NULL)]
    for paper, algorithm in (("dpo", "DPO"), ("prime", "PRIME")):
        if paper not in measured:
            rows.append(
                {
                    "part": NOT_RUN,
                    "algorithm": algorithm,
                    "compared": FULL_AGAINST_SUB,
                    **_printed(published, paper, source),
                }
            )
    return make_frame(rows, _SECTION4)


def _check_same_full(pair: Pair, start: Pair) -> None:
    if pair.init != start.tuned:
        raise ValueError(
            f"pair {pair.pair}, item section4: init is {pair.init!r}, expected {start.tuned!r}, "
            f"the full run that the mask of {pair.tuned!r} was made from"
        )


def _same(results: Results, pair: Pair, method: str, compared: str) -> Row:
    updates = results.updates(pair.pair)
    row: Row = {
        "part": MEASURED,
        "algorithm": method_label(method),
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
    return {
        "frozen_weights": int(counts["frozen"].sum()),
        "frozen_changed": int(counts["frozen_changed"].sum()),
        "subnetwork_weights": int(counts["subnetwork"].sum()),
        "subnetwork_changed": int(counts["subnetwork_changed"].sum()),
    }


def _paper_key(method: str) -> str:
    # Open-Instruct's DPO command, which the paper used, is the length-normalized one.
    return {"DPO": "dpo", "DPO_NORM": "dpo", "PRIME": "prime"}.get(method, "")


def _printed(published: Published, paper: str, source: str) -> Row:
    if not paper:
        return {}
    values = published["conjecture1"]
    return {
        "paper_same_1e-5_percent": values[f"{paper}_same_weights_at_1e-5"],
        "paper_same_1e-4_percent": values["both_same_weights_at_1e-4"],
        "source": source,
    }
