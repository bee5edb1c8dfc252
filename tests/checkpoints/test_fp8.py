"""Checkpoints in the layout of DeepSeek-V3, against what torch makes of the same codes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.masks import Mask
from rlsubnet.checkpoints.pair import Pair, pair_checkpoints
from rlsubnet.cli import main
from rlsubnet.columns import RankRow, UpdateRow
from rlsubnet.measure.sparsity import TOLERANCES
from tests.checkpoints.checkpoint_files import count_updates, read_rows, run, write_checkpoint

Weights = dict[str, torch.Tensor]
EXPERT = "model.layers.3.mlp.experts.7.up_proj.weight"
SQUARE = "model.layers.0.self_attn.q_a_proj.weight"
SMALL = "model.layers.0.self_attn.kv_a_proj_with_mqa.weight"
NORM = "model.layers.61.enorm.weight"
BIAS = "model.layers.3.mlp.gate.e_score_correction_bias"
# Blocks of 128 x 128: ragged on both sides, on none, and smaller than one block.
SHAPES = {EXPERT: (300, 200), SQUARE: (128, 256), SMALL: (5, 7)}
SCALE_SHAPES = {EXPERT: (3, 2), SQUARE: (1, 2), SMALL: (1, 1)}
QUANTIZATION = {"fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
CONFIG = {"tie_word_embeddings": False, "quantization_config": QUANTIZATION}


def make_fp8(seed: int = 0) -> Weights:
    """Return stored tensors: random codes (no NaN) and scales, and two tensors that have none."""
    generator = torch.Generator().manual_seed(seed)
    weights: Weights = {}
    for name, shape in SHAPES.items():
        codes = torch.randint(0, 254, shape, generator=generator, dtype=torch.uint8)
        codes += codes >= 0x7F  # 0x7f and 0xff are NaN
        weights[name] = codes.view(torch.float8_e4m3fn)
        drawn = torch.rand(SCALE_SHAPES[name], generator=generator)
        weights[f"{name}_scale_inv"] = 1e-5 + 3e-4 * drawn
    weights[NORM] = torch.randn(7, generator=generator).bfloat16()
    weights[BIAS] = torch.randn(8, generator=generator)
    return weights


def nudge_codes(weights: Weights, seed: int = 1) -> Weights:
    """Return weights of which every fifth code is a neighbor and one scale of EXPERT differs."""
    generator = torch.Generator().manual_seed(seed)
    nudged = {name: tensor.clone() for name, tensor in weights.items()}
    for name, shape in SHAPES.items():
        codes = nudged[name].view(torch.uint8)
        moved = (torch.rand(shape, generator=generator) < 0.2) & ((codes & 0x7F) < 0x7E)
        codes += moved
    nudged[f"{EXPERT}_scale_inv"][2, 1] *= 1.25
    return nudged


def dequantized(weights: Weights) -> Weights:
    """Return the weights in bfloat16 by torch alone: one product with the enlarged scales."""
    plain = {}
    for name, tensor in weights.items():
        if name in SHAPES:
            rows, columns = tensor.shape
            scale = weights[f"{name}_scale_inv"].repeat_interleave(128, 0)
            scale = scale.repeat_interleave(128, 1)[:rows, :columns]
            plain[name] = (tensor.float() * scale).bfloat16()
        elif not name.endswith("_scale_inv"):
            plain[name] = tensor
    return plain


def bits(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def folders_of(folder: Path, init: Weights, tuned: Weights) -> tuple[Path, Path]:
    return (
        write_checkpoint(folder / "init", init, config=CONFIG),
        write_checkpoint(folder / "tuned", tuned, "sharded", config=CONFIG),
    )


def opened(folder: Path, init: Weights, tuned: Weights) -> Pair:
    return pair_checkpoints(*map(Checkpoint, folders_of(folder, init, tuned)))


@pytest.mark.parametrize("form", ["safetensors", "sharded"])
def test_weights_are_those_of_torch_and_scales_are_none(tmp_path, form):
    weights = make_fp8()
    checkpoint = Checkpoint(write_checkpoint(tmp_path, weights, form, config=CONFIG))
    expected = dequantized(weights)
    assert set(checkpoint.tensors) == set(checkpoint.scales) | {NORM, BIAS} == set(expected)
    for name, tensor in expected.items():
        info = checkpoint.tensors[name]
        stored = "F8_E4M3" if name in SHAPES else {NORM: "BF16", BIAS: "F32"}[name]
        assert (info.dtype, info.shape) == (stored, tuple(tensor.shape))
        whole = checkpoint.read(name)
        assert (whole == bits(tensor)).all()
        draw = np.random.default_rng(0)
        for start in draw.integers(0, whole.size, 50).tolist():
            count = int(draw.integers(0, whole.size - start + 1))
            found = checkpoint.read_range(name, start, count)
            assert (found == whole.ravel()[start : start + count]).all()


def test_blocks_need_not_be_square(tmp_path):
    codes = torch.full((4, 5), 0x38, dtype=torch.uint8).view(torch.float8_e4m3fn)  # ones
    scale = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    config = {"quantization_config": QUANTIZATION | {"weight_block_size": [2, 3]}}
    stored = {"w": codes, "w_scale_inv": scale}
    found = Checkpoint(write_checkpoint(tmp_path, stored, config=config)).read("w")
    upper, lower = [1.0, 1.0, 1.0, 2.0, 2.0], [4.0, 4.0, 4.0, 8.0, 8.0]
    assert (found == bits(torch.tensor([upper, upper, lower, lower]).bfloat16())).all()


def test_the_digest_covers_codes_scales_and_block_size(tmp_path):
    def digest(weights: Weights, block: list[int]) -> str:
        config = {"quantization_config": QUANTIZATION | {"weight_block_size": block}}
        return Checkpoint(write_checkpoint(tmp_path, weights, config=config)).digest()

    small = {name: tensor for name, tensor in make_fp8().items() if name.startswith(SMALL)}
    codes = small | {SMALL: small[SMALL].clone()}
    # 0x00 and 0x80 stand for 0.0 and -0.0: the smallest change that is one.
    small[SMALL].view(torch.uint8)[0, 0], codes[SMALL].view(torch.uint8)[0, 0] = 0x00, 0x80
    scales = small | {f"{SMALL}_scale_inv": 2 * small[f"{SMALL}_scale_inv"]}
    found = [digest(stored, [128, 128]) for stored in (small, codes, scales, small)]
    assert found[0] == found[3]
    assert len({*found, digest(small, [64, 64])}) == 4


def test_rows_and_ranks_are_those_of_the_dequantized_update(tmp_path, capsys):
    init, tuned = make_fp8(), nudge_codes(make_fp8())
    folders = folders_of(tmp_path, init, tuned)
    run("updates", *folders, "--out", tmp_path / "u.csv")
    rows = read_rows(tmp_path / "u.csv", UpdateRow)
    types = {row["tensor"]: (row["dtype_init"], row["dtype_tuned"]) for row in rows}
    assert types == dict.fromkeys(SHAPES, ("F8_E4M3",) * 2) | {
        NORM: ("BF16",) * 2,
        BIAS: ("F32",) * 2,
    }
    summary = capsys.readouterr().out
    assert f"{300 * 200 + 128 * 256 + 5 * 7 + 7 + 8:,} weights in 5 tensors" in summary
    for side in ("init", "tuned"):
        assert f"warning: {side}: 3 tensors are fp8 codes with block scales" in summary
    run("rank", *folders, "--out", tmp_path / "r.csv")
    init, tuned = dequantized(init), dequantized(tuned)
    ranks = {row["tensor"]: int(row["rank"]) for row in read_rows(tmp_path / "r.csv", RankRow)}
    assert ranks == {
        name: int(torch.linalg.matrix_rank((tuned[name] - init[name]).float())) for name in SHAPES
    }


def test_a_scale_alone_changes_the_weights_of_its_block_but_zeros(tmp_path):
    init = make_fp8()
    tuned = init | {f"{EXPERT}_scale_inv": init[f"{EXPERT}_scale_inv"].clone()}
    tuned[f"{EXPERT}_scale_inv"][2, 1] *= 2
    pair = opened(tmp_path, init, tuned)
    # Block (2, 1) of 300 x 200 is rows 256 to 299, columns 128 to 199.
    block = init[EXPERT].float()[256:, 128:]
    assert block.shape == (44, 72)
    counts = {name: c.bitwise_changed for name, c in count_updates(pair, TOLERANCES).items()}
    assert counts[EXPERT] == int((block != 0).sum()) > 3000
    assert sum(counts.values()) == counts[EXPERT]


def test_fp8_against_its_own_bfloat16_copy_is_no_update(tmp_path):
    pair = opened(tmp_path, make_fp8(), dequantized(make_fp8()))
    assert pair.differing_dtypes == dict.fromkeys(SHAPES, ("F8_E4M3", "BF16"))
    assert {c.bitwise_changed for c in count_updates(pair, TOLERANCES).values()} == {0}


def stored(**tensors: torch.Tensor | None) -> Callable[[Weights, dict[str, Any]], None]:
    """Return a damage that replaces SMALL (key ``w``) or its scale (``s``), or removes it."""

    def damage(weights: Weights, _: dict[str, Any]) -> None:
        for key, tensor in tensors.items():
            name = {"w": SMALL, "s": f"{SMALL}_scale_inv"}[key]
            weights[name] = weights[name] if tensor is None else tensor
            if tensor is None:
                del weights[name]

    return damage


def quantization(**values: object) -> Callable[[Weights, dict[str, Any]], None]:
    return lambda _, config: config["quantization_config"].update(values)


SCALE = f"tensor {SMALL}_scale_inv: "
FP8 = torch.float8_e4m3fn
BLOCK_SIZE = "expected weight_block_size [rows, columns], found"
REFUSALS: dict[str, tuple[Callable[[Weights, dict[str, Any]], None], list[str]]] = {
    "a weight without scales": (stored(s=None), [f"tensor {SMALL}: found 'F8_E4M3' without"]),
    "scales without a weight": (stored(w=None), [SCALE, f"scales of {SMALL}", "no such tensor"]),
    "scales of a bfloat16 weight": (stored(w=torch.zeros(5, 7).bfloat16()), [SCALE, "found BF16"]),
    "too many scales": (stored(s=torch.ones(2, 1)), [SCALE, "F32 [1, 1]", "found F32 [2, 1]"]),
    "scales in bfloat16": (stored(s=torch.ones(1, 1).bfloat16()), [SCALE, "found BF16 [1, 1]"]),
    "scales in fp8": (stored(s=torch.ones(1, 1).to(FP8)), [SCALE, "found F8_E4M3 [1, 1]"]),
    "a vector": (stored(w=torch.ones(7).to(FP8)), [f"tensor {SMALL}: ", "in a matrix, found [7]"]),
    "e5m2": (
        stored(w=torch.ones(5, 7).to(torch.float8_e5m2)),
        [f"tensor {SMALL}: ", "expected dtype BF16, F16, F32 or F8_E4M3, found F8_E5M2"],
    ),
    "no quantization_config": (
        lambda _, config: config.pop("quantization_config"),
        ["config.json", "tensor", "found None"],
    ),
    "quantization_config is text": (
        lambda _, config: config.update(quantization_config="fp8"),
        ["config.json", "expected an object, found 'fp8'"],
    ),
    "another method": (quantization(quant_method="awq"), ["quant_method fp8, found 'awq'"]),
    "another format": (quantization(fmt="e5m2"), ["tensor", "fmt e4m3, found 'e5m2'"]),
    "no block size": (quantization(weight_block_size=None), ["config.json", f"{BLOCK_SIZE} None"]),
    "one number": (quantization(weight_block_size=128), [f"{BLOCK_SIZE} 128"]),
    "three numbers": (quantization(weight_block_size=[1, 128, 128]), [BLOCK_SIZE]),
    "zero": (quantization(weight_block_size=[0, 128]), [f"{BLOCK_SIZE} [0, 128]"]),
    "true": (quantization(weight_block_size=[True, 128]), [BLOCK_SIZE]),
    "blocks of another size than the scales": (
        quantization(weight_block_size=[64, 64]),
        [f"tensor {SQUARE}_scale_inv: ", "F32 [2, 4] for [128, 256] in blocks of [64, 64]"],
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_dequantized_is_refused_by_name(case, tmp_path):
    damage, words = REFUSALS[case]
    weights, config = make_fp8(), json.loads(json.dumps(CONFIG))
    damage(weights, config)
    folder = write_checkpoint(tmp_path / "m", weights, config=config)
    with pytest.raises(ValueError) as error:
        Checkpoint(folder)
    for word in (str(folder), *words):
        assert word in str(error.value)


def test_a_folder_without_config_and_a_bin_file_in_fp8_are_refused(tmp_path):
    folder = write_checkpoint(tmp_path / "a", make_fp8(), config=CONFIG)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config\.json: .* needed by tensor .* found None"):
        Checkpoint(folder)
    folder = write_checkpoint(tmp_path / "b", make_fp8(), "bin", config=CONFIG)
    with pytest.raises(ValueError, match=r"tensor .*: expected .*, found torch\.float8_e4m3fn"):
        Checkpoint(folder)


@pytest.mark.parametrize(
    ("code", "scale"), [(0x7F, 1.0), (0xFF, 1.0), (0x38, float("nan")), (0x38, float("inf"))]
)
def test_weights_that_are_no_numbers_are_refused(code, scale, tmp_path, capsys):
    init, tuned = make_fp8(), make_fp8()
    for weights in (init, tuned):
        weights[SMALL].view(torch.uint8)[:] = 0x38
    tuned[SMALL].view(torch.uint8)[4, 6] = code
    tuned[f"{SMALL}_scale_inv"][0, 0] = scale
    folders = folders_of(tmp_path, init, tuned)
    assert main(["updates", *map(str, folders), "--out", str(tmp_path / "u.csv")]) == 1
    number = 35 if scale != 1.0 else 1
    expected = f"tensor {SMALL}: {number} of the weights 0 to 34 are NaN or Inf"
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "u.csv").exists()


MIXED_SHAPES = {
    "model.embed_tokens.weight": (301, 40),
    "model.layers.0.mlp.gate_proj.weight": (77, 129),
    "model.norm.weight": (40,),
}
# Steps that lie on either side of every tolerance, in each type.
STEPS = (0.0, 0.0, 3e-9, 9e-9, 1.1e-8, 1e-7, 2e-7, 9.97e-7, 1.01e-6, 1e-5, 1.01e-5, 1e-4, 2e-3)


def drawn(dtype: torch.dtype, seed: int) -> Weights:
    """Weights of all magnitudes; a run's steps are added in float32 and rounded."""
    init, steps = (torch.Generator().manual_seed(number) for number in (0, seed))
    weights = {}
    for name, shape in MIXED_SHAPES.items():
        scale = 10 ** (-5 * torch.rand(shape, generator=init))
        before = (0.1 * scale * torch.randn(shape, generator=init)).to(dtype)
        if seed:
            step = torch.tensor(STEPS)[torch.randint(len(STEPS), shape, generator=steps)]
            before = (before.float() + step).to(dtype)
        weights[name] = before
    return weights


BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


def make(kind: torch.dtype | str, seed: int) -> Weights:
    """Return weights before (seed 0) and after finetuning of a type, of several, or in fp8."""
    if isinstance(kind, torch.dtype):
        return drawn(kind, seed)
    if kind == "mixed":
        types = zip(MIXED_SHAPES, (F32, BF16, F16), strict=True)
        return {name: drawn(dtype, seed)[name] for name, dtype in types}
    codes = nudge_codes(make_fp8()) if seed else make_fp8()
    return codes if kind == "fp8" else dequantized(codes)


# Type and form of the checkpoint before and after finetuning.
CASES = [
    (BF16, "safetensors", BF16, "sharded"),
    (F16, "safetensors", F16, "sharded"),
    (F32, "sharded", F32, "sharded"),
    (BF16, "bin", BF16, "sharded-bin"),
    (F16, "bin", F16, "bin"),
    (F32, "bin", F32, "sharded"),
    (F32, "safetensors", BF16, "bin"),
    (BF16, "safetensors", F16, "safetensors"),
    ("mixed", "bin", "mixed", "sharded"),
    ("fp8", "safetensors", "fp8", "sharded"),
    ("fp8", "safetensors", "fp8 in bfloat16", "bin"),
]


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


@pytest.mark.parametrize(("before", "form", "after", "new_form"), CASES)
def test_every_input_has_the_integers_of_torch_with_both_kernels(
    before, form, after, new_form, tmp_path
):
    pytest.importorskip("numba")
    init, tuned = make(before, 0), make(after, 1)
    folders = (
        write_checkpoint(tmp_path / "init", init, form, config=CONFIG),
        write_checkpoint(tmp_path / "tuned", tuned, new_form, config=CONFIG),
    )
    # What stored tensors stand for: themselves, but for fp8 codes and their scales.
    init = dequantized(init) if before == "fp8" else init
    tuned = dequantized(tuned) if after == "fp8" else tuned
    for kernel in ("numpy", "numba"):
        files = ["--out", f"{tmp_path}/{kernel}.csv", "--mask", f"{tmp_path}/{kernel}.mask"]
        run("updates", *folders, *files, "--kernel", kernel, "--threads", "2")
    for kind in ("csv", "mask"):
        numpy, numba = ((tmp_path / f"{k}.{kind}").read_bytes() for k in ("numpy", "numba"))
        assert numpy == numba
    rows = read_rows(tmp_path / "numpy.csv", UpdateRow)
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
    mask = Mask(tmp_path / "numpy.mask")
    for name in init:
        assert (mask.read(name) == changed_bits(init[name], tuned[name]).numpy()).all()
