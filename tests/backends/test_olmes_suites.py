"""Suites of the paper as olmes's tasks: exact names, numbers of items, what is set otherwise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlsubnet.backends.olmes import olmes_arguments
from rlsubnet.backends.olmes_outputs import Settings, read_settings
from rlsubnet.data import load_published
from rlsubnet.suites import OLMES_SUITES, tasks_of


@pytest.fixture(scope="module")
def checkout() -> Path:
    folder = os.environ.get("OLMES_DIR")
    if not folder:
        pytest.skip("OLMES_DIR names no checkout of allenai/olmes")
    return Path(folder)


def launch(checkout: Path, *words: str) -> str:
    """Return what olmes's launcher prints on a Python without any package."""
    command = [sys.executable, "-S", "-E", "oe_eval/launch.py", *words]
    result = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stderr  # its logger writes there


def test_the_numbers_of_items_are_those_that_the_paper_s_percentages_decode_to():
    counts = load_published()["table3_counts"]
    decoded = {row["task"]: row["n"] for row in counts["table3a"]}
    assert {task.paper: task.items for task in OLMES_SUITES["table3a"].tasks} == decoded
    levels = {str(row["level"]): row["n"] for row in counts["table3b"]}
    for name in ("math500", "math500-fewshot", "math500-r1"):
        (task,) = OLMES_SUITES[name].tasks
        assert {**task.levels, "Overall": task.items} == levels
        assert sum(task.levels.values()) == task.items
    (aime,) = OLMES_SUITES["aime2024"].tasks
    assert (aime.items, aime.requests, aime.year) == (30, 90, "2024")


def test_the_suites_name_these_tasks_and_boxes_are_scored_by_the_metric_that_reads_them():
    assert [(task.olmes, task.metric) for task in tasks_of(list(OLMES_SUITES))] == [
        ("agi_eval_lsat-ar:0shot_cot::tulu3", "exact_match"),
        ("agi_eval_lsat-lr:0shot_cot::tulu3", "exact_match"),
        ("agi_eval_logiqa-en:0shot_cot::tulu3", "exact_match"),
        ("gpqa:0shot_cot::tulu3", "exact_match"),
        ("mmlu_pro_math:0shot_cot::tulu3", "exact_match"),
        ("minerva_math_500::zs_cot", "exact_match_flex"),
        ("minerva_math_500::tulu", "exact_match"),
        ("minerva_math_500::zs_cot_r1", "exact_match_flex"),
        ("aime::zs_cot", "exact_match_flex"),
    ]


def test_what_is_set_otherwise_keeps_the_task_s_name():
    (task,) = OLMES_SUITES["math500"].tasks
    longest = {"generation_kwargs": {"max_gen_toks": 3072}}
    assert json.loads(task.argument) == {
        "task_name": "minerva_math_500::zs_cot",
        "primary_metric": "exact_match_flex",
        "chat_overrides": longest,
        **longest,
        "metadata": {"alias": "minerva_math_500::zs_cot"},
    }


def test_names_of_suites_cannot_be_taken_for_another_s_tasks():
    # A table finds the suite of a task by `{suite}` or the prefix `{suite}_`.
    for suite in OLMES_SUITES:
        for other, found in OLMES_SUITES.items():
            for task in found.tasks:
                belongs = task.name == suite or task.name.startswith(f"{suite}_")
                assert belongs == (other == suite), (suite, task.name)


def test_no_suite_at_all_is_refused():
    with pytest.raises(ValueError, match="suites: expected at least one suite"):
        read_settings({"suites": []})


def test_a_checkout_at_the_pinned_commit_knows_every_task(checkout):
    for task in tasks_of(list(OLMES_SUITES)):
        listed = launch(checkout, "--list-tasks", f"^{task.olmes}$")
        assert "All 1 in task library" in listed, listed


def test_olmes_s_own_launcher_reads_the_command_line(checkout, tmp_path):
    settings = Settings(suites=tuple(OLMES_SUITES), limit=20, chat_template="tulu")
    words = olmes_arguments(tmp_path / "a model", settings, tmp_path / "out", gpus=2)
    printed = launch(checkout, *words[1:], "--dry-run")
    # All nine were found by name: what is not found is only warned of.
    assert "No config found for task" not in printed
    assert printed.count('"alias": ') == len(settings.tasks) == 9
    assert printed.count('"limit": 20') == 9
    for task in settings.tasks:
        assert f'"alias": "{task.olmes}"' in printed
    assert printed.count('"max_gen_toks": 3072') >= 3
    assert "131072" not in printed
    assert f'"model_path": "{tmp_path}/a model"' in printed
    assert "--num-workers 1 --gpus 2 --model rlsubnet" in printed
