"""Checkpoints of the hub, from a real HTTP server that fails, and what is refused."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.remote import RemoteShards
from rlsubnet.cli import main
from tests.checkpoints.hub_pair import INIT, TUNED, shard_requests
from tests.checkpoints.local_hub import LocalHub


@pytest.mark.parametrize(
    ("fault", "waits"),
    [
        (503, 1),
        (("busy", 3), 1),
        (("cut", 700), 1),
        (("cut", 0), 1),
        ("moved", 0),
    ],
)
def test_a_fault_of_the_network_changes_no_number(
    pair_hub, hub_folders, pauses, tmp_path, fault, waits
):
    assert main(["updates", *map(str, hub_folders), "--out", str(tmp_path / "here.csv")]) == 0
    for one in (pair_hub, *pair_hub.others):
        for name in one.files:
            one.faults[name] = [fault, None, fault]  # headers, then shards
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}", "--out", str(tmp_path / "there.csv")]) == 0
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert len(pauses) >= 2 * waits
    for path, authorization in pair_hub.authorizations:
        assert authorization == (None if path.startswith("/cdn/") else "Bearer hf_secret")


def test_a_cut_shard_is_continued_where_it_broke_off(pair_hub, pauses):
    name = "model-00001-of-00004.safetensors"
    pair_hub.faults[name] = [None, ("cut", 2000)]
    checkpoint = Checkpoint(RemoteShards(f"hf:{INIT}", report=lambda line: None))
    checkpoint.read("model.embed_tokens.weight")
    asked = [wanted for file, wanted in pair_hub.requests if file == name]
    assert len(asked) == 3
    assert asked[1] is None
    assert asked[2] == "bytes=1024-"  # the client writes pieces of 1024 bytes in these tests


@pytest.mark.parametrize("fault", [("corrupt", 2000), ("long", 10), ("short", 10)])
def test_a_shard_of_wrong_bytes_or_size_is_fetched_again(
    pair_hub, hub_folders, pauses, tmp_path, fault
):
    for one in (pair_hub, *pair_hub.others):
        for name in one.files:
            if name.endswith(".safetensors"):
                one.faults[name] = [None, fault]
    assert main(["updates", *map(str, hub_folders), "--out", str(tmp_path / "here.csv")]) == 0
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}", "--out", str(tmp_path / "there.csv")]) == 0
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert all(not one.faults[name] for one in (pair_hub, *pair_hub.others) for name in one.faults)


@pytest.mark.parametrize("fault", [("corrupt", 2000), ("long", 10)])
def test_bytes_that_are_not_those_listed_are_never_measured(
    pair_hub, pauses, tmp_path, fault, capsys
):
    name = "model-00001-of-00004.safetensors"  # one of the last to be fetched
    pair_hub.faults[name] = [None, *[fault] * 20]
    out = tmp_path / "u.csv"
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}", "--out", str(out)]) == 1
    assert name in capsys.readouterr().err
    assert not out.exists()
    # The next call has what it needs, and goes on where this one ended.
    pair_hub.faults.clear()
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}", "--out", str(out)]) == 0
    assert "measured before, not read again" in capsys.readouterr().err


def test_a_header_that_was_corrupted_is_found_with_the_whole_shard(
    pair_hub, pauses, capsys, tmp_path
):
    for name in list(pair_hub.files):
        if name.endswith(".safetensors"):
            at = pair_hub.files[name].index(b"format")
            pair_hub.faults[name] = [("corrupt", at)]
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}"]) == 1
    assert "its header is not what was sent first" in capsys.readouterr().err


REFUSALS: dict[str, tuple[Callable[[LocalHub], Any], str]] = {
    "no such repository": (
        lambda pair_hub: setattr(pair_hub, "name", "org/other"),
        "no such repository",
    ),
    "gated": (
        lambda pair_hub: pair_hub.faults.update({"model-00001-of-00004.safetensors": ["gated"]}),
        "gated; accept its terms",
    ),
    "bin": (
        lambda pair_hub: setattr(
            pair_hub, "files", {"config.json": b"{}", "pytorch_model.bin": b"x"}
        ),
        "holds pytorch_model.bin and no safetensors; bring it here with `rlsubnet download`",
    ),
    "header": (
        lambda pair_hub: pair_hub.files.update({"model-00001-of-00004.safetensors": b"\xff" * 100}),
        "model-00001-of-00004.safetensors: not a complete safetensors file",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_read_is_refused_before_a_shard_is_fetched(pair_hub, pauses, capsys, case):
    change, message = REFUSALS[case]
    change(pair_hub)
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}"]) == 1
    assert message in capsys.readouterr().err
    assert shard_requests(pair_hub) == []


def test_a_disk_without_room_is_refused_before_a_shard_is_fetched(pair_hub, monkeypatch, capsys):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 10, 0))
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}"]) == 1
    assert "0.0 GB are free" in capsys.readouterr().err
    assert shard_requests(pair_hub) == []


def test_a_killed_process_leaves_a_shard_that_the_next_one_continues(
    pair_hub, hub_folders, tmp_path, capsys
):
    name = "model-00001-of-00004.safetensors"
    pair_hub.faults[name] = [None, ("stall", 900)]
    command = [sys.executable, "-m", "rlsubnet.cli", "updates", f"hf:{INIT}", f"hf:{TUNED}"]
    environment = os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    assert pair_hub.stalled.wait(60)
    process.kill()
    process.wait()
    # The client writes pieces of 10 MB; of a shard as small as this one it has not written any.
    (gathered,) = (tmp_path / "cache").glob(f"*/{name}*.incomplete")
    gathered.write_bytes(pair_hub.files[name][:900])
    pair_hub.requests.clear()
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}"]) == 0
    assert (name, "bytes=900-") in pair_hub.requests
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_processes_do_not_share_a_folder(pair_hub):
    shards = [RemoteShards(f"hf:{INIT}", report=lambda line: None) for _ in range(2)]
    assert shards[0].folder != shards[1].folder
    shards[0].close()
    assert not shards[0].folder.exists()
    again = RemoteShards(f"hf:{INIT}", report=lambda line: None)
    assert again.folder == shards[0].folder
