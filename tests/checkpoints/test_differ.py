"""The differ: threads, kernels and cuts never show in what it counts."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.differ import diff_tensors
from rlsubnet.checkpoints.formats import Reader
from rlsubnet.checkpoints.pair import Pair, pair_checkpoints
from rlsubnet.measure.kernel import Request
from rlsubnet.measure.sparsity import TOLERANCES, changed, update_counts
from rlsubnet.threads import default_threads
from tests.checkpoints.checkpoint_files import make_weights, nudge, write_checkpoint

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
