"""Checkpoints of the hub, shard by shard, from a real HTTP server that fails now and then."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rlsubnet.checkpoints.compare import pair_checkpoints
from rlsubnet.checkpoints.delta_file import Delta
from rlsubnet.checkpoints.remote import RemoteCheckpoint, RemoteShards, parse_source
from rlsubnet.checkpoints.store import Checkpoint
from rlsubnet.checkpoints.update_pass import parts_of, visit_of
from rlsubnet.checkpoints.visiting import visiting_order
from rlsubnet.cli import main
from rlsubnet.commands._delta_summary import as_json
from tests.checkpoints.checkpoint_files import nudge
from tests.checkpoints.local_hub import COMMIT, LocalHub, serve

LAYERS = 6
INIT, TUNED = "org/init", "org/tuned"


def model() -> dict[str, torch.Tensor]:
    """Six layers in the order of a state dict."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens.weight": (40, 16)}
    for layer in range(LAYERS):
        for part, shape in (("mlp.up_proj", (64, 16)), ("input_layernorm", (16,))):
            shapes[f"model.layers.{layer}.{part}.weight"] = shape
    shapes |= {"model.norm.weight": (16,), "lm_head.weight": (40, 16)}
    return {
        name: (0.02 * torch.randn(shape, generator=generator)).bfloat16()
        for name, shape in shapes.items()
    }


def write_shards(folder: Path, weights: dict[str, torch.Tensor], groups: list[list[str]]) -> Path:
    """Write a sharded checkpoint with the tensors of each group in one file."""
    folder.mkdir(parents=True)
    weight_map = {}
    for number, names in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file({name: weights[name] for name in names}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"tie_word_embeddings": false}')
    (folder / "tokenizer.json").write_text(json.dumps({"of": folder.name}))
    return folder


