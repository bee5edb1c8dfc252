"""What olmes wrote is read into counts, and refused where its files do not agree."""

import shutil
from collections import Counter
from pathlib import Path

import pytest

from rlsubnet.backends.olmes_outputs import Settings, read_outputs, read_requests
from rlsubnet.columns import Answer
from rlsubnet.evaluation.results import score_rows
from rlsubnet.files import read_jsonl, sha256
from rlsubnet.suites import OLMES_SUITES, OlmesSuite
from tests.backends.olmes_folders import edit_lines, use_small_suite, write_outputs

MODEL = Path("/work/runs/dpo/final")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_small_suite(monkeypatch)
    write_outputs(tmp_path, MODEL)
    return tmp_path


def test_each_item_is_counted_by_its_metric_level_and_year(folder):
    answers, digests = read_outputs(folder, Settings(suites=("small",)), MODEL)
    assert answers == [
        Answer("small_choice", "", "q0", 1, 1),
        Answer("small_choice", "", "q1", 1, 0),
        Answer("small_choice", "", "q2", 1, 1),
        # Its exact_match is 0 throughout; exact_match_flex counts.
        Answer("small_levels", "5", "q0", 1, 0),
        Answer("small_levels", "3", "q1", 1, 1),
        Answer("small_levels", "1", "q2", 1, 1),
        Answer("small_levels", "3", "q3", 1, 0),
        # The first, of 2023, was right and does not count.
        Answer("small_years", "", "q1", 1, 0),
        Answer("small_years", "", "q2", 1, 1),
    ]
    assert digests["small_choice"] == sha256(folder / "task-000-choice:0shot_cot-requests.jsonl")
    # Before a model is asked its requests are the same.
    found = read_requests(folder, Settings(suites=("small",)))
    assert {name: task["requests_sha256"] for name, task in found.items()} == digests
    rows = score_rows(answers, digests, "olmes")
    counts = [(row["task"], row["level"], row["n"], row["correct"]) for row in rows]
    assert counts[2:] == [
        ("small_levels", "3", 2, 1),
        ("small_levels", "5", 1, 0),
        ("small_levels", "all", 4, 2),
        ("small_years", "all", 2, 1),
    ]


def change_in(lines, keys, value):
    """Set a value in the first of some lines, or leave its key out."""
    record = lines[0]
    for key in keys[:-1]:
        record = record[key]
    record[keys[-1]] = value
    if value is ABSENT:
        del record[keys[-1]]


ABSENT = object()
SUMMARY, CHOICE, MATH = "metrics-all.jsonl", "task-000-choice:0shot_cot", "task-001-math"
PREDICTED, ASKED, MATH_ASKED = (
    *(f"{CHOICE}-{kind}.jsonl" for kind in ("predictions", "requests")),
    f"{MATH}-requests.jsonl",
)
ALIAS, EXACT = ("task_config", "metadata", "alias"), ("metrics", "exact_match")
MODEL_PATH = ("model_config", "model_path")


@pytest.mark.parametrize(
    ("name", "keys", "value", "message"),
    [
        (SUMMARY, ALIAS, "gpqa::llama3", r"tasks missing: choice:0shot_cot::tulu3"),
        (SUMMARY, MODEL_PATH, "/sft", "evaluated /sft, expected /work/runs/dpo/final"),
        (SUMMARY, ["num_instances"], 2, "num_instances is 2, .* are 3"),
        (SUMMARY, EXACT, 0.67, r"exact_match is 0.67, its predictions give 0.666"),
        (SUMMARY, ["metrics"], ABSENT, "metrics-all.jsonl: no key metrics"),
        (PREDICTED, EXACT, 0.5, "doc_id 2: exact_match is 0.5, expected 0 or 1"),
        (PREDICTED, ["metrics"], {"acc": 1}, "exact_match is None, expected .* metrics: acc"),
        (PREDICTED, ["native_id"], "q0", "q0 stands 2 times"),
        (PREDICTED, ["native_id"], ABSENT, "doc_id 2: no key native_id"),
        (MATH_ASKED, ["doc", "level"], 4, "doc_id 0: level 4, expected one of 1, 3, 5"),
        (MATH_ASKED, ["doc", "level"], 3, r"items by level \{'1': 1, '3': 3\}, expected \{'1': 1"),
        (MATH_ASKED, ["doc"], {}, "no key level"),
    ],
)
def test_damaged_outputs_are_refused_by_file_and_reason(folder, name, keys, value, message):
    edit_lines(folder / name, lambda lines: change_in(lines, keys, value))
    with pytest.raises(ValueError, match=message) as error:
        read_outputs(folder, Settings(suites=("small",)), MODEL)
    assert str(error.value).startswith(str(folder / name.partition("-requests")[0][:8]))


