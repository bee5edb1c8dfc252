"""Made folders in the form that olmes writes and reads: outputs, and a model it can evaluate."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlsubnet.files import write_json, write_jsonl
from rlsubnet.suites import OLMES_SUITES, OlmesSuite, OlmesTask

# As the paper's tasks, with a few items: choices, problems with levels, problems of some years.
CHOICE = OlmesTask("small_choice", "choice:0shot_cot::tulu3", 3)
LEVELS = OlmesTask(
    "small_levels",
    "math::zs_cot",
    4,
    metric="exact_match_flex",
    levels={"1": 1, "3": 2, "5": 1},
    overrides={"primary_metric": "exact_match_flex"},
)
YEARS = OlmesTask("small_years", "aime::zs_cot", 2, asked=3, year="2024")
TASKS = (CHOICE, LEVELS, YEARS)
DOCS: Mapping[str, Sequence[Mapping[str, Any]]] = {
    CHOICE.name: [{"index": 7}, {"index": 8}, {"index": 9}],
    LEVELS.name: [{"level": 5}, {"level": 3}, {"level": 1}, {"level": 3}],
    YEARS.name: [{"year": "2023"}, {"year": "2024"}, {"year": "2024"}],
}
RIGHT = {CHOICE.name: [1, 0, 1], LEVELS.name: [0, 1, 1, 0], YEARS.name: [1, 0, 1]}


def use_small_suite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a suite ``small`` exist, of the three tasks above."""
    monkeypatch.setitem(OLMES_SUITES, "small", OlmesSuite(TASKS))  # type: ignore[arg-type]


def write_requests(folder: Path, tasks: Sequence[OlmesTask] = TASKS) -> None:
    for index, task in enumerate(tasks):
        core = task.olmes.partition("::")[0]
        requests = [
            {"request_type": "generate_until", "doc": doc, "idx": 0, "doc_id": number}
            for number, doc in enumerate(DOCS[task.name])
        ]
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / f"task-{index:03d}-{core}-requests.jsonl", requests)


def write_outputs(folder: Path, model: Path, tasks: Sequence[OlmesTask] = TASKS) -> None:
    write_requests(folder, tasks)
    lines = []
    for index, task in enumerate(tasks):
        core, right = task.olmes.partition("::")[0], RIGHT[task.name]
        predictions = [
            {
                "doc_id": number,
                "native_id": f"q{number}",
                "metrics": {"exact_match": 0.0, task.metric: float(value), "num_tokens": 9},
                "model_output": [{"continuation": "..."}],
            }
            for number, value in enumerate(right)
        ]
        # Workers and batches may hand items back in any order.
        stem = f"task-{index:03d}-{core}"
        write_jsonl(folder / f"{stem}-predictions.jsonl", predictions[::-1])
        lines.append(
            {
                "task_name": core,
                "task_idx": index,
                "model_config": {"model": "rlsubnet", "model_path": str(model)},
                "task_config": {"metadata": {"alias": task.olmes}},
                "num_instances": len(right),
                "metrics": {task.metric: sum(right) / len(right)},
            }
        )
    write_jsonl(folder / "metrics-all.jsonl", lines)
    write_json(folder / "metrics.json", {"tasks": []})


def edit_lines(path: Path, change: Any) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    changed = change(lines)
    write_jsonl(path, lines if changed is None else changed)