def in_groups(names: list[str], size: int) -> list[list[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A pair whose shards are cut at different places, the tuned one in order of name."""
    before = model()
    return (
        write_shards(tmp_path / "local" / "init", before, in_groups(list(before), 4)),
        write_shards(tmp_path / "local" / "tuned", nudge(before), in_groups(sorted(before), 5)),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[LocalHub]:
    monkeypatch.setenv("RLSUBNET_CACHE", str(tmp_path / "cache"))
    tuned = LocalHub(contents(folders[1]), name=TUNED)
    with serve(
        LocalHub(contents(folders[0]), name=INIT, others=[tuned]), monkeypatch, tmp_path
    ) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record the waits between attempts, instead of waiting."""
    seconds: list[float] = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


def shard_requests(hub: LocalHub) -> list[str]:
    """Return which shards were asked for as a whole, in order."""
    return [
        name
        for name, wanted in hub.requests
        if name.endswith(".safetensors") and not (wanted or "").startswith("bytes=0-")
    ]


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


def test_every_command_writes_what_it_writes_of_folders(
    hub: LocalHub, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for here, there in zip(
        commands(*map(str, folders), tmp_path / "here"),
        commands(f"hf:{INIT}", f"hf:{TUNED}@main", tmp_path / "there"),
        strict=True,
    ):
        assert main(here) == 0
        for one in (hub, *hub.others):
            one.requests.clear()
        assert main(there) == 0
        for one in (hub, *hub.others):
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
    assert contents(tmp_path / "out") == contents(folders[1])


def test_a_card_and_the_ranks_fetch_every_shard_once_too(
    hub: LocalHub, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    for command, part in (("card", r"<nav.*(?=<section id=.about)"), ("rank", ".*")):
        results = []
        for place, pair in (("here", map(str, folders)), ("there", (f"hf:{INIT}", f"hf:{TUNED}"))):
            for one in (hub, *hub.others):
                one.requests.clear()
            out = tmp_path / f"{command}-{place}"
            assert main([command, *pair, "--out", str(out)]) == 0
            results += re.findall(part, out.read_text(encoding="utf-8"), re.DOTALL)[:1]
        assert results[0] == results[1]
        for one in (hub, *hub.others):
            shards = [name for name in one.files if name.endswith(".safetensors")]
            assert sorted(shard_requests(one)) == sorted(shards)


def test_commands_without_a_plan_read_them_too(
    hub: LocalHub, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    mask = str(tmp_path / "m")
    assert main(["mask", f"hf:{INIT}", f"hf:{TUNED}", "--out", mask]) == 0
    results = []
    for pair in (map(str, folders), (f"hf:{INIT}", f"hf:{TUNED}")):
        out = tmp_path / f"{len(results)}.csv"
        assert main(["frozen", *pair, "--mask", mask, "--out", str(out)]) == 0
        results.append(out.read_bytes())
    assert results[0] == results[1]


def test_few_shards_lie_on_the_disk_at_a_time(
    hub: LocalHub, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = [
        RemoteCheckpoint(RemoteShards(f"hf:{name}", report=lambda line: None))
        for name in (INIT, TUNED)
    ]
    pair = pair_checkpoints(*sides)
    parts = parts_of(pair)
    visit = visit_of(pair, parts)
    most = [0, 0]
    for place, number in enumerate(visit.order):
        visit.bring(place)
        for index, side in enumerate(sides):
            found = set(side.shards.folder.glob("*.safetensors"))
            most[index] = max(most[index], len(found))
            assert {side.tensors[name].file for name in parts[number]} <= found
    visit.end()
    # The tuned side is sorted by name, the other one is not: some of both must wait.
    assert most[0] <= 3
    assert most[1] <= 2
    assert not any(
        path.suffix == ".safetensors" for side in sides for path in side.shards.folder.iterdir()
    )


def test_layouts_that_are_the_same_need_one_shard_of_each() -> None:
    a, b = [Path(f"a{i}") for i in range(30)], [Path(f"b{i}") for i in range(30)]
    sizes = dict.fromkeys((*a, *b), 5)
    parts = [(x, y) for x, y in zip(a, b, strict=True)]
    assert visiting_order(parts[::-1], sizes) == list(range(30))
    # Cut at other places: 20 against 30 shards; a shard and the next one of each side at most.
    overlapping = sorted(
        {(a[i // 3], b[i // 2]) for i in range(60)}, key=lambda p: int(p[1].name[1:])
    )
    order, held, most = visiting_order(overlapping, sizes), set(), 0
    for place, number in enumerate(order):
        needed = {file for i in order[place:] for file in overlapping[i]}
        held = (held & needed) | set(overlapping[number])
        most = max(most, len(held))
    assert most <= 3


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
    hub: LocalHub,
    folders: tuple[Path, Path],
    pauses: list[float],
    tmp_path: Path,
    fault: Any,
    waits: int,
) -> None:
    assert main(["updates", *map(str, folders), "--out", str(tmp_path / "here.csv")]) == 0
    for one in (hub, *hub.others):
        for name in one.files:
            one.faults[name] = [fault, None, fault]  # headers, then shards
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}", "--out", str(tmp_path / "there.csv")]) == 0
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert len(pauses) >= 2 * waits
    for path, authorization in hub.authorizations:
        assert authorization == (None if path.startswith("/cdn/") else "Bearer hf_secret")


def test_a_cut_shard_is_continued_where_it_broke_off(hub: LocalHub, pauses: list[float]) -> None:
    name = "model-00001-of-00004.safetensors"
    hub.faults[name] = [None, ("cut", 2000)]
    checkpoint = RemoteCheckpoint(RemoteShards(f"hf:{INIT}", report=lambda line: None))
    checkpoint.read("model.embed_tokens.weight")
    asked = [wanted for file, wanted in hub.requests if file == name]
    assert len(asked) == 3
    assert asked[1] is None
    assert asked[2] == "bytes=1024-"  # the client writes pieces of 1024 bytes in these tests


@pytest.mark.parametrize("fault", [("corrupt", 2000), ("long", 10), ("short", 10)])
def test_a_shard_of_wrong_bytes_or_size_is_fetched_again(
    hub: LocalHub, folders: tuple[Path, Path], pauses: list[float], tmp_path: Path, fault: Any
) -> None:
    for one in (hub, *hub.others):
        for name in one.files:
            if name.endswith(".safetensors"):
                one.faults[name] = [None, fault]
    assert main(["updates", *map(str, folders), "--out", str(tmp_path / "here.csv")]) == 0
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}", "--out", str(tmp_path / "there.csv")]) == 0
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    assert all(not one.faults[name] for one in (hub, *hub.others) for name in one.faults)


@pytest.mark.parametrize("fault", [("corrupt", 2000), ("long", 10)])
def test_bytes_that_are_not_those_listed_are_never_measured(
    hub: LocalHub,
    pauses: list[float],
    tmp_path: Path,
    fault: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = "model-00001-of-00004.safetensors"  # one of the last to be fetched
    hub.faults[name] = [None, *[fault] * 20]
    out = tmp_path / "u.csv"
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}", "--out", str(out)]) == 1
    assert name in capsys.readouterr().err
    assert not out.exists()
    # The next call has what it needs, and goes on where this one ended.
    hub.faults.clear()
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}", "--out", str(out)]) == 0
    assert "measured before, not read again" in capsys.readouterr().err


def test_a_header_that_was_corrupted_is_found_with_the_whole_shard(
    hub: LocalHub, pauses: list[float], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name in list(hub.files):
        if name.endswith(".safetensors"):
            at = hub.files[name].index(b"format")
            hub.faults[name] = [("corrupt", at)]
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}"]) == 1
    assert "its header is not what was sent first" in capsys.readouterr().err


REFUSALS: dict[str, tuple[Callable[[LocalHub], Any], str]] = {
    "no such repository": (lambda hub: setattr(hub, "name", "org/other"), "no such repository"),
    "gated": (
        lambda hub: hub.faults.update({"model-00001-of-00004.safetensors": ["gated"]}),
        "gated; accept its terms",
    ),
    "bin": (
        lambda hub: setattr(hub, "files", {"config.json": b"{}", "pytorch_model.bin": b"x"}),
        "holds pytorch_model.bin and no safetensors; bring it here with `rlsubnet download`",
    ),
    "header": (
        lambda hub: hub.files.update({"model-00001-of-00004.safetensors": b"\xff" * 100}),
        "model-00001-of-00004.safetensors: not a complete safetensors file",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_read_is_refused_before_a_shard_is_fetched(
    hub: LocalHub, pauses: list[float], capsys: pytest.CaptureFixture[str], case: str
) -> None:
    change, message = REFUSALS[case]
    change(hub)
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}"]) == 1
    assert message in capsys.readouterr().err
    assert shard_requests(hub) == []


def test_a_disk_without_room_is_refused_before_a_shard_is_fetched(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 10, 0))
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}"]) == 1
    assert "0.0 GB are free" in capsys.readouterr().err
    assert shard_requests(hub) == []


def test_a_killed_process_leaves_a_shard_that_the_next_one_continues(
    hub: LocalHub, folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "model-00001-of-00004.safetensors"
    hub.faults[name] = [None, ("stall", 900)]
    command = [sys.executable, "-m", "rlsubnet.cli", "updates", f"hf:{INIT}", f"hf:{TUNED}"]
    environment = os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    assert hub.stalled.wait(60)
    process.kill()
    process.wait()
    # The client writes pieces of 10 MB; of a shard as small as this one it has not written any.
    (gathered,) = (tmp_path / "cache").glob(f"*/{name}*.incomplete")
    gathered.write_bytes(hub.files[name][:900])
    hub.requests.clear()
    assert main(["updates", f"hf:{INIT}", f"hf:{TUNED}"]) == 0
    assert (name, "bytes=900-") in hub.requests
    assert list((tmp_path / "cache").iterdir()) == []


def test_two_processes_do_not_share_a_folder(hub: LocalHub) -> None:
    shards = [RemoteShards(f"hf:{INIT}", report=lambda line: None) for _ in range(2)]
    assert shards[0].folder != shards[1].folder
    shards[0].close()
    assert not shards[0].folder.exists()
    again = RemoteShards(f"hf:{INIT}", report=lambda line: None)
    assert again.folder == shards[0].folder


def test_the_digest_is_that_of_the_folder(hub: LocalHub, folders: tuple[Path, Path]) -> None:
    remote = RemoteCheckpoint(RemoteShards(f"hf:{INIT}", report=lambda line: None))
    assert remote.digest() == Checkpoint(folders[0]).digest()


@pytest.mark.parametrize("source", ["hf:", "hf:a/b/c", "hf:a//b", "hf:a/b@"])
def test_a_source_that_names_nothing_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="expected hf:organization/name"):
        parse_source(source)
