"""Files are complete or absent."""

import errno
import os
import stat

import pytest

from rlsubnet.files import read_jsonl, replacing, sha256, write_csv, write_json, write_jsonl


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "weights.bin"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("disk full")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_replaces_a_folder_as_a_whole(tmp_path):
    target = tmp_path / "final"
    target.mkdir()
    (target / "stale").write_text("old")
    with replacing(target) as temporary:
        temporary.mkdir()
        (temporary / "fresh").write_text("new")
        assert (target / "stale").exists(), "the old folder stands until the new one is whole"
    assert [path.name for path in target.iterdir()] == ["fresh"]


def test_a_block_that_makes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file"):
        pass


def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path):
    # To root, /dev/null is a name like any other: a rename would remove the device.
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match=r"pipe: expected the path of a file or folder"):
        write_json(pipe, {})
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_link_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    for name in ("results.json", "final"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    write_json(tmp_path / "results.json", 1)
    for _ in range(2):
        with replacing(tmp_path / "final") as temporary:
            temporary.mkdir()
    assert (tmp_path / "results.json").is_symlink()
    assert (tmp_path / "final").is_symlink()
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["final", "results.json"]


def test_a_full_disk_names_the_file(tmp_path):
    with (
        pytest.raises(OSError, match=r"No space left.*weights\.bin"),
        replacing(tmp_path / "weights.bin") as temporary,
    ):
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_a_row_with_another_column_writes_no_file(tmp_path):
    path = tmp_path / "rows.csv"
    with pytest.raises(ValueError, match=r"rows\.csv, row 1: .*\['c'\]"):
        write_csv(path, [{"a": 1, "b": 2}, {"a": 1, "b": 2, "c": 3}], ["a", "b"])
    assert not path.exists()


def test_rows_come_back_from_json_lines(tmp_path):
    records = [{"prompt": "1+1=", "level": 1}, {"prompt": "é"}]
    write_jsonl(tmp_path / "data.jsonl", records)
    assert read_jsonl(tmp_path / "data.jsonl") == records


@pytest.mark.parametrize("line", [b"{", b"[1]", b'"text"', b'{"a": "\xff"}'])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(ValueError, match=r"data\.jsonl, line 2"):
        read_jsonl(path)


def test_json_is_the_same_text_whatever_the_order_of_keys(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1, "y": 2})
    write_json(tmp_path / "b.json", {"y": 2, "x": 1})
    assert sha256(tmp_path / "a.json") == sha256(tmp_path / "b.json")
