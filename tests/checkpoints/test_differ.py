"""The differ: threads, kernels and cuts never show in what it counts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.differ import diff_tensors, parts_folder
from rlsubnet.checkpoints.formats import Reader, encode_header
from rlsubnet.checkpoints.masks import hidden_file, load_mask, write_mask
from rlsubnet.checkpoints.pair import Pair, pair_checkpoints
from rlsubnet.cli import main
from rlsubnet.measure.kernel import Request
from rlsubnet.measure.sparsity import TOLERANCES, changed, update_counts
from rlsubnet.threads import default_threads
from tests.checkpoints.checkpoint_files import make_weights, masks_of, nudge, write_checkpoint

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
            update_counts(*arrays, TOLERANCES),
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
    for _ in range(20):
        with pytest.raises(ValueError, match=r"t/.*: tensor a: 1 of the weights 70000 to 70999"):
            diff_tensors(pair, REQUEST, kernel=kernel, threads=4, chunk=1000)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path):
    pair = large_pair(tmp_path, "safetensors")
    file = pair.tuned.tensors[LARGE].file
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 8)
    with pytest.raises(ValueError, match=rf"{file}: tensor .*: the file ended while read"):
        diff_tensors(pair, REQUEST, threads=2, chunk=1024)


def test_a_reader_moves_between_files(tmp_path):
    checkpoint = Checkpoint(write_checkpoint(tmp_path, make_weights(), "sharded"))
    with closing(Reader(16)) as reader:
        for _ in range(2):
            for name, info in checkpoint.tensors.items():
                expected = checkpoint.read_range(name, 1, info.numel - 1)[:16]
                assert (
                    checkpoint.read_range(name, 1, expected.size, reader.read) == expected
                ).all()


def test_threads_follow_the_job_or_the_machine(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert 1 <= default_threads() <= 16
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(ValueError, match="OMP_NUM_THREADS: expected a number of threads"):
        default_threads()


def test_a_cut_inside_a_byte_of_the_mask_is_refused(pair):
    opened = pair_checkpoints(*map(Checkpoint, pair))
    with pytest.raises(ValueError, match="multiple of 8, found 12"):
        diff_tensors(opened, REQUEST, chunk=12)


def test_nudged_weights_reach_every_tensor(pair):
    found = diff_tensors(pair_checkpoints(*map(Checkpoint, pair)), REQUEST)
    assert sum(counts.totals[1] for counts in found.values()) > 20


SMALL, ZEROS = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
ZEROS_NUMEL = 1 << 27


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


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Path, Path]:
    return (
        write_shards(tmp_path / "init", b"\0\0" * 100),
        write_shards(tmp_path / "tuned", b"\0\0" * 60 + b"\x80\x3f" * 40),
    )


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


def test_a_killed_pass_goes_on_and_ends_as_if_it_had_never_been_killed(shards, tmp_path, capsys):
    def arguments(name: str) -> list[str]:
        files = ["--out", f"{tmp_path}/{name}.csv", "--mask", f"{tmp_path}/{name}.mask"]
        return ["updates", *map(str, shards), *files]

    result, mask = tmp_path / "cut.csv", tmp_path / "cut.mask"
    kill_after_the_first_part(arguments("cut"), parts_folder(result))
    assert not result.exists()
    assert not mask.exists()
    assert main(arguments("cut")) == 0
    assert "part 1 of 2: measured before, not read again" in capsys.readouterr().err
    assert main(arguments("whole")) == 0
    assert capsys.readouterr().err == ""
    assert result.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert mask.read_bytes() == (tmp_path / "whole.mask").read_bytes()
    assert load_mask(mask).read(SMALL).sum() == 40
    assert {path.name for path in tmp_path.iterdir()} == {
        "init", "tuned", "cut.csv", "cut.mask", "whole.csv", "whole.mask",
    }  # fmt: skip


def test_a_checkpoint_that_changed_since_is_measured_anew(shards, tmp_path, capsys):
    result = tmp_path / "u.csv"
    arguments = ["updates", *map(str, shards), "--out", str(result)]
    kill_after_the_first_part(arguments, parts_folder(result))
    file = shards[1] / "model-00001-of-00002.safetensors"
    # As many bytes as before: its time alone tells.
    file.write_bytes(file.read_bytes().replace(b"\x80\x3f" * 40, b"\x80\x3f" * 30 + b"\0\0" * 10))
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == "an interrupted pass was of other inputs or options: begun anew\n"
    assert "; 30 (" in printed.out
    assert not parts_folder(result).exists()


def test_other_options_begin_anew(shards, tmp_path, capsys):
    result = tmp_path / "u.csv"
    arguments = ["updates", *map(str, shards), "--out", str(result)]
    kill_after_the_first_part(arguments, parts_folder(result))
    assert main([*arguments, "--tolerances", "0.5"]) == 0
    assert "begun anew" in capsys.readouterr().err
    assert len(result.read_text().splitlines()) == 1 + 2 * 2


def test_parts_without_the_mask_they_belong_to_are_not_used(shards, tmp_path, capsys):
    mask = tmp_path / "m"
    arguments = ["mask", *map(str, shards), "--out", str(mask)]
    kill_after_the_first_part(arguments, parts_folder(mask))
    hidden_file(mask).unlink()
    assert main(arguments) == 0
    assert "measured before" not in capsys.readouterr().err
    assert load_mask(mask).read(SMALL).sum() == 40


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
    assert main(["updates", *map(str, pair), "--threads", "0"]) == 1
    assert "--threads must be 1 or more, found 0" in capsys.readouterr().err
