"""Published data sets: fetched or linked, read in four formats, adapted."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlsubnet.cli import main
from rlsubnet.files import read_jsonl, write_jsonl
from rlsubnet.tasks.rows import read_rows
from tests.checkpoints.local_hub import COMMIT, REPOSITORY, LocalHub, serve

PAIR = {
    "id": "a",
    "source": "s",
    "prompt": "2+2?",
    "chosen": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}],
    "rejected": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "5"}],
}
TULU = {"kind": "tulu_preferences", "source": "here"}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: extra paper")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_as(path: Path, rows: list[dict[str, Any]]) -> None:
    match path.suffix:
        case ".parquet":
            write_parquet(path, rows)
        case ".jsonl":
            write_jsonl(path, rows)
        case ".json":
            path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
        case ".csv":
            header = ",".join(rows[0])
            lines = [",".join(str(value) for value in row.values()) for row in rows]
            path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json", ".csv"])
def test_rows_of_every_format_arrive_in_order(tmp_path: Path, suffix: str) -> None:
    rows = [{"id": "a", "text": "2+2?"}, {"id": "b", "text": "3+3?"}]
    write_as(tmp_path / f"data{suffix}", rows)
    found = list(read_rows(tmp_path))
    assert [row for _, row in found] == rows
    assert found[1][0] == f"{tmp_path / f'data{suffix}'}, row 2"


def adapt(tmp_path: Path, spec: dict[str, Any], source: Path) -> int:
    words = ["--spec", json.dumps(spec), "--source", str(source)]
    return main(["adapt", "d", *words, "--out", str(tmp_path / "d.jsonl")])


def test_a_preference_mixture_keeps_its_order_and_nothing_but_the_pairs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two shards, as on the hub: the second must come second.
    write_parquet(tmp_path / "in/data/train-00000-of-00002.parquet", [PAIR, PAIR | {"id": "b"}])
    write_parquet(tmp_path / "in/data/train-00001-of-00002.parquet", [PAIR | {"id": "c"}])
    assert adapt(tmp_path, TULU, tmp_path / "in") == 0
    records = read_jsonl(tmp_path / "d.jsonl")
    assert [record["id"] for record in records] == ["a", "b", "c"]
    assert records[0] == {key: PAIR[key] for key in ("id", "chosen", "rejected")}
    output = capsys.readouterr().out
    assert "row 1: {id: text, source: text, prompt: text, chosen: list of 2 {" in output
    assert "d: 3 records of kind tulu_preferences, sha256 " in output


def test_a_row_that_is_no_pair_stops_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "in.jsonl", [PAIR, PAIR | {"rejected": []}])
    assert adapt(tmp_path, TULU, tmp_path / "in.jsonl") == 1
    error = capsys.readouterr().err
    assert "in.jsonl, row 2: rejected: expected a list of messages, found []" in error
    assert not (tmp_path / "d.jsonl").exists()


def test_rollouts_become_pairs_and_say_what_was_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"q": "2+2?", "a": ["4", "5"], "ok": [1, 0]}, {"q": "1+1?", "a": ["3"], "ok": [0]}]
    write_parquet(tmp_path / "in/rollouts.parquet", rows)
    columns = {"prompt": "q", "response": "a", "correct": "ok"}
    spec = {"kind": "rollout_pairs", "source": "here", "columns": columns, "seed": 1}
    assert adapt(tmp_path, spec, tmp_path / "in") == 0
    [record] = read_jsonl(tmp_path / "d.jsonl")
    assert record["chosen"] == [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
    ]
    output = capsys.readouterr().out
    assert "row 1: {q: text, a: list of 2 text, ok: list of 2 number}" in output
    assert "1 pairs from 3 answers to 2 prompts; dropped: 0 prompts with every answer" in output


def test_evaluation_items_are_chosen_by_their_columns(tmp_path: Path) -> None:
    rows = [
        {"question": "2+2?", "category": "math", "question_id": 70},
        {"question": "Who?", "category": "law", "question_id": 71},
    ]
    write_jsonl(tmp_path / "in.jsonl", rows)
    spec = {
        **{"kind": "eval_items", "source": "here", "where": {"category": "math"}},
        "columns": {"prompt": "question", "id": "question_id"},
    }
    assert adapt(tmp_path, spec, tmp_path / "in.jsonl") == 0
    assert read_jsonl(tmp_path / "d.jsonl") == [{"id": "70", "prompt": "2+2?"}]


def test_a_file_without_records_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "in.jsonl", [])
    assert adapt(tmp_path, TULU, tmp_path / "in.jsonl") == 1
    assert "no record came out of" in capsys.readouterr().err
    assert not (tmp_path / "d.jsonl").exists()
    (tmp_path / "empty").mkdir()
    assert adapt(tmp_path, TULU, tmp_path / "empty") == 1
    assert "no file that ends in .parquet, .jsonl, .json, .csv" in capsys.readouterr().err


def fetch(spec: dict[str, Any], out: Path) -> int:
    return main(["fetch", "--spec", json.dumps(spec), "--out", str(out)])


@pytest.fixture
def dataset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalHub]:
    """Serve a data set with one file in a folder; the command finds it as the hub."""
    from rlsubnet.tasks import rows

    files = {"README.md": b"a card", "data/pairs.jsonl": json.dumps(PAIR).encode() + b"\n"}
    with serve(LocalHub(files, kind="datasets"), monkeypatch, tmp_path) as hub:
        here = functools.partial(rows.fetch, endpoint=hub.address, waits=(0.0, 0.0))
        monkeypatch.setattr(rows, "fetch", here)
        yield hub


HUB = {"kind": "tulu_preferences", "source": f"hf:{REPOSITORY}", "files": "*.jsonl"}


def test_a_data_set_is_fetched_once_checked_and_recorded(
    dataset: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sources" / "d"
    assert fetch(HUB, out) == 0
    assert dataset.fetched() == ["data/pairs.jsonl"]
    record = json.loads((out / "download.json").read_text(encoding="utf-8"))
    assert (record["commit"], list(record["files"])) == (COMMIT, ["data/pairs.jsonl"])
    assert fetch(HUB, out) == 0
    assert dataset.fetched() == ["data/pairs.jsonl"]
    assert "complete, nothing to do" in capsys.readouterr().out
    # Its record lies beside it and is no row.
    assert adapt(tmp_path, TULU, out) == 0
    assert len(read_jsonl(tmp_path / "d.jsonl")) == 1


def test_a_transient_failure_is_tried_again(dataset: LocalHub, tmp_path: Path) -> None:
    dataset.faults["data/pairs.jsonl"] = [503, 503]
    assert fetch(HUB, tmp_path / "d") == 0
    assert dataset.fetched() == ["data/pairs.jsonl"] * 3
    assert (tmp_path / "d/data/pairs.jsonl").read_bytes() == dataset.files["data/pairs.jsonl"]


def test_a_pattern_that_chooses_nothing_readable_says_what_there_is(
    dataset: LocalHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(HUB | {"files": "*.parquet"}, tmp_path / "d") == 1
    assert "found README.md, data/pairs.jsonl" in capsys.readouterr().err
    assert fetch(HUB | {"files": "*"}, tmp_path / "d") == 1
    assert "found README.md" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_a_folder_or_a_file_is_linked(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "mine/more/pairs.jsonl", [PAIR])
    for source in ("mine", "mine/more/pairs.jsonl"):
        out = tmp_path / "out" / source.replace("/", "-")
        assert fetch(TULU | {"source": str(tmp_path / source), "files": "*"}, out) == 0
        assert [row for _, row in read_rows(out)] == [PAIR]


def test_a_source_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(TULU | {"source": str(tmp_path / "nowhere")}, tmp_path / "d") == 1
    assert "nowhere: no such file or folder" in capsys.readouterr().err
