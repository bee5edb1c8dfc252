"""Every kind of input through the command, with both kernels, against torch.isclose."""

import csv
from collections.abc import Callable

import pytest
import torch

from rlsubnet.checkpoints.masks import load_mask
from rlsubnet.cli import main
from rlsubnet.measure.sparsity import TOLERANCES
from tests.checkpoints.checkpoint_files import write_checkpoint
from tests.checkpoints.test_block_fp8 import CONFIG, dequantized, make_fp8, nudge_codes

Weights = dict[str, torch.Tensor]
EMBED, GATE, NORM = "model.embed_tokens.weight", "model.layers.0.mlp.gate_proj.weight", "model.norm"
SHAPES = {EMBED: (301, 40), GATE: (77, 129), f"{NORM}.weight": (40,)}
# Steps that lie on either side of every tolerance, in each type.
STEPS = (0.0, 0.0, 3e-9, 9e-9, 1.1e-8, 1e-7, 2e-7, 9.97e-7, 1.01e-6, 1e-5, 1.01e-5, 1e-4, 2e-3)


def drawn(dtype: torch.dtype, seed: int) -> Weights:
    """Weights of all magnitudes; a run's steps are added in float32 and rounded."""
    init, steps = (torch.Generator().manual_seed(number) for number in (0, seed))
    weights = {}
    for name, shape in SHAPES.items():
        scale = 10 ** (-5 * torch.rand(shape, generator=init))
        before = (0.1 * scale * torch.randn(shape, generator=init)).to(dtype)
        if seed:
            step = torch.tensor(STEPS)[torch.randint(len(STEPS), shape, generator=steps)]
            before = (before.float() + step).to(dtype)
        weights[name] = before
    return weights


def mixed(seed: int) -> Weights:
    types = dict(zip(SHAPES, (torch.float32, torch.bfloat16, torch.float16), strict=True))
    return {name: drawn(dtype, seed)[name] for name, dtype in types.items()}


def meant(weights: Weights) -> Weights:
    """What stored tensors stand for: themselves, but for fp8 codes and their scales."""
    return dequantized(weights) if any("scale_inv" in name for name in weights) else weights


def pair_of(dtype: torch.dtype, tuned: torch.dtype | None = None) -> tuple[Weights, Weights]:
    return drawn(dtype, 0), drawn(tuned or dtype, 1)


Case = tuple[Callable[[], tuple[Weights, Weights]], tuple[str, str]]
CASES: dict[str, Case] = {
    "bfloat16": (lambda: pair_of(torch.bfloat16), ("safetensors", "sharded")),
    "float16": (lambda: pair_of(torch.float16), ("safetensors", "sharded")),
    "float32": (lambda: pair_of(torch.float32), ("sharded", "sharded")),
    "bfloat16 .bin": (lambda: pair_of(torch.bfloat16), ("bin", "sharded-bin")),
    "float16 .bin": (lambda: pair_of(torch.float16), ("bin", "bin")),
    "float32 .bin and safetensors": (lambda: pair_of(torch.float32), ("bin", "sharded")),
    "float32, then bfloat16": (
        lambda: pair_of(torch.float32, torch.bfloat16),
        ("safetensors", "bin"),
    ),
    "bfloat16, then float16": (
        lambda: pair_of(torch.bfloat16, torch.float16),
        ("safetensors", "safetensors"),
    ),
    "another type in every tensor": (lambda: (mixed(0), mixed(1)), ("bin", "sharded")),
    "fp8 with scales": (lambda: (make_fp8(), nudge_codes(make_fp8())), ("safetensors", "sharded")),
    "fp8, then bfloat16": (
        lambda: (make_fp8(), dequantized(nudge_codes(make_fp8()))),
        ("safetensors", "bin"),
    ),
}


def unchanged_by_torch(init: torch.Tensor, tuned: torch.Tensor, atol: float) -> dict[str, int]:
    """Count as the authors do (all in bfloat16), and exactly (in double precision)."""
    delta = tuned.bfloat16() - init.bfloat16()
    exact = (tuned.float() - init.float()).double()
    return {
        "official": int(torch.isclose(delta, torch.zeros_like(delta), atol=atol).sum()),
        "exact": int(torch.isclose(exact, torch.zeros_like(exact), rtol=0, atol=atol).sum()),
    }


def changed_bits(init: torch.Tensor, tuned: torch.Tensor) -> torch.Tensor:
    """Where stored bits differ; of two types, where both in bfloat16 do."""
    if init.dtype != tuned.dtype:
        init, tuned = init.bfloat16(), tuned.bfloat16()
    view = torch.int16 if init.element_size() == 2 else torch.int32
    return init.view(view) != tuned.view(view)


@pytest.mark.parametrize("case", CASES)
def test_every_input_has_the_integers_of_torch_with_both_kernels(case, tmp_path):
    pytest.importorskip("numba")
    make, forms = CASES[case]
    stored = make()
    for side, weights, form in zip(("init", "tuned"), stored, forms, strict=True):
        write_checkpoint(tmp_path / side, weights, form, config=CONFIG)
    init, tuned = map(meant, stored)
    for kernel in ("numpy", "numba"):
        files = ["--out", f"{tmp_path}/{kernel}.csv", "--mask", f"{tmp_path}/{kernel}.mask"]
        folders = [f"{tmp_path}/init", f"{tmp_path}/tuned"]
        assert main(["updates", *folders, *files, "--kernel", kernel, "--threads", "2"]) == 0
    for kind in ("csv", "mask"):
        numpy, numba = ((tmp_path / f"{k}.{kind}").read_bytes() for k in ("numpy", "numba"))
        assert numpy == numba
    with (tmp_path / "numpy.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["tensor"] for row in rows} == set(init)
    assert len(rows) == len(init) * len(TOLERANCES) * 2
    seen = set()
    for row in rows:
        before, after = init[row["tensor"]], tuned[row["tensor"]]
        expected = unchanged_by_torch(before, after, float(row["atol"]))
        assert int(row["unchanged"]) == expected[row["rule"]], row
        assert int(row["bitwise_changed"]) == int(changed_bits(before, after).sum())
        seen.add(row["unchanged"])
    # The tolerances tell weights apart, or the test would say little.
    assert len(seen) > len(init)
    mask = load_mask(tmp_path / "numpy.mask")
    for name in init:
        assert (mask.read(name) == changed_bits(init[name], tuned[name]).numpy()).all()
