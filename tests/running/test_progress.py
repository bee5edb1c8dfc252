"""The time left that `make demo` prints, on the recorded events of a whole run and by hand."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from rlsubnet.config import load_config, load_scale
from rlsubnet.running.progress import Expected, JobLines, TimeLeft, expected_trainings, training

RECORDED = Path(__file__).with_name("recorded_demo.jsonl")
# What was expected of the eight runs of the recorded demo.
RUNS = ("dpo", "dpo_sub", "dpo_seed123", "dpo_norm", "dpo_norm_sub")
TRAININGS = {
    "base": training("pretrain", 1000, serial=True),
    "sft": training("sft", 1200, serial=True),
    "sft_rl_lr": training("sft", 200),
    **dict.fromkeys(RUNS, training("dpo", 200)),
}


def replayed(slower: float = 1.0) -> list[str]:
    """Return what is shown of the recorded events."""
    jobs, lines = JobLines(TimeLeft(TRAININGS)), []
    for event in map(json.loads, RECORDED.read_text().splitlines()):
        lines += jobs.lines({**event, "time": slower * event["time"]})
    return lines


def seconds_said(line: str) -> float | None:
    """Return the time left that a line shows."""
    match = re.search(r"about (\d+) (s|min) left", line)
    return float(match[1]) * (60 if match[2] == "min" else 1) if match else None


def shown_at(line: str) -> int:
    minutes, seconds = line.split()[0].split(":")
    return 60 * int(minutes) + int(seconds)


@pytest.mark.parametrize("slower", [1.0, 3.0])
def test_the_time_left_comes_true_on_a_machine_of_any_speed(slower: float) -> None:
    lines = replayed(slower)
    ended = [line for line in lines if "done in" in line]
    total = shown_at(ended[-1])
    assert len(ended) == 51 and total == int(270 * slower)
    # Once `base` has ended, 104 s into the recorded 270, the speed is known. The last minute is
    # rounded to 10 s.
    for line in ended:
        rest = total - shown_at(line)
        if shown_at(line) >= 104 * slower and rest >= 60:
            assert seconds_said(line) == pytest.approx(rest, rel=0.3), line
        # Before that the usual durations stand in: short jobs do not say that all ends at once.
        elif slower == 1 and shown_at(line) < 100:
            assert seconds_said(line) == pytest.approx(270, abs=60), line


def test_every_line_keeps_its_columns() -> None:
    lines = replayed()
    assert lines[-1].endswith("[ 51/51]  all: done in 0:00")  # nothing is left
    ended = next(line for line in lines if "train sft: done" in line)
    assert re.fullmatch(
        r"  2:40  \[  6/51\]  about (2 min|\d0 s) left +train sft: done in 0:57", ended
    )


def test_unknown_rules_and_runs_count_and_without_a_plan_nothing_is_said() -> None:
    assert TimeLeft().seconds(0.0) is None
    left = TimeLeft(waiting=Counter(train=1, no_such_rule=3))
    assert left.seconds(0.0) == 25.0 + 3.0
    left.start(1, "train", "no_such_run", 0.0)
    left.start(2, "no_such_rule", "", 0.0)
    left.finish(2, 1.0)  # as usual
    left.finish(9, 1.0)  # never started
    assert left.seconds(1.0) == pytest.approx(24.0 + 2.0)

    # A job that takes longer than thought never leaves less than nothing.
    left = TimeLeft(waiting=Counter(evaluate=1))
    left.start(1, "evaluate", "dpo", 0.0)
    assert left.seconds(7.0) == pytest.approx(0.75)  # a tenth of 7.5
    assert left.seconds(1000.0) == pytest.approx(0.75)


def test_runs_that_others_wait_for_are_not_divided_by_the_cores() -> None:
    runs = {"sft": Expected(60.0, serial=True)}
    runs |= {name: Expected(20.0) for name in ("a", "b", "c", "d")}
    left = TimeLeft(runs, cores=2, waiting=Counter(train=5))
    assert left.seconds(0.0) == 60 + 4 * 20 / 2
    # The last job alone on two cores is not done in half its time.
    last = TimeLeft(runs, cores=2, waiting=Counter(train=1))
    last.start(1, "train", "a", 0.0)
    assert last.seconds(5.0) == 15.0


def test_a_run_that_saves_steps_is_a_training_too() -> None:
    runs = {"a": Expected(20.0), "b": Expected(60.0)}
    left = TimeLeft(runs, waiting=Counter(train=1, train_with_steps=1))
    assert left.seconds(0.0) == 80.0
    left.start(1, "train_with_steps", "b", 0.0)
    assert left.seconds(10.0) == 70.0
    # Where fewer are planned than expected, each counts as their mean.
    assert TimeLeft(runs, waiting=Counter(train=1)).seconds(0.0) == 40.0


def test_what_is_measured_outweighs_the_usual() -> None:
    runs = {name: Expected(20.0) for name in ("a", "b")}
    left = TimeLeft(runs, waiting=Counter(train=2, evaluate=2))
    left.start(1, "train", "a", 0.0)
    left.finish(1, 40.0)
    # Planned are 2 * 20 + 2 * 7.5 = 55 s. A training took 40 s instead of 20: beside 5.5 usual
    # seconds the machine takes (40 + 5.5) / (20 + 5.5) = 1.7843 times as long.
    assert left.seconds(40.0) == pytest.approx(1.7843 * (20 + 2 * 7.5), abs=0.01)
    left.start(2, "evaluate", "a", 40.0)
    left.finish(2, 44.0)
    assert left.seconds(44.0) == pytest.approx(49.5 / (27.5 + 5.5) * (20 + 7.5), abs=0.01)


def test_runs_of_the_demo_that_are_there_are_not_expected(repository: Path) -> None:
    scale = load_scale(load_config([repository / "config/demo/config.yaml"]), repository)
    found = expected_trainings(scale, {"base"})
    assert set(found) == set(scale.runs) - {"base"}
    assert [name for name, run in found.items() if run.serial] == ["sft"]
    everything = expected_trainings(scale)
    assert everything["base"].serial
    assert everything["base"].seconds > everything["dpo"].seconds > 0
