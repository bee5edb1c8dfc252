import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.masks import Mask, save_mask
from rlsubnet.checkpoints.pair import tensor_generator
from rlsubnet.cli import main
from rlsubnet.columns import FrozenRow, RankRow, TrajectoryRow, UpdateRow, names
from rlsubnet.commands import shared
from rlsubnet.threads import VARIABLES
from tests.checkpoints.checkpoint_files import (
    SHAPES,
    make_weights,
    nudge,
    read_rows,
    run,
    write_checkpoint,
)
from tests.checkpoints.test_fp8 import CONFIG, make_fp8, unchanged_by_torch

TABLE_ROW = ("1e-05", "official")
TOLERANCES = ("1e-08", "1e-07", "1e-06", "1e-05", "0.0001")


def test_updates_of_a_real_model_and_a_perturbed_copy(shared, tmp_path, capsys):
    source = shared / "data" / "stories260k"
    config = json.loads((source / "config.json").read_text())
    init = {n: t.bfloat16() for n, t in load_file(source / "model.safetensors").items()}
    generator = torch.Generator().manual_seed(0)
    tuned = {}
    for name, weights in init.items():
        hit = torch.rand(weights.shape, generator=generator) < 0.3
        drift = 3e-5 * torch.randn(weights.shape, generator=generator)
        tuned[name] = torch.where(hit, (weights.float() + drift).bfloat16(), weights)
    folders = (
        write_checkpoint(tmp_path / "init", init, config=config),
        write_checkpoint(tmp_path / "tuned", tuned, "sharded", config=config),
    )
    out, mask_file = tmp_path / "updates.csv", tmp_path / "mask.safetensors"
    run("updates", *folders, "--out", out, "--mask", mask_file)
    rows = read_rows(out, UpdateRow)
    assert len(rows) == len(init) * len(TOLERANCES) * 2
    for row in rows:
        before, after = init[row["tensor"]], tuned[row["tensor"]]
        expected = unchanged_by_torch(before, after, float(row["atol"]))
        assert int(row["unchanged"]) == expected[row["rule"]]
        assert int(row["numel"]) == before.numel()
        assert (row["dtype_init"], row["dtype_tuned"]) == ("BF16", "BF16")
        assert int(row["bitwise_changed"]) == int((before != after).sum())
        assert float(row["max_abs_diff"]) == float((after.float() - before.float()).abs().max())
    places = {row["tensor"]: (row["layer"], row["matrix"]) for row in rows}
    assert places["model.layers.0.self_attn.q_proj.weight"] == ("0", "q_proj")
    assert places["model.norm.weight"] == ("", "norm")
    mask = Mask(mask_file)
    for name, weights in init.items():
        assert (mask.read(name) == (weights != tuned[name]).numpy()).all()
    assert mask.metadata["rule"] == "bitwise"
    assert mask.metadata["init_sha256"] == Checkpoint(folders[0]).digest()
    assert mask.metadata["tuned_sha256"] == Checkpoint(folders[1]).digest()
    total = sum(weights.numel() for weights in init.values())
    changed = sum(int((init[name] != tuned[name]).sum()) for name in init)
    summary = capsys.readouterr().out
    assert f"{total:,} weights in {len(init)} tensors; {changed:,}" in summary
    unchanged = sum(int(r["unchanged"]) for r in rows if (r["atol"], r["rule"]) == TABLE_ROW)
    line = next(line for line in summary.splitlines() if line.startswith("1e-05"))
    assert line.split()[1] == f"{100 * unchanged / total:.2f}"
    # Two runs write the same bits.
    before = out.read_bytes(), mask_file.read_bytes()
    run("updates", *folders, "--out", out, "--mask", mask_file)
    assert (out.read_bytes(), mask_file.read_bytes()) == before


def test_summary_names_kinds_layers_and_what_to_beware_of(tmp_path, capsys):
    init = make_weights(dtype=torch.float32)
    tuned = {name: tensor.bfloat16() for name, tensor in init.items()}
    name = "lm_head.weight"
    tuned[name] = torch.cat([tuned[name], tuned[name][:2]])
    folders = write_checkpoint(tmp_path / "a", init), write_checkpoint(tmp_path / "b", tuned)
    run("updates", *folders, "--common-rows", name)
    printed = capsys.readouterr().out
    assert re.search(r"^q_proj +16 +100\.00 ", printed, re.MULTILINE)
    assert re.search(r"^0 +60 +100\.00 ", printed, re.MULTILINE)
    assert "warning: lm_head.weight has 11 and 13 rows: the first 11 count" in printed
    assert "warning: stored types differ in 7 tensors (F32 against BF16)" in printed


def test_frozen_fails_after_writing_which_tensor_changed(pair, tmp_path, capsys):
    run("mask", *pair, "--out", tmp_path / "m")
    run("frozen", *pair, "--mask", tmp_path / "m", "--out", tmp_path / "good.csv")
    assert ", 0 changed" in capsys.readouterr().out
    good = read_rows(tmp_path / "good.csv", FrozenRow)
    assert {row["frozen_changed"] for row in good} == {"0"}
    assert all(row["subnetwork"] == row["subnetwork_changed"] for row in good)
    mask = Mask(tmp_path / "m")
    bits = {name: mask.read(name) for name in mask.shapes}
    bits["lm_head.weight"][:] = False
    save_mask(tmp_path / "smaller", bits, {})
    out = tmp_path / "bad.csv"
    arguments = [*map(str, pair), "--mask", str(tmp_path / "smaller"), "--out", str(out)]
    assert main(["frozen", *arguments]) == 1
    moved = int(mask.read("lm_head.weight").sum())
    assert f"changed: lm_head.weight ({moved})" in capsys.readouterr().err
    bad = {r["tensor"]: int(r["frozen_changed"]) for r in read_rows(out, FrozenRow)}
    assert {name: n for name, n in bad.items() if n} == {"lm_head.weight": moved}


