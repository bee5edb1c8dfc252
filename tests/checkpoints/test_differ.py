"""The differ: threads, kernels and cuts never show in what it counts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.differ import Unfinished, diff_tensors
from rlsubnet.checkpoints.formats import encode_header
from rlsubnet.checkpoints.masks import Mask, hidden_beside, write_mask
from rlsubnet.checkpoints.pair import Pair, pair_checkpoints
from rlsubnet.cli import main
from rlsubnet.measure.kernel import Request
from rlsubnet.measure.sparsity import TOLERANCES, changed
from rlsubnet.threads import default_threads
from tests.checkpoints.checkpoint_files import make_weights, masks_of, nudge, write_checkpoint
from tests.measure.plain import plain_counts

REQUEST = Request(TOLERANCES, "official", 1e-5, by_exponent=True)
LARGE = "model.layers.0.mlp.up_proj.weight"


def large_pair(folder: Path, form: str = "sharded") -> Pair:
    """A pair with one tensor of 60,000 weights beside small ones."""
    generator = torch.Generator().manual_seed(5)
    init = make_weights() | {LARGE: (0.02 * torch.randn(200, 300, generator=generator)).bfloat16()}
    folders = (
        write_checkpoint(folder / "init", init, form),
        write_checkpoint(folder / "tuned", nudge(init), form),
    )
    return pair_checkpoints(*map(Checkpoint, folders))


@pytest.mark.parametrize("form", ["sharded", "bin"])
def test_threads_kernels_and_cuts_change_nothing(tmp_path, form):
    pair = large_pair(tmp_path, form)
    expected = {}
    for name in pair.shapes:
        arrays = [checkpoint.read(name).reshape(-1) for checkpoint in (pair.init, pair.tuned)]
        expected[name] = (
            plain_counts(*arrays, TOLERANCES),
            np.packbits(changed(*arrays, "official", 1e-5), bitorder="little").tobytes(),
        )
    for kernel in ("numpy", "numba"):
        for threads, chunk in ((1, 1 << 18), (2, 1000), (7, 64)):
            masks = {name: bytearray((pair.numel(name) + 7) // 8) for name in pair.shapes}

            def keep(name: str, start: int, bits: np.ndarray, masks=masks) -> None:
                masks[name][start // 8 : start // 8 + bits.size] = bits.tobytes()

            found = diff_tensors(
                pair, REQUEST, kernel=kernel, threads=threads, chunk=chunk, take_mask=keep
            )
            assert list(found) == list(pair.shapes)
            for name, (counts, mask) in expected.items():
                assert found[name].update_counts(TOLERANCES) == counts
                assert bytes(masks[name]) == mask


def test_all_bytes_are_reported_once(tmp_path):
    pair = large_pair(tmp_path)
    seen: list[int] = []
    diff_tensors(pair, REQUEST, threads=3, chunk=4096, take_progress=seen.append)
    assert sum(seen) == 2 * 2 * sum(map(pair.numel, pair.shapes))
    seen.clear()
    diff_tensors(pair, REQUEST, [LARGE], take_progress=seen.append)
    assert seen == [2 * 2 * 60_000]


@pytest.mark.parametrize("kernel", ["numpy", "numba"])
def test_the_first_bad_weight_is_named_whatever_thread_meets_it(tmp_path, kernel):
    weights = {"a": torch.zeros(100_000).bfloat16(), "b": torch.zeros(100_000).bfloat16()}
    init = write_checkpoint(tmp_path / "init", weights)
    for tensor, place in (("a", 70_001), ("a", 99_999), ("b", 3)):
        weights[tensor][place] = float("nan")
    pair = pair_checkpoints(Checkpoint(init), Checkpoint(write_checkpoint(tmp_path / "t", weights)))
    for _ in range(5):
        with pytest.raises(ValueError, match=r"t/.*: tensor a: 1 of the weights 70000 to 70999"):
            diff_tensors(pair, REQUEST, kernel=kernel, threads=4, chunk=1000)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    pair = large_pair(tmp_path, "safetensors")
    file = pair.tuned.tensors[LARGE].file
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 8)
    with pytest.raises(ValueError, match=rf"{file}: tensor .*: the file ended while read"):
        diff_tensors(pair, REQUEST, threads=2, chunk=1024)


def test_threads_follow_the_job_or_the_machine(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= default_threads() <= 16
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="OMP_NUM_THREADS: expected a number of threads"):
        default_threads()


SMALL, ZEROS = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
ZEROS_NUMEL = 1 << 26


def write_shards(folder: Path, small: bytes) -> Path:
    """Write a small shard and one of zeros that takes a while to read and no room on the disk."""
    folder.mkdir()
    files = {}
    for number, (name, size) in enumerate(((SMALL, len(small)), (ZEROS, 2 * ZEROS_NUMEL)), 1):
        files[name] = f"model-0000{number}-of-00002.safetensors"
        with (folder / files[name]).open("wb") as stream:
            header = encode_header({name: ("BF16", (size // 2,))}, {})
            stream.write(header + (small if name == SMALL else b""))
            stream.truncate(len(header) + size)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def kill_after_the_first_part(arguments: list[str], parts: Path) -> None:
    """Start the command and kill it, as a scheduler would, once it has kept its first part."""
    environment = os.environ | {"RLSUBNET_KERNEL": "numpy", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "rlsubnet.cli", *arguments], env=environment)
    deadline = time.monotonic() + 60
    while not (parts / "part-00000.json").exists():
        assert process.poll() is None, "ended before its first part"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL


def test_a_killed_pass_goes_on_and_ends_as_if_it_had_never_been_killed(tmp_path, capsys):
    shards = (
        write_shards(tmp_path / "init", b"\0\0" * 100),
        write_shards(tmp_path / "tuned", b"\0\0" * 60 + b"\x80\x3f" * 40),
    )

    def arguments(name: str) -> list[str]:
        files = ["--out", f"{tmp_path}/{name}.csv", "--mask", f"{tmp_path}/{name}.mask"]
        return ["updates", *map(str, shards), *files]

    kill_after_the_first_part(arguments("cut"), hidden_beside(tmp_path / "cut.csv", "parts"))
    assert not list(tmp_path.glob("cut.*"))
    assert main(arguments("cut")) == 0
    assert "1 of 2 tensors: measured before, not read again" in capsys.readouterr().err
    assert main(arguments("whole")) == 0
    assert capsys.readouterr().err == ""
    for kind in ("csv", "mask"):
        cut, whole = (tmp_path / f"{name}.{kind}" for name in ("cut", "whole"))
        assert cut.read_bytes() == whole.read_bytes()
    assert Mask(cut).read(SMALL).sum() == 40
    assert len(list(tmp_path.iterdir())) == 6


def interrupt_after_the_first_part(*arguments: str) -> None:
    save = Unfinished.save

    def save_and_stop(*called: Any) -> None:
        save(*called)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Unfinished, "save", save_and_stop)
        assert main(list(arguments)) == 130


def test_parts_of_other_options_or_files_are_not_used(tmp_path, capsys):
    pair, result = large_pair(tmp_path), tmp_path / "u.csv"
    arguments = ["updates", str(pair.init.path), str(pair.tuned.path), "--out", str(result)]
    interrupt_after_the_first_part(*arguments)
    assert main([*arguments, "--tolerances", "0.5"]) == 0
    assert "begun anew" in capsys.readouterr().err
    assert len(result.read_text().splitlines()) == 1 + 2 * len(pair.shapes)
    interrupt_after_the_first_part(*arguments)
    # As many bytes as before: its time alone tells.
    for file in pair.tuned.path.glob("*.safetensors"):
        file.write_bytes((pair.init.path / file.name).read_bytes())
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err.endswith("of other inputs or options: begun anew\n")
    assert "; 0 (" in printed.out
    assert not hidden_beside(result, "parts").exists()


def test_parts_without_the_mask_they_belong_to_are_not_used(tmp_path, capsys):
    pair, mask = large_pair(tmp_path), tmp_path / "m"
    arguments = ["mask", str(pair.init.path), str(pair.tuned.path), "--out", str(mask)]
    interrupt_after_the_first_part(*arguments)
    hidden_beside(mask, "unfinished").unlink()
    assert main(arguments) == 0
    assert "measured before" not in capsys.readouterr().err
    expected = dict(masks_of(pair))
    assert all((Mask(mask).read(n).ravel() == bits).all() for n, bits in expected.items())


@pytest.mark.parametrize("rule", ["bitwise", "official", "exact"])
def test_the_mask_has_the_bytes_of_one_written_in_order(pair, tmp_path, rule):
    opened = pair_checkpoints(*map(Checkpoint, pair))
    atol = 0.0 if rule == "bitwise" else 1e-5
    assert main(["mask", *map(str, pair), "--rule", rule, "--out", str(tmp_path / "m")]) == 0
    metadata = {
        "rule": rule,
        "atol": repr(atol),
        "init_sha256": opened.init.digest(),
        "tuned_sha256": opened.tuned.digest(),
    }
    write_mask(tmp_path / "expected", opened.shapes, masks_of(opened, rule, atol), metadata)
    assert (tmp_path / "m").read_bytes() == (tmp_path / "expected").read_bytes()


def test_bad_weights_in_a_later_shard_leave_nothing_behind(tmp_path, capsys):
    weights = make_weights()
    init = write_checkpoint(tmp_path / "init", weights, "sharded")
    tuned = nudge(weights)
    tuned["lm_head.weight"][3] = float("nan")
    broken = write_checkpoint(tmp_path / "tuned", tuned, "sharded")
    out = [f"--out={tmp_path}/u.csv", f"--mask={tmp_path}/m"]
    assert main(["updates", str(init), str(broken), *out]) == 1
    assert "tensor lm_head.weight: 4 of the weights" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"init", "tuned"}


def test_progress_is_told_in_a_log_when_asked_for_alone(pair, capsys):
    assert main(["updates", *map(str, pair)]) == 0
    assert capsys.readouterr().err == ""
    assert main(["updates", *map(str, pair), "--progress"]) == 0
    assert re.search(r"100%.*608/608 .*B/s", capsys.readouterr().err)
