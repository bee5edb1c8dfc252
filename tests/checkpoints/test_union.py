"""Masks united: every weight that any of them holds."""

import numpy as np
import pytest

from rlsubnet.checkpoints.masks import load_mask, save_mask
from rlsubnet.checkpoints.overlap import unite_masks
from rlsubnet.cli import main

SHAPES = {"a": (30, 41), "b": (7,), "c": (0, 4), "d": (1500, 700)}


def random_masks(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.random(shape) < 0.1 for name, shape in SHAPES.items()}


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_weight_is_in_the_union_if_any_mask_holds_it(tmp_path, number, capsys):
    masks = [random_masks(seed) for seed in range(number)]
    files = [tmp_path / f"{place}.safetensors" for place in range(number)]
    for file, mask in zip(files, masks, strict=True):
        save_mask(file, mask, {"rule": "bitwise", "atol": "0.0", "init_sha256": "ab"})
    out = tmp_path / "ever.safetensors"
    assert main(["union", *map(str, files), "--out", str(out)]) == 0
    united = load_mask(out)
    expected = {name: np.any([mask[name] for mask in masks], axis=0) for name in SHAPES}
    for name in SHAPES:
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
    save_mask(files[0], random_masks(0), {"init_sha256": "ab" * 32})
    save_mask(files[1], random_masks(1), {"init_sha256": "cd" * 32})
    save_mask(files[2], {"a": np.ones(3, bool)}, {"init_sha256": "ab" * 32})
    for other, message in ((files[1], "found different ones"), (files[2], "does not fit")):
        assert main(["union", files[0], other, "--out", str(tmp_path / "o")]) == 1
        assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2", "3"}


def test_a_damaged_mask_leaves_no_union(tmp_path):
    for seed in range(2):
        save_mask(tmp_path / str(seed), random_masks(seed), {})
    file = tmp_path / "1"
    # Bits beyond the last weight of the tensor of 7.
    masks = [load_mask(tmp_path / str(seed)) for seed in range(2)]
    place = masks[1]._tensors["b"].offset
    content = bytearray(file.read_bytes())
    content[place] |= 0x80
    file.write_bytes(content)
    with pytest.raises(ValueError, match="mask of b: bits set beyond the last weight"):
        unite_masks(masks, tmp_path / "o")
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}
