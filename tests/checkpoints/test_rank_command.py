"""The command rank: where it works, by how many threads, and what it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlsubnet.cli import main
from rlsubnet.commands import shared
from rlsubnet.threads import VARIABLES
from tests.checkpoints.checkpoint_files import make_weights, write_checkpoint


def matrix_pair(folder: Path, rows: int, columns: int) -> tuple[str, str]:
    name = "model.layers.0.mlp.up_proj.weight"
    generator = torch.Generator().manual_seed(0)
    init = torch.zeros(rows, columns).bfloat16()
    step = torch.randn(rows, columns, generator=generator).bfloat16()
    sides = (("init", init), ("tuned", step))
    first, second = (str(write_checkpoint(folder / side, {name: w})) for side, w in sides)
    return first, second


@pytest.mark.parametrize("threads", [1, 2])
def test_linear_algebra_has_the_threads_that_are_asked_for(tmp_path, threads):
    # More than SMALL columns: both of numpy's and scipy's libraries are at work.
    arguments = ["rank", *matrix_pair(tmp_path, 300, 300), "--threads", str(threads)]
    code = (
        "import os\nfrom rlsubnet.cli import main\n"
        f"assert main({arguments!r}) == 0\n"
        "assert 'scipy.linalg' in __import__('sys').modules\n"
        "print('threads', len(os.listdir('/proc/self/task')))\n"
    )
    environment = {key: value for key, value in os.environ.items() if key not in VARIABLES}
    printed = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    ).stdout
    # Each of the two libraries starts its own helpers beside the main thread.
    helpers = min(threads, len(os.sched_getaffinity(0))) - 1
    assert printed.splitlines()[-1] == f"threads {1 + 2 * helpers}"


def test_a_number_of_threads_that_is_none_is_refused(pair, capsys):
    assert main(["rank", *map(str, pair), "--threads", "0"]) == 1
    assert "--threads must be 1 or more, found 0" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_auto_stays_on_the_processor_and_asking_for_one_is_refused(
    pair, capsys, monkeypatch, tmp_path
):
    assert main(["rank", *map(str, pair), "--device", "cuda"]) == 1
    assert "--device cuda: torch finds no GPU here" in capsys.readouterr().err
    # A driver without a GPU that torch can use.
    monkeypatch.setattr(shared, "DRIVER", tmp_path)
    assert shared.chosen_device("auto") == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("shape", [(600, 600), (300, 700)])
def test_a_gpu_gives_the_integers_of_the_processor(tmp_path, shape):
    files = matrix_pair(tmp_path, *shape)
    for device in ("cpu", "cuda"):
        assert main(["rank", *files, "--device", device, "--out", f"{tmp_path}/{device}"]) == 0
    cpu, cuda = ((tmp_path / device).read_text().splitlines()[1] for device in ("cpu", "cuda"))
    same, close = (slice(0, 7), 9), (7, 8)
    for place in same:
        assert cpu.split(",")[place] == cuda.split(",")[place]
    for number in close:
        assert float(cpu.split(",")[number]) == pytest.approx(float(cuda.split(",")[number]))


def test_an_update_that_is_not_finite_is_refused_with_file_and_tensor(tmp_path, capsys):
    init = write_checkpoint(tmp_path / "init", make_weights())
    tuned = make_weights()
    tuned["lm_head.weight"][2, 1] = torch.nan
    bad = write_checkpoint(tmp_path / "tuned", tuned)
    assert main(["rank", str(init), str(bad)]) == 1
    assert f"{bad}/model.safetensors: tensor lm_head.weight: 1 of" in capsys.readouterr().err
