"""What olmes is asked, and which items were right: its files, checked against each other."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlsubnet.columns import Answer
from rlsubnet.config.schema import Olmes
from rlsubnet.files import read_jsonl, sha256
from rlsubnet.suites import OlmesTask, tasks_of

BACKEND = "olmes"
SUMMARY = "metrics-all.jsonl"


class Settings(Olmes):
    """Settings of one evaluation: those of the config, and the suites that are asked."""

    suites: tuple[str, ...]

    @property
    def tasks(self) -> tuple[OlmesTask, ...]:
        return tasks_of(self.suites)


def read_settings(block: Mapping[str, Any]) -> Settings:
    """Return the settings in ``block``: ``suites`` and the keys of ``evaluation.olmes``.

    >>> read_settings({"suites": ["table3a"], "limit": 20}).limit
    20
    """
    if not block["suites"]:
        raise ValueError("olmes settings, suites: expected at least one suite")
    return Settings(**{**block, "suites": tuple(block["suites"])})


def read_outputs(
    folder: Path, settings: Settings, model: Path
) -> tuple[list[Answer], dict[str, str]]:
    """Return the answers to all tasks, and for each task the SHA-256 digest of its requests.

    The requests are written before the model's chat template is laid on: they tell items, prompts
    and limits of generation, and are the same for every model.
    """
    answers: list[Answer] = []
    digests: dict[str, str] = {}
    lines = _summary_lines(folder, settings.tasks)
    for task in settings.tasks:
        line = lines[task.olmes]
        told = _get(line, "model_config", folder / SUMMARY)
        if told.get("model_path") != str(model):
            raise ValueError(
                f"{folder / SUMMARY}, task {task.olmes}: evaluated {told.get('model_path')}, "
                f"expected {model}"
            )
        index = _get(line, "task_idx", folder / SUMMARY)
        requests = _task_file(folder, index, task, "requests")
        docs = _docs(requests)
        check_count(requests, task, len(docs), settings.limit)
        levels = _counted_levels(task, requests, docs, settings.limit)
        found = _answers(task, _task_file(folder, index, task, "predictions"), docs)
        _check_share(folder, task, line, found)
        answers += [
            Answer(task.name, levels[number], item, 1, right)
            for number, (item, right) in found.items()
            if number in levels
        ]
        digests[task.name] = sha256(requests)
    return answers, digests


def read_requests(folder: Path, settings: Settings) -> dict[str, dict[str, Any]]:
    """Return for each task how many items count and its requests' digest; no model was asked."""
    found = {}
    for index, task in enumerate(settings.tasks):
        path = _task_file(folder, index, task, "requests")
        docs = _docs(path)
        check_count(path, task, len(docs), None)
        items = len(_counted_levels(task, path, docs, None))
        found[task.name] = {"items": items, "requests_sha256": sha256(path)}
    return found


def _task_file(folder: Path, index: int, task: OlmesTask, kind: str) -> Path:
    """Return one file of a task; its name holds the task's number and name, not its alias."""
    pattern = f"task-{str(index).zfill(3)}-*-{kind}.jsonl"
    paths = list(folder.glob(pattern))
    if len(paths) != 1:
        raise ValueError(
            f"{folder}: {len(paths)} files {pattern}, expected one for task {task.olmes}"
        )
    return paths[0]


def check_count(path: Path, task: OlmesTask, found: int, limit: int | None) -> None:
    expected = task.requests if limit is None else min(limit, task.requests)
    if found != expected:
        why = "" if limit is None else f" (limit {limit})"
        raise ValueError(f"{path}: task {task.olmes}: {found} items, expected {expected}{why}")


def _summary_lines(folder: Path, tasks: Sequence[OlmesTask]) -> dict[str, dict[str, Any]]:
    path = folder / SUMMARY
    if not path.is_file():
        raise ValueError(f"{path}: no such file; olmes did not finish")
    lines: dict[str, dict[str, Any]] = {}
    for line in read_jsonl(path):
        metadata = _get(line, "task_config", path).get("metadata") or {}
        alias = str(metadata.get("alias", line.get("task_name")))
        if alias in lines:
            raise ValueError(f"{path}: task {alias} stands twice")
        lines[alias] = line
    expected = {task.olmes for task in tasks}
    if missing := sorted(expected - set(lines)):
        raise ValueError(f"{path}: tasks missing: {', '.join(missing)}")
    if extra := sorted(set(lines) - expected):
        raise ValueError(f"{path}: tasks that were not asked for: {', '.join(extra)}")
    return lines


