"""Checks and limits of a GPU run each for itself: none takes another along."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.device.parts import Finding, Place, run_parts
from benchmarks.device.results import findings

PLACE = Place(torch.device("cpu"), miniature=True)


def good(place: Place) -> Iterator[Finding]:
    yield {"what": "share", "value": 1 / 3}


def failing(place: Place) -> Iterator[Finding]:
    yield {"what": "before"}
    raise ValueError("wrong number")


def endless(place: Place) -> Iterator[Finding]:
    yield {"what": "begun"}
    time.sleep(600)


def test_a_part_that_fails_or_hangs_keeps_what_it_found(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    parts = {"endless": endless, "failing": failing, "good": good}
    assert run_parts(parts, PLACE, out, jobs=2, seconds=3) == ["endless"]
    lines = findings(out)
    assert {"part": "good", "what": "share", "value": 0.3333} in lines
    assert {"part": "failing", "what": "before"} in lines
    assert {"part": "endless", "what": "begun"} in lines
    ends = {line["part"]: line for line in lines if "ok" in line}
    assert [part for part, end in ends.items() if end["ok"]] == ["good"]
    assert ends["failing"]["error"].startswith("ValueError: wrong number (test_parts.py:")
    assert ends["endless"]["error"] == "not done in 3 s"

    # Parts that did not begin are told, too.
    out = tmp_path / "late.jsonl"
    late = run_parts({"endless": endless, "good": good}, PLACE, out, jobs=1, seconds=1)
    assert late == ["endless", "good"]
    assert [line["part"] for line in findings(out) if "ok" in line] == late
