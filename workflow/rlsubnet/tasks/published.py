"""Published data sets of the paper scale, brought into this project's JSON lines."""

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlsubnet.tasks.graded_prompts import graded_prompts
from rlsubnet.tasks.messages import as_prompt, asked, check_messages
from rlsubnet.tasks.rollouts import gather_answers, rollout_pairs
from rlsubnet.tasks.rows import RowSource, describe_value, read_rows, value_at

Report = Callable[[str], None]
Records = Iterable[dict[str, Any]]


def tulu_preferences(rows: RowSource) -> Iterator[dict[str, Any]]:
    """Yield ``{"id", "chosen", "rejected"}`` of each row of a preference mixture, in its order.

    Order and number of the rows are those of the published set: with one seed open-instruct then
    shuffles them as it would have after reading the set by its name.
    """
    for where, row in rows:
        try:
            chosen, rejected = (
                check_messages(value_at(row, side), side) for side in ("chosen", "rejected")
            )
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        yield {"id": row.get("id"), "chosen": chosen, "rejected": rejected}


def eval_items(
    rows: RowSource, columns: Mapping[str, str], where: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """Yield ``{"id", "prompt"}`` of each evaluation item whose columns ``where`` hold its values.

    Without a column ``id``, items are numbered from 1.
    """
    number = 0
    for place, row in rows:
        try:
            if any(str(value_at(row, column)) != value for column, value in where.items()):
                continue
            number += 1
            name = str(value_at(row, columns["id"])) if "id" in columns else str(number)
            yield {"id": name, "prompt": asked(as_prompt(value_at(row, columns["prompt"])))}
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


def training_prompts(records: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what the user says in each preference pair, or in each prompt with an answer."""
    return (
        asked(record["chosen"] if "chosen" in record else record["prompt"]) for record in records
    )


def _announced(rows: RowSource, report: Report) -> RowSource:
    """Pass the rows through, after saying what the first looks like."""
    for number, (where, row) in enumerate(rows):
        if number == 0:
            report(f"{where}: {describe_value(row)}")
        yield where, row


def adapt(name: str, spec: Mapping[str, Any], source: Path, report: Report) -> Records:
    """Return the records of data set ``name`` out of its fetched files.

    Args:
        name: for messages.
        spec: its entry in the config's ``data:``, of a kind that is fetched.
        source: folder of the fetched files, or one file.
        report: receives lines about what was found and dropped.

    Raises:
        ValueError: the kind is not one that is fetched, or the columns do not fit; the message
            describes the columns that are there.
    """
    rows = _announced(read_rows(source), report)
    match spec.get("kind"):
        case "tulu_preferences":
            return tulu_preferences(rows)
        case "rollout_pairs":
            pairs, counts = rollout_pairs(gather_answers(rows, spec["columns"]), spec["seed"])
            report(str(counts))
            return pairs
        case "eval_items":
            return eval_items(rows, spec["columns"], spec.get("where", {}))
        case "graded_prompts":
            return graded_prompts(rows, spec["grader"], spec.get("split", "train"))
        case kind:
            raise ValueError(
                f"data set {name}, key kind: expected one of tulu_preferences, rollout_pairs, "
                f"eval_items, graded_prompts, found {kind!r}"
            )


def chosen_files(names: Iterable[str], pattern: str) -> list[str]:
    """Return the names that a pattern chooses, sorted; ``*`` also stands for folders.

    >>> chosen_files(["data/b.parquet", "README.md", "data/a.parquet"], "*.parquet")
    ['data/a.parquet', 'data/b.parquet']
    """
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))
