"""What two runs of a pair answered to the same items."""

import pandas as pd

from rlsubnet.report.waist import Results
from rlsubnet.sheets import Pair, Scale

_KEY = ["task", "level", "item_id", "samples"]


def paired_answers(scale: Scale, results: Results, pair: Pair) -> pd.DataFrame:
    """Return one row per item with the correct answers of both runs and the suite it belongs to.

    Columns: task, level, item_id, samples, suite; full, sub: correct answers of the pair's
    ``init`` and ``tuned``, named as in Table 3.

    Raises:
        ValueError: the two runs were not asked the same items of the same files.
    """
    full, sub = results.get("answers", pair.init), results.get("answers", pair.tuned)
    _check_same_data(results, pair)
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


def _check_same_data(results: Results, pair: Pair) -> None:
    digests = [
        results.get("scores", run).drop_duplicates("task").set_index("task")["data_sha256"]
        for run in (pair.init, pair.tuned)
    ]
    for task, digest in digests[0].items():
        if digests[1].get(task) != digest:
            raise ValueError(
                f"pair {pair.pair}, task {task}: {pair.init} and {pair.tuned} were evaluated on "
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