@pytest.mark.parametrize(
    ("name", "short", "twice"),
    [
        (SUMMARY, "tasks missing: aime::zs_cot", "task choice:0shot_cot::tulu3 stands twice"),
        (PREDICTED, "2 predictions for 3 requests; .* doc_id 0", "two predictions for doc_id 2"),
        (ASKED, "2 items, expected 3", "two requests for doc_id 0"),
    ],
)
def test_lines_that_are_lost_or_doubled_are_refused(folder, name, short, twice):
    edit_lines(folder / name, lambda lines: [*lines, lines[0]])
    with pytest.raises(ValueError, match=twice):
        read_outputs(folder, Settings(suites=("small",)), MODEL)
    edit_lines(folder / name, lambda lines: lines[:-2])
    with pytest.raises(ValueError, match=short):
        read_outputs(folder, Settings(suites=("small",)), MODEL)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (SUMMARY, f"{SUMMARY}: no such file; olmes did not finish"),
        (PREDICTED, r"0 files task-000-\*-predictions.jsonl, expected one for task choice"),
        (ASKED, r"0 files task-000-\*-requests.jsonl, expected one for task choice"),
    ],
)
def test_a_missing_file_is_named(folder, name, message):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=message):
        read_outputs(folder, Settings(suites=("small",)), MODEL)


def test_tasks_that_were_not_asked_for_are_refused(folder, monkeypatch):
    monkeypatch.setitem(OLMES_SUITES, "small", OlmesSuite(OLMES_SUITES["small"].tasks[:2]))
    with pytest.raises(ValueError, match="tasks that were not asked for: aime::zs_cot"):
        read_outputs(folder, Settings(suites=("small",)), MODEL)


def test_a_limit_asks_for_that_many_items_and_no_level_counts(folder):
    trial = Settings(suites=("small",), limit=2)
    with pytest.raises(ValueError, match=r"3 items, expected 2 \(limit 2\)"):
        read_outputs(folder, trial, MODEL)
    # Three items are asked of each task, and one of the four with levels is left out.
    for kind in ("requests", "predictions"):
        path = folder / f"{MATH}-{kind}.jsonl"
        edit_lines(path, lambda lines: [line for line in lines if line["doc_id"] != 0])
    edit_lines(folder / SUMMARY, lambda lines: lines[1].update(num_instances=3))
    edit_lines(folder / SUMMARY, lambda lines: lines[1]["metrics"].update(exact_match_flex=2 / 3))
    answers, _ = read_outputs(folder, Settings(suites=("small",), limit=3), MODEL)
    assert Counter(answer.task for answer in answers) == {
        "small_choice": 3,
        "small_levels": 3,
        "small_years": 2,
    }


def test_a_limit_that_misses_the_year_says_so(folder, monkeypatch):
    monkeypatch.setitem(OLMES_SUITES, "small", OlmesSuite(OLMES_SUITES["small"].tasks[2:]))
    edit_lines(folder / SUMMARY, lambda lines: lines[2:])
    path = folder / "task-002-aime-requests.jsonl"
    path.write_text(path.read_text().replace("2024", "2022"))
    with pytest.raises(ValueError, match="no item of 2024 among 3; raise the limit"):
        read_outputs(folder, Settings(suites=("small",), limit=3), MODEL)


# Real outputs of olmes, made on a CPU with a random model; see the README beside them.


@pytest.fixture
def real(shared: Path, tmp_path: Path):
    def copy(name: str, *tasks: str) -> Path:
        source = shared / "fixtures" / "olmes" / name
        if not source.is_dir():
            pytest.skip(f"no real outputs in {source}")
        folder = shutil.copytree(source, tmp_path / name)

        def change(lines):
            for line in lines:
                line["model_config"]["model_path"] = str(MODEL)
            return [x for x in lines if x["task_config"]["metadata"]["alias"] in tasks]

        edit_lines(folder / SUMMARY, change)
        return folder

    return copy


def test_real_choices_give_the_score_that_olmes_states(real, monkeypatch):
    tasks = [
        task for task in OLMES_SUITES["table3a"].tasks if task.name[8:] in ("lsat_ar", "logiqa_en")
    ]
    monkeypatch.setitem(OLMES_SUITES, "table3a", OlmesSuite(tuple(tasks)))
    folder = real("agieval", *(task.olmes for task in tasks))
    answers, digests = read_outputs(folder, Settings(suites=("table3a",), limit=6), MODEL)
    stated = {
        line["task_config"]["metadata"]["alias"]: line["metrics"]["primary_score"]
        for line in read_jsonl(folder / SUMMARY)
    }
    for row, task in zip(score_rows(answers, digests, "olmes"), tasks, strict=True):
        assert (row["task"], row["level"], row["n"]) == (task.name, "all", 6)
        assert row["correct"] == 6 * stated[task.olmes]
    assert len({answer.item_id for answer in answers if answer.task == tasks[0].name}) == 6


def test_real_math_is_split_by_the_levels_of_its_items(real):
    (task,) = OLMES_SUITES["math500-fewshot"].tasks
    folder = real("math500", task.olmes)
    answers, _ = read_outputs(folder, Settings(suites=("math500-fewshot",), limit=20), MODEL)
    requests = read_jsonl(folder / "task-000-minerva_math_500-requests.jsonl")
    levels = {str(line["native_id"]): str(line["doc"]["level"]) for line in requests}
    assert {answer.item_id: answer.level for answer in answers} == levels
    assert (len(answers), sum(answer.correct for answer in answers)) == (20, 0)