def _by_item(path: Path, what: str) -> dict[int, dict[str, Any]]:
    """Return doc_id -> the one record of an item."""
    found: dict[int, dict[str, Any]] = {}
    for record in read_jsonl(path):
        number = _get(record, "doc_id", path)
        if number in found:
            raise ValueError(f"{path}: two {what} for doc_id {number}, expected one")
        found[number] = record
    return found


def _docs(path: Path) -> dict[int, Mapping[str, Any]]:
    """Return doc_id -> the item of every request."""
    requests = _by_item(path, "requests").items()
    return {number: _get(request, "doc", path) for number, request in requests}


def _answers(
    task: OlmesTask, path: Path, docs: Mapping[int, Mapping[str, Any]]
) -> dict[int, tuple[str, int]]:
    """Return doc_id -> (stable id of the item, 1 if it was right), in the order of doc_id."""
    found: dict[int, tuple[str, int]] = {}
    for number, line in sorted(_by_item(path, "predictions").items()):
        metrics = _get(line, "metrics", path)
        right = metrics.get(task.metric)
        if right not in (0, 1):
            raise ValueError(
                f"{path}, doc_id {number}: {task.metric} is {right!r}, expected 0 or 1; "
                f"metrics: {', '.join(metrics)}"
            )
        found[number] = (str(_get(line, "native_id", path)), int(right))
    if set(found) != set(docs):
        alone = sorted(set(found) ^ set(docs))[0]
        raise ValueError(
            f"{path}: {len(found)} predictions for {len(docs)} requests; the first without the "
            f"other is doc_id {alone}"
        )
    if (twice := Counter(item for item, _ in found.values()).most_common(1)) and twice[0][1] > 1:
        raise ValueError(f"{path}: native_id {twice[0][0]} stands {twice[0][1]} times")
    return found


def _check_share(
    folder: Path, task: OlmesTask, line: Mapping[str, Any], found: Mapping[int, tuple[str, int]]
) -> None:
    path = folder / SUMMARY
    stated, n = _get(line, "metrics", path).get(task.metric), _get(line, "num_instances", path)
    if n != len(found):
        raise ValueError(
            f"{path}, task {task.olmes}: num_instances is {n}, its predictions are {len(found)}"
        )
    share = sum(right for _, right in found.values()) / n
    if not isinstance(stated, int | float) or abs(stated - share) > 1e-9:
        raise ValueError(
            f"{path}, task {task.olmes}: {task.metric} is {stated}, its predictions give {share}"
        )


def _counted_levels(
    task: OlmesTask, path: Path, docs: Mapping[int, Mapping[str, Any]], limit: int | None
) -> dict[int, str]:
    """Return doc_id -> difficulty level ("" without levels) of the items that count."""
    levels = {}
    for number, doc in docs.items():
        if task.year and str(_get(doc, "year", path)) != task.year:
            continue
        levels[number] = str(_get(doc, "level", path)) if task.levels else ""
        if task.levels and levels[number] not in task.levels:
            raise ValueError(
                f"{path}, doc_id {number}: level {levels[number]}, "
                f"expected one of {', '.join(task.levels)}"
            )
    if not levels:
        raise ValueError(f"{path}: no item of {task.year} among {len(docs)}; raise the limit")
    expected = dict(task.levels) or {"": task.items}
    if limit is None and Counter(levels.values()) != expected:
        counts = dict(sorted(Counter(levels.values()).items()))
        raise ValueError(f"{path}: items by level {counts}, expected {expected}")
    return levels


def _get(record: Mapping[str, Any], key: str, path: Path) -> Any:
    if not isinstance(record, Mapping) or key not in record:
        place = f", doc_id {record['doc_id']}" if "doc_id" in record else ""
        raise ValueError(f"{path}{place}: no key {key}")
    return record[key]
