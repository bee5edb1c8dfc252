"""Two mask files and the checkpoint that they are about: counts, refusals, and the command."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.formats import read_header
from rlsubnet.checkpoints.masks import Mask, save_mask
from rlsubnet.checkpoints.structure import pair_masks, tensor_overlaps, unite_masks
from rlsubnet.cli import main
from rlsubnet.columns import OverlapRow
from rlsubnet.measure.overlap import OverlapCounts, TensorOverlap
from tests.checkpoints.checkpoint_files import (
    SHAPES,
    make_weights,
    nudge,
    read_rows,
    run,
    write_checkpoint,
)

Bits = dict[str, np.ndarray]


def random_bits(seed: int, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> Bits:
    rng = np.random.default_rng(seed)
    return {name: rng.random(shape) < 0.4 for name, shape in shapes.items()}


def mask_file(path: Path, bits: Bits, **metadata: str) -> Mask:
    save_mask(path, bits, metadata)
    return Mask(path)


def expected_by_magnitude(init: torch.Tensor, first: np.ndarray, second: np.ndarray) -> float:
    """Return what chance shares given the exponents, by torch and one weight after another."""
    groups: dict[int, list[int]] = {}
    # frexp gives 0 for 0; no weight here is subnormal.
    exponents = torch.frexp(init.bfloat16().float()).exponent.flatten().tolist()
    for exponent, in1, in2 in zip(exponents, first.ravel(), second.ravel(), strict=True):
        group = groups.setdefault(exponent, [0, 0, 0])
        group[0] += 1
        group[1] += int(in1)
        group[2] += int(in2)
    return sum(a * c / n for n, a, c in groups.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("chunk", [8, 1 << 18])
def test_every_tensor_is_counted_by_magnitude_piece_by_piece(tmp_path, dtype, chunk):
    init = make_weights(dtype=dtype)
    start = Checkpoint(write_checkpoint(tmp_path / "init", init, "sharded"))
    first, second = random_bits(1), random_bits(2)
    # The order of the tensors in a file plays no part.
    files = (
        mask_file(tmp_path / "1", first),
        mask_file(tmp_path / "2", dict(reversed(second.items()))),
    )
    found = dict(tensor_overlaps(pair_masks(*files, start), chunk))
    alone = dict(tensor_overlaps(pair_masks(*files), chunk))
    assert list(found) == list(alone) == list(start.tensors)
    for name, overlap in found.items():
        a, b = first[name], second[name]
        sizes = (a.size, int(a.sum()), int(b.sum()), int((a & b).sum()))
        assert overlap.counts == OverlapCounts(*sizes)
        assert alone[name] == TensorOverlap(OverlapCounts(*sizes), None)
        expected = expected_by_magnitude(init[name], a, b)
        assert overlap.by_magnitude == pytest.approx(expected)


def test_a_start_with_a_weight_that_is_no_number_is_refused(tmp_path):
    init = make_weights()
    init["model.norm.weight"][2] = math.nan
    start = Checkpoint(write_checkpoint(tmp_path / "init", init))
    masks = [mask_file(tmp_path / str(seed), random_bits(seed)) for seed in (1, 2)]
    with pytest.raises(ValueError, match=r"model\.safetensors: tensor model\.norm\.weight: 1 of"):
        list(tensor_overlaps(pair_masks(*masks, start)))


def test_masks_of_a_resized_vocabulary_need_its_tensors_named(tmp_path):
    init = make_weights()
    start = Checkpoint(write_checkpoint(tmp_path / "init", init))
    shapes = {**SHAPES, "lm_head.weight": (9, 4)}
    first, second = random_bits(1, shapes), random_bits(2, shapes)
    masks = mask_file(tmp_path / "1", first), mask_file(tmp_path / "2", second)
    with pytest.raises(ValueError, match=r"lm_head\.weight is \[9, 4\] in the mask, \[11, 4\] in"):
        pair_masks(*masks, start)
    found = dict(tensor_overlaps(pair_masks(*masks, start, ["lm_head.weight"])))
    name = "lm_head.weight"
    expected = expected_by_magnitude(init[name][:9], first[name], second[name])
    assert found[name].by_magnitude == pytest.approx(expected)
    with pytest.raises(ValueError, match="no tensor for common rows: head"):
        pair_masks(*masks, start, ["head"])


def test_masks_of_runs_with_different_starts_are_refused(tmp_path):
    start = Checkpoint(write_checkpoint(tmp_path / "init", make_weights()))
    digest = start.digest()
    first = mask_file(tmp_path / "1", random_bits(1), init_sha256=digest)
    other = mask_file(tmp_path / "2", random_bits(2), init_sha256="ab" * 32)
    for init in (None, start):
        with pytest.raises(ValueError, match=r"one checkpoint .* found different ones .*abababab"):
            pair_masks(first, other, init)
    # Two masks agree, the checkpoint beside them is another one.
    wrong = Checkpoint(write_checkpoint(tmp_path / "wrong", make_weights(seed=1)))
    with pytest.raises(ValueError, match=rf"/wrong {wrong.digest()[:12]}"):
        pair_masks(first, first, wrong)
    assert pair_masks(first, first, start).notes == ()


def test_what_masks_do_not_tell_is_said(tmp_path):
    first = mask_file(tmp_path / "1", random_bits(1), rule="bitwise", atol="0.0", init_sha256="a")
    second = mask_file(tmp_path / "2", random_bits(2), rule="official", atol="1e-05")
    assert pair_masks(first, second).notes == (
        f"{tmp_path / '2'} does not tell what its run started from: taken to be the same",
        "the masks were made by different rules: bitwise and official at 1e-05",
    )


def test_the_command_writes_and_prints_three_nulls(tmp_path, capsys):
    generator = torch.Generator().manual_seed(0)
    init = {
        f"model.layers.{layer}.mlp.up_proj.weight": (
            0.02 * torch.randn(8, 8, generator=generator)
        ).bfloat16()
        for layer in range(12)
    }
    start = write_checkpoint(tmp_path / "init", init)
    bits = []
    for seed in (1, 2):
        tuned = nudge(init, seed)
        bits.append({n: (init[n] != tuned[n]).numpy() for n in init})
        folder = write_checkpoint(tmp_path / f"tuned{seed}", tuned)
        assert main(["mask", str(start), str(folder), "--out", str(tmp_path / f"{seed}.m")]) == 0
    masks = tmp_path / "1.m", tmp_path / "2.m"
    run("overlap", *masks, "--init", start, "--out", tmp_path / "o.csv")
    printed = capsys.readouterr().out

    first, second = (sum(int(b.sum()) for b in side.values()) for side in bits)
    both = sum(int((bits[0][n] & bits[1][n]).sum()) for n in init)
    chances = [
        first * second / 768,
        sum(bits[0][n].sum() * bits[1][n].sum() / bits[0][n].size for n in init),
        sum(expected_by_magnitude(init[n], bits[0][n], bits[1][n]) for n in init),
    ]
    rows = read_rows(tmp_path / "o.csv", OverlapRow)
    assert [row["null"] for row in rows] == ["uniform", "per_tensor", "per_magnitude"]
    for row, chance in zip(rows, chances, strict=True):
        assert (row["o1"], row["o2"]) == (repr(both / first), repr(both / second))
        assert float(row["o1_null"]) == pytest.approx(chance / first)
        assert float(row["o2_null"]) == pytest.approx(chance / second)
        assert float(row["lift"]) == pytest.approx(both / chance)
        assert float(row["ci_low"]) < float(row["lift"]) < float(row["ci_high"])
        assert f"{float(row['lift']):.3f}  {float(row['ci_low']):.3f} to" in printed
    assert f"768 weights in 12 tensors\nsubnetwork 1  {first:>15} updated" in printed
    assert f": o1 = {both / first:.2%} of subnetwork 1" in printed
    assert "same density in each tensor and bf16 exponent" in printed
    assert "note:" not in printed

    # The seed moves the intervals alone; the same seed gives the same bits.
    before = (tmp_path / "o.csv").read_bytes()
    run("overlap", *masks, "--init", start, "--out", tmp_path / "o.csv", "--seed", 0)
    assert (tmp_path / "o.csv").read_bytes() == before
    run("overlap", *masks, "--init", start, "--out", tmp_path / "o.csv", "--seed", 1)
    other = read_rows(tmp_path / "o.csv", OverlapRow)
    assert [row["lift"] for row in other] == [row["lift"] for row in rows]
    assert [row["ci_low"] for row in other] != [row["ci_low"] for row in rows]


def test_without_the_start_the_command_prints_two_nulls_and_how_to_get_the_third(tmp_path, capsys):
    # One tensor, 9 weights: 6 and 3 updated, 2 in both; chance gives 6 * 3 / 9 = 2.
    bits = np.zeros((2, 9), bool)
    bits[0, :6] = bits[1, 4:7] = True
    for name, mask in zip("12", bits, strict=True):
        mask_file(tmp_path / name, {"w": mask})
    run("overlap", tmp_path / "1", tmp_path / "2", "--out", tmp_path / "o.csv")
    numbers = {"o1": repr(2 / 6), "o2": repr(2 / 3), "o1_null": repr(2 / 6), "o2_null": repr(2 / 3)}
    rows = read_rows(tmp_path / "o.csv", OverlapRow)
    assert [row["null"] for row in rows] == ["uniform", "per_tensor"]
    for row in rows:
        # A single tensor gives no interval.
        assert row == {"null": row["null"], **numbers, "lift": "1.0", "ci_low": "", "ci_high": ""}
    printed = capsys.readouterr().out
    assert "not defined" in printed
    assert "--init INIT adds the null" in printed
    assert f"note: {tmp_path / '1'} does not tell what its run started from" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "2: subnetwork 2 is empty: its overlap is not defined"),
        (["--seed", "-1"], "--seed must be 0 or more, found -1"),
        (["--common-rows", "w"], "--common-rows has no meaning without --init"),
    ],
)
def test_what_the_command_cannot_answer_is_one_line_and_no_file(
    tmp_path, capsys, arguments, message
):
    for name, value in (("1", True), ("2", False)):
        mask_file(tmp_path / name, {"w": np.full(9, value)})
    masks = [str(tmp_path / "1"), str(tmp_path / "2")]
    assert main(["overlap", *masks, "--out", str(tmp_path / "o.csv"), *arguments]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o.csv").exists()


UNITED = {"a": (30, 41), "b": (7,), "c": (0, 4), "d": (1500, 700)}


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_weight_is_in_the_union_if_any_mask_holds_it(tmp_path, number, capsys):
    masks = [random_bits(seed, UNITED) for seed in range(number)]
    files = [tmp_path / f"{place}.safetensors" for place in range(number)]
    for file, mask in zip(files, masks, strict=True):
        save_mask(file, mask, {"rule": "bitwise", "atol": "0.0", "init_sha256": "ab"})
    out = tmp_path / "ever.safetensors"
    assert main(["union", *map(str, files), "--out", str(out)]) == 0
    united = Mask(out)
    expected = {name: np.any([mask[name] for mask in masks], axis=0) for name in UNITED}
    for name in UNITED:
        assert (united.read(name) == expected[name]).all()
    told = {"rule": "bitwise", "atol": "0.0", "init_sha256": "ab", "union_of": str(number)}
    assert {key: united.metadata.get(key) for key in told} == told
    ever = sum(int(mask.sum()) for mask in expected.values())
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"{ever:,} of 1,051,237 weights ({ever / 1_051_237:.2%})")
    for line, file, mask in zip(printed[1:], files, masks, strict=True):
        size = sum(int(part.sum()) for part in mask.values())
        assert line.split()[0] == f"{size:,}"
        assert line.endswith(str(file))
    # A mask lies in its union whole.
    assert main(["overlap", str(files[0]), str(out)]) == 0
    assert "o1 = 100.00% of subnetwork 1" in capsys.readouterr().out


def test_masks_of_different_starts_or_tensors_have_no_union(tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("1", "2", "3")]
    save_mask(files[0], random_bits(0, UNITED), {"init_sha256": "ab" * 32})
    save_mask(files[1], random_bits(1, UNITED), {"init_sha256": "cd" * 32})
    save_mask(files[2], {"a": np.ones(3, bool)}, {"init_sha256": "ab" * 32})
    for other, message in ((files[1], "found different ones"), (files[2], "does not fit")):
        assert main(["union", files[0], other, "--out", str(tmp_path / "o")]) == 1
        assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2", "3"}


def test_a_damaged_mask_leaves_no_union(tmp_path):
    for seed in range(2):
        save_mask(tmp_path / str(seed), random_bits(seed, UNITED), {})
    file = tmp_path / "1"
    # Bits beyond the last weight of the tensor of 7.
    masks = [Mask(tmp_path / str(seed)) for seed in range(2)]
    place = read_header(file)[0]["b"].offset
    content = bytearray(file.read_bytes())
    content[place] |= 0x80
    file.write_bytes(content)
    with pytest.raises(ValueError, match="mask of b: bits set beyond the last weight"):
        unite_masks(masks, tmp_path / "o")
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}