def test_rank_rows_equal_torch(pair, tmp_path):
    run("rank", *pair, "--out", tmp_path / "r.csv")
    init = make_weights()
    tuned = nudge(init)
    rows = {row["tensor"]: row for row in read_rows(tmp_path / "r.csv", RankRow)}
    assert set(rows) == {n for n, s in SHAPES.items() if len(s) == 2}
    for name, row in rows.items():
        delta = (tuned[name] - init[name]).float()
        assert int(row["rank"]) == int(torch.linalg.matrix_rank(delta))
        assert (int(row["rows"]), int(row["cols"])) == SHAPES[name]
        assert int(row["max_rank"]) == min(SHAPES[name]) >= int(row["rank_of_random_control"])


def test_control_of_one_matrix_depends_on_seed_and_name_alone():
    places = ((0, "a"), (0, "a"), (0, "b"), (1, "a"))
    first, again, *others = (tensor_generator(*place).integers(0, 2**60) for place in places)
    assert first == again
    assert len({first, *others}) == 3


def test_a_stack_of_matrices_gives_one_rank_each(tmp_path):
    experts = torch.zeros(2, 3, 4)
    grown = experts.clone()
    grown[1] = torch.eye(3, 4)
    name = "model.layers.0.mlp.experts.down_proj"
    folders = (
        write_checkpoint(tmp_path / "a", {name: experts}),
        write_checkpoint(tmp_path / "b", {name: grown}),
    )
    run("rank", *folders, "--out", tmp_path / "r.csv")
    rows = read_rows(tmp_path / "r.csv", RankRow)
    assert [(r["tensor"], r["rank"]) for r in rows] == [(f"{name}[0]", "0"), (f"{name}[1]", "3")]


def test_trajectory_orders_steps_by_number(tmp_path):
    saved = {0: [0, 0, 0, 0], 20: [1, 1, 0, 0], 100: [1, 0, 2, 0]}
    folders = {
        step: write_checkpoint(
            tmp_path / f"checkpoint-{step}", {"w": torch.tensor(v, dtype=torch.bfloat16)}
        )
        for step, v in saved.items()
    }
    run("trajectory", folders[0], folders[100], folders[20], "--out", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == (
        ",".join(names(TrajectoryRow)) + "\n20,0.5,0.5,0.25,2,0,2\n100,0.5,0.5,0.0,1,1,2\n"
    )
    run("trajectory", *folders.values(), "--steps", 1, 2, "--out", tmp_path / "n.csv")
    assert [row["step"] for row in read_rows(tmp_path / "n.csv", TrajectoryRow)] == ["1", "2"]


def test_trajectory_of_deltas_is_that_of_the_full_checkpoints(tmp_path):
    weights = make_weights()
    init = write_checkpoint(tmp_path / "init", weights)
    folders = []
    for step in range(1, 4):
        weights = nudge(weights, seed=step)
        folders.append(write_checkpoint(tmp_path / f"checkpoint-{step}", weights))
        saved = tmp_path / "steps" / f"step-00000{step}.delta"
        run("delta", "pack", init, folders[-1], "--out", saved)
    run("trajectory", init, *folders, "--out", tmp_path / "full.csv")
    run("trajectory", init, tmp_path / "steps", "--out", tmp_path / "deltas.csv")
    assert (tmp_path / "deltas.csv").read_text() == (tmp_path / "full.csv").read_text()
    assert len(read_rows(tmp_path / "deltas.csv", TrajectoryRow)) == 3


def test_safetensors_are_measured_without_torch(pair, tmp_path):
    init, tuned = map(str, pair)
    mask = str(tmp_path / "m")
    fp8 = str(write_checkpoint(tmp_path / "fp8", make_fp8(), config=CONFIG))
    calls = [
        ["updates", init, tuned, "--out", str(tmp_path / "u"), "--mask", mask],
        ["mask", init, tuned, "--out", mask],
        ["frozen", init, tuned, "--mask", mask],
        ["overlap", mask, mask, "--init", init],
        ["rank", init, tuned],
        ["trajectory", init, tuned, "--steps", "1", "--out", str(tmp_path / "t")],
        ["delta", "pack", init, tuned, "--out", str(tmp_path / "d-1.delta")],
        ["delta", "show", str(tmp_path / "d-1.delta")],
        ["delta", "unpack", init, str(tmp_path / "d-1.delta"), "--out", str(tmp_path / "o")],
        ["trajectory", init, str(tmp_path / "d-1.delta"), "--out", str(tmp_path / "t")],
        ["updates", fp8, fp8],
    ]
    code = (
        "import sys\nfrom rlsubnet.cli import main\n"
        f"assert [main(call) for call in {calls!r}] == [0] * 11\n"
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def matrix_pair(folder: Path, rows: int, columns: int) -> tuple[str, str]:
    name = "model.layers.0.mlp.up_proj.weight"
    generator = torch.Generator().manual_seed(0)
    init = torch.zeros(rows, columns).bfloat16()
    step = torch.randn(rows, columns, generator=generator).bfloat16()
    sides = (("init", init), ("tuned", step))
    first, second = (str(write_checkpoint(folder / side, {name: w})) for side, w in sides)
    return first, second


def test_linear_algebra_has_the_threads_that_are_asked_for(tmp_path):
    threads = 2
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
