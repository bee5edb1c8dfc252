"""What two runs of a pair answered to the same items."""

from collections.abc import Sequence

import pandas as pd

from rlsubnet.config import Pair, Scale
from rlsubnet.report.waist import Results

_KEY = ["task", "level", "item_id", "samples"]


def paired_answers(scale: Scale, results: Results, pair: Pair) -> pd.DataFrame:
    """Return one row per item with the correct answers of both runs and the suite it belongs to.

    Columns: task, level, item_id, samples, suite; full, sub: correct answers of the pair's
    ``init`` and ``tuned``, named as in Table 3.

    Raises:
        ValueError: the two runs were not asked the same items of the same files.
    """
    full, sub = results.get("answers", pair.init), results.get("answers", pair.tuned)
    _check_same_data(results, f"pair {pair.pair}", pair.init, pair.tuned)
    for one, other in ((full, sub), (sub, full)):
        known = set(other[_KEY].itertuples(index=False, name=None))
        alone = [row for row in one[_KEY].itertuples(index=False, name=None) if row not in known]
        if alone:
            task, _, item, samples = alone[0]
            raise ValueError(
                f"{one.attrs['path']}: {len(alone)} items are not in {other.attrs['path']}, the "
                f"first is task {task}, item {item} with {samples} samples"
            )
    paired = full.merge(sub, on=_KEY, how="left", suffixes=("_full", "_sub"))
    suites = {task: _suite_of(task, scale, full.attrs["path"]) for task in paired["task"].unique()}
    return paired.rename(columns={"correct_full": "full", "correct_sub": "sub"}).assign(
        suite=paired["task"].map(suites)
    )


def answers_of_seeds(
    scale: Scale, results: Results, pairs: Sequence[Pair]
) -> dict[str, list[pd.DataFrame]]:
    """Return the paired answers of every task, one table a seed, all with the same items in a row.

    Args:
        scale: the sheets.
        results: the waist files.
        pairs: one pair for each seed, such as those of `settings.seed_groups`.

    Raises:
        ValueError: the runs were not asked the same items of the same files.
    """
    tables = [paired_answers(scale, results, pair) for pair in pairs]
    first = tables[0][_KEY]
    for pair, table in zip(pairs[1:], tables[1:], strict=True):
        _check_same_data(
            results, f"seeds {pairs[0].pair} and {pair.pair}", pairs[0].init, pair.init
        )
        if not first.equals(table[_KEY]):
            raise ValueError(
                f"pairs {pairs[0].pair} and {pair.pair} are seeds of one setting, but their runs "
                f"were asked other items, or in another order"
            )
    return {
        str(task): [table[table["task"] == task] for table in tables]
        for task in first["task"].unique()
    }


def _check_same_data(results: Results, owner: str, one: str, other: str) -> None:
    digests = [
        results.get("scores", run).drop_duplicates("task").set_index("task")["data_sha256"]
        for run in (one, other)
    ]
    for task, digest in digests[0].items():
        if digests[1].get(task) != digest:
            raise ValueError(
                f"{owner}, task {task}: {one} and {other} were evaluated on "
                f"different data: {digest} and {digests[1].get(task)}"
            )


def _suite_of(task: str, scale: Scale, path: str) -> str:
    """Return the suite whose name a task starts with, such as `mc5` for `mc5_first_step`."""
    for suite in scale.config["evaluation"]["suites"]:
        if task == suite or task.startswith(f"{suite}_"):
            return suite
    raise ValueError(
        f"{path}: task {task!r} belongs to none of the suites "
        f"{scale.config['evaluation']['suites']}"
    )
