"""Checkpoints of the hub, read shard by shard: what commands write, what lies on the disk."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta_file import Delta
from rlsubnet.checkpoints.differ import parts_of, schedule_of
from rlsubnet.checkpoints.pair import pair_checkpoints
from rlsubnet.checkpoints.remote import RemoteShards, parse_source
from rlsubnet.checkpoints.sources import fetch_order
from rlsubnet.cli import main
from rlsubnet.commands.delta import as_json
from tests.checkpoints.checkpoint_files import contents
from tests.checkpoints.hub_pair import INIT, TUNED, shard_requests
from tests.checkpoints.local_hub import COMMIT, LocalHub


def in_any_order(delta: Delta) -> dict[str, Any]:
    """Return what a delta holds, but for the places of its tensors in the file."""
    found = as_json(delta)
    del found["bytes"], found["share_of_full"]
    for file in found["files"].values():
        del file["member"]
    return found | {"tensors": {entry["tensor"]: entry for entry in found["tensors"]}}


def commands(init: str, tuned: str, folder: Path) -> list[list[str]]:
    return [
        ["updates", init, tuned, "--out", f"{folder}/u.csv", "--mask", f"{folder}/u.mask"],
        ["mask", init, tuned, "--rule", "official", "--out", f"{folder}/m.mask"],
        ["delta", "pack", init, tuned, "--out", f"{folder}/x.delta"],
    ]


def test_every_command_writes_what_it_writes_of_folders(pair_hub, hub_folders, tmp_path, capsys):
    for here, there in zip(
        commands(*map(str, hub_folders), tmp_path / "here"),
        commands(f"hf:{INIT}", f"hf:{TUNED}@main", tmp_path / "there"),
        strict=True,
    ):
        assert main(here) == 0
        for one in (pair_hub, *pair_hub.others):
            one.requests.clear()
        assert main(there) == 0
        for one in (pair_hub, *pair_hub.others):
            # Every shard came once, whatever order its tensors are wanted in.
            shards = [name for name in one.files if name.endswith(".safetensors")]
            assert sorted(shard_requests(one)) == sorted(shards)
    here, there = (contents(tmp_path / place) for place in ("here", "there"))
    for made in (here, there):  # tensors lie in the order in which their shards came
        (tmp_path / "x.delta").write_bytes(made["x.delta"])
        made["x.delta"] = in_any_order(Delta(tmp_path / "x.delta"))
    assert here == there
    # Nothing stays behind.
    assert list((tmp_path / "cache").iterdir()) == []
    printed = capsys.readouterr()
    assert f"hf:{INIT}@{COMMIT}: 4 of 4 shards" in printed.err
    assert "digest matches" in printed.err
    assert (
        main(
            [
                "delta",
                "unpack",
                f"hf:{INIT}",
                f"{tmp_path}/there/x.delta",
                "--out",
                f"{tmp_path}/out",
            ]
        )
        == 0
    )
    assert contents(tmp_path / "out") == contents(hub_folders[1])


def test_a_card_and_the_ranks_fetch_every_shard_once_too(pair_hub, hub_folders, tmp_path):
    for command, part in (("card", r"<nav.*(?=<section id=.about)"), ("rank", ".*")):
        results = []
        for place, pair in (
            ("here", map(str, hub_folders)),
            ("there", (f"hf:{INIT}", f"hf:{TUNED}")),
        ):
            for one in (pair_hub, *pair_hub.others):
                one.requests.clear()
            out = tmp_path / f"{command}-{place}"
            assert main([command, *pair, "--out", str(out)]) == 0
            results += re.findall(part, out.read_text(encoding="utf-8"), re.DOTALL)[:1]
        assert results[0] == results[1]
        for one in (pair_hub, *pair_hub.others):
            shards = [name for name in one.files if name.endswith(".safetensors")]
            assert sorted(shard_requests(one)) == sorted(shards)


def test_commands_without_a_plan_read_them_too(pair_hub, hub_folders, tmp_path):
    mask = str(tmp_path / "m")
    assert main(["mask", f"hf:{INIT}", f"hf:{TUNED}", "--out", mask]) == 0
    results = []
    for pair in (map(str, hub_folders), (f"hf:{INIT}", f"hf:{TUNED}")):
        out = tmp_path / f"{len(results)}.csv"
        assert main(["frozen", *pair, "--mask", mask, "--out", str(out)]) == 0
        results.append(out.read_bytes())
    assert results[0] == results[1]


def test_few_shards_lie_on_the_disk_at_a_time(pair_hub, hub_folders, monkeypatch):
    sides = [
        Checkpoint(RemoteShards(f"hf:{name}", report=lambda line: None)) for name in (INIT, TUNED)
    ]
    pair = pair_checkpoints(*sides)
    parts = parts_of(pair)
    most = [0, 0]
    for number in schedule_of(pair, parts):
        for index, side in enumerate(sides):
            found = set(side.source.folder.glob("*.safetensors"))
            most[index] = max(most[index], len(found))
            assert {side.tensors[name].file for name in parts[number]} <= found
    # The tuned side is sorted by name, the other one is not: some of both must wait.
    assert most[0] <= 3
    assert most[1] <= 2
    assert not any(
        path.suffix == ".safetensors" for side in sides for path in side.source.folder.iterdir()
    )


def test_layouts_that_are_the_same_need_one_shard_of_each():
    a, b = [Path(f"a{i}") for i in range(30)], [Path(f"b{i}") for i in range(30)]
    sizes = dict.fromkeys((*a, *b), 5)
    parts = [(x, y) for x, y in zip(a, b, strict=True)]
    assert fetch_order(parts[::-1], sizes) == list(range(30))
    # Cut at other places: 20 against 30 shards; a shard and the next one of each side at most.
    overlapping = sorted(
        {(a[i // 3], b[i // 2]) for i in range(60)}, key=lambda p: int(p[1].name[1:])
    )
    order, held, most = fetch_order(overlapping, sizes), set(), 0
    for place, number in enumerate(order):
        needed = {file for i in order[place:] for file in overlapping[i]}
        held = (held & needed) | set(overlapping[number])
        most = max(most, len(held))
    assert most <= 3


def test_the_digest_is_that_of_the_folder(pair_hub, hub_folders):
    remote = Checkpoint(RemoteShards(f"hf:{INIT}", report=lambda line: None))
    assert remote.digest() == Checkpoint(hub_folders[0]).digest()
    # Names in order lie in shards out of order; even so each of them came once.
    assert len(shard_requests(pair_hub)) == len(remote.source.shards) == 4


def test_an_overlap_takes_its_start_from_the_hub(pair_hub, hub_folders, tmp_path):
    mask = str(tmp_path / "mask")
    assert main(["mask", *map(str, hub_folders), "--out", mask]) == 0
    written = []
    for init in (str(hub_folders[0]), f"hf:{INIT}"):
        out = tmp_path / f"{len(written)}.csv"
        assert main(["overlap", mask, mask, "--init", init, "--out", str(out)]) == 0
        written.append(out.read_bytes())
    assert written[0] == written[1]
    assert b"per_magnitude" in written[0]


@pytest.mark.parametrize("source", ["hf:", "hf:a/b/c", "hf:a//b", "hf:a/b@"])
def test_a_source_that_names_nothing_is_refused(source):
    with pytest.raises(ValueError, match="expected hf:organization/name"):
        parse_source(source)


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
