"""Checkpoints of the hub, read shard by shard: what commands write, what lies on the disk."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta_file import Delta
from rlsubnet.checkpoints.differ import tensors_by_part
from rlsubnet.checkpoints.pair import pair_checkpoints
from rlsubnet.checkpoints.remote import RemoteShards, parse_source
from rlsubnet.checkpoints.sources import fetch_order
from rlsubnet.cli import main
from rlsubnet.commands.delta import as_json
from tests.checkpoints.checkpoint_files import contents, run
from tests.checkpoints.local_hub import COMMIT, INIT, TUNED, LocalHub, shard_requests


def in_any_order(delta: Delta) -> dict[str, Any]:
    """Return what a delta holds, but for the places of its tensors in the file."""
    found = as_json(delta)
    del found["bytes"], found["share_of_full"]
    for file in found["files"].values():
        del file["member"]
    return found | {"tensors": {entry["tensor"]: entry for entry in found["tensors"]}}


SHARD, REMOTE = "model-00001-of-00004.safetensors", (f"hf:{INIT}", f"hf:{TUNED}")


def opened() -> Checkpoint:
    return Checkpoint(RemoteShards(f"hf:{INIT}", report=lambda line: None))


def sides_of(hub: LocalHub) -> list[LocalHub]:
    return [hub, *hub.others]


def assert_every_shard_came_once(hub: LocalHub) -> None:
    """Whatever order its tensors are wanted in; then forget what was asked for."""
    for side in sides_of(hub):
        shards = [name for name in side.files if name.endswith(".safetensors")]
        assert sorted(shard_requests(side)) == sorted(shards)
        side.requests.clear()


def test_every_command_writes_what_it_writes_of_folders(pair_hub, hub_folders, tmp_path, capsys):
    for place, (init, tuned) in (
        ("here", hub_folders),
        ("there", (REMOTE[0], f"{REMOTE[1]}@main")),
    ):
        folder = tmp_path / place
        for command in (
            ["updates", init, tuned, "--out", folder / "u.csv", "--mask", folder / "u.mask"],
            ["mask", init, tuned, "--rule", "official", "--out", folder / "m.mask"],
            ["delta", "pack", init, tuned, "--out", folder / "x.delta"],
            ["rank", init, tuned, "--out", folder / "r.csv"],
            ["card", init, tuned, "--out", folder / "card.html"],
        ):
            run(*command)
            if place == "there":
                assert_every_shard_came_once(pair_hub)
        # Commands that read in no planned order.
        mask = folder / "u.mask"
        run("frozen", init, tuned, "--mask", mask, "--out", folder / "f.csv")
        run("overlap", mask, folder / "m.mask", "--init", init, "--out", folder / "o.csv")
        for side in sides_of(pair_hub):
            side.requests.clear()
    here, there = (contents(tmp_path / place) for place in ("here", "there"))
    for made in (here, there):  # tensors lie in the order in which their shards came
        (tmp_path / "x.delta").write_bytes(made["x.delta"])
        made["x.delta"] = in_any_order(Delta(tmp_path / "x.delta"))
        card = made["card.html"].decode()
        made["card.html"] = re.findall(r"<nav.*(?=<section id=.about)", card, re.DOTALL)
    assert here == there
    assert b"per_magnitude" in there["o.csv"]
    # Nothing stays behind.
    assert list((tmp_path / "cache").iterdir()) == []
    printed = capsys.readouterr()
    assert f"hf:{INIT}@{COMMIT}: 4 of 4 shards" in printed.err
    assert "digest matches" in printed.err
    run("delta", "unpack", REMOTE[0], tmp_path / "there" / "x.delta", "--out", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(hub_folders[1])


def test_few_shards_lie_on_the_disk_at_a_time(pair_hub):
    pair = pair_checkpoints(*(Checkpoint(RemoteShards(name, lambda line: None)) for name in REMOTE))
    sides, most = (pair.init, pair.tuned), [0, 0]
    for names in tensors_by_part(pair):
        for index, side in enumerate(sides):
            found = set(side.source.folder.glob("*.safetensors"))
            most[index] = max(most[index], len(found))
            assert {side.tensors[name].file for name in names} <= found
    # The tuned side is sorted by name, the other one is not: some of both must wait.
    assert most[0] <= 3
    assert most[1] <= 2
    assert not any(list(side.source.folder.glob("*.safetensors")) for side in sides)


def test_layouts_that_are_the_same_need_one_shard_of_each():
    a, b = [Path(f"a{i}") for i in range(30)], [Path(f"b{i}") for i in range(30)]
    sizes = dict.fromkeys((*a, *b), 5)
    parts = [(x, y) for x, y in zip(a, b, strict=True)]
    assert fetch_order(parts[::-1], sizes) == list(range(30))


def test_the_digest_is_that_of_the_folder(pair_hub, hub_folders):
    remote = opened()
    assert remote.digest() == Checkpoint(hub_folders[0]).digest()
    # Names in order lie in shards out of order; even so each of them came once.
    assert len(shard_requests(pair_hub)) == len(remote.source.shards) == 4


@pytest.mark.parametrize("source", ["hf:", "hf:a/b/c", "hf:a//b", "hf:a/b@"])
def test_a_source_that_names_nothing_is_refused(source):
    with pytest.raises(ValueError, match="expected hf:organization/name"):
        parse_source(source)


@pytest.mark.parametrize(
    ("fault", "waits"), [(503, 1), (("busy", 3), 1), (("cut", 700), 1), ("moved", 0)]
)
def test_a_fault_of_the_network_changes_no_number(
    pair_hub, hub_folders, pauses, tmp_path, fault, waits
):
    run("updates", *hub_folders, "--out", tmp_path / "here.csv")
    for side in sides_of(pair_hub):
        side.faults |= {name: [fault, None, fault] for name in side.files}  # headers, then shards
    run("updates", *REMOTE, "--out", tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert len(pauses) >= 2 * waits
    for path, authorization in pair_hub.authorizations:
        assert authorization == (None if path.startswith("/cdn/") else "Bearer hf_secret")


def test_a_cut_shard_is_continued_where_it_broke_off(pair_hub, pauses):
    pair_hub.faults[SHARD] = [None, ("cut", 2000)]
    opened().read("model.embed_tokens.weight")
    asked = [wanted for file, wanted in pair_hub.requests if file == SHARD]
    # The client writes pieces of 1024 bytes in these tests.
    assert asked[1:] == [None, "bytes=1024-"]


@pytest.mark.parametrize("fault", [("corrupt", 2000), ("short", 10)])
def test_a_shard_of_wrong_bytes_or_size_is_fetched_again(
    pair_hub, hub_folders, pauses, tmp_path, fault
):
    for side in sides_of(pair_hub):
        side.faults |= {n: [None, fault] for n in side.files if n.endswith(".safetensors")}
    run("updates", *hub_folders, "--out", tmp_path / "here.csv")
    run("updates", *REMOTE, "--out", tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert not any(faults for side in sides_of(pair_hub) for faults in side.faults.values())


@pytest.mark.parametrize("fault", [("corrupt", 2000), ("long", 10)])
def test_bytes_that_are_not_those_listed_are_never_measured(
    pair_hub, pauses, tmp_path, fault, capsys
):
    pair_hub.faults[SHARD] = [None, *[fault] * 20]  # one of the last to be fetched
    out = tmp_path / "u.csv"
    assert main(["updates", *REMOTE, "--out", str(out)]) == 1
    assert SHARD in capsys.readouterr().err
    assert not out.exists()
    # The next call has what it needs, and goes on where this one ended.
    pair_hub.faults.clear()
    run("updates", *REMOTE, "--out", out)
    assert "measured before, not read again" in capsys.readouterr().err


def test_a_header_that_was_corrupted_is_found_with_the_whole_shard(pair_hub, pauses, capsys):
    for name, content in pair_hub.files.items():
        if name.endswith(".safetensors"):
            pair_hub.faults[name] = [("corrupt", content.index(b"format"))]
    assert main(["updates", *REMOTE]) == 1
    assert "its header is not what was sent first" in capsys.readouterr().err


REFUSALS: dict[str, tuple[Callable[[LocalHub], Any], str]] = {
    "gated": (lambda hub: hub.faults.update({SHARD: ["gated"]}), "gated; accept its terms"),
    "bin": (
        lambda hub: setattr(hub, "files", {"config.json": b"{}", "pytorch_model.bin": b"x"}),
        "holds pytorch_model.bin and no safetensors; bring it here with `rlsubnet download`",
    ),
    "header": (
        lambda hub: hub.files.update({SHARD: b"\xff" * 100}),
        f"{SHARD}: not a complete safetensors file",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_read_is_refused_before_a_shard_is_fetched(pair_hub, pauses, capsys, case):
    change, message = REFUSALS[case]
    change(pair_hub)
    assert main(["updates", *REMOTE]) == 1
    assert message in capsys.readouterr().err
    assert shard_requests(pair_hub) == []


def test_a_disk_without_room_is_refused_before_a_shard_is_fetched(pair_hub, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    assert main(["updates", *REMOTE]) == 1
    assert "0.0 GB are free" in capsys.readouterr().err
    assert shard_requests(pair_hub) == []


def test_a_killed_process_leaves_a_shard_that_the_next_one_continues(pair_hub, tmp_path):
    pair_hub.faults[SHARD] = [None, ("stall", 900)]
    command = [sys.executable, "-m", "rlsubnet.cli", "updates", *REMOTE]
    environment = os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    assert pair_hub.stalled.wait(60)
    process.kill()
    process.wait()
    # The client writes pieces of 10 MB; of a shard as small as this one it has not written any.
    (gathered,) = (tmp_path / "cache").glob(f"*/{SHARD}*.incomplete")
    gathered.write_bytes(pair_hub.files[SHARD][:900])
    pair_hub.requests.clear()
    run("updates", *REMOTE)
    assert (SHARD, "bytes=900-") in pair_hub.requests
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_processes_do_not_share_a_folder(pair_hub):
    first, second = opened().source, opened().source
    assert first.folder != second.folder
    first.close()
    assert not first.folder.exists()
    assert opened().source.folder == first.folder
