import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.differ import measure_update
from rlsubnet.checkpoints.formats import ITEM_BYTES, encode_header
from rlsubnet.checkpoints.masks import Mask, save_mask
from rlsubnet.checkpoints.pair import (
    Pair,
    check_frozen,
    export_trained,
    pair_checkpoints,
    random_masks,
)
from rlsubnet.checkpoints.structure import measure_trajectory
from rlsubnet.measure.kernel import Request
from rlsubnet.measure.sparsity import TOLERANCES
from tests.checkpoints.checkpoint_files import (
    SHAPES,
    count_updates,
    make_weights,
    masks_of,
    nudge,
    write_checkpoint,
)
from tests.checkpoints.test_fp8 import CONFIG

EMBEDDING = "model.embed_tokens.weight"


def open_pair(folders: tuple[Path, Path], *common_rows: str) -> Pair:
    return pair_checkpoints(*map(Checkpoint, folders), common_rows)


def test_a_random_mask_has_the_size_of_the_update_in_every_tensor_and_follows_from_its_seed(pair):
    opened = open_pair(pair)
    update = {name: piece.sum() for name, piece in masks_of(opened)}
    drawn = [dict(random_masks(opened, seed)) for seed in (0, 0, 1)]
    for masks in drawn:
        assert {name: mask.sum() for name, mask in masks.items()} == update
    assert all(np.array_equal(drawn[0][name], drawn[1][name]) for name in update)
    assert any(not np.array_equal(drawn[0][name], drawn[2][name]) for name in update)


def test_everything_that_does_not_match_is_listed_for_both_sides(tmp_path):
    init, tuned = make_weights(), make_weights()
    del tuned["model.norm.weight"], tuned["model.layers.0.self_attn.q_proj.bias"]
    tuned["model.layers.0.self_attn.q_norm.weight"] = torch.zeros(4)
    tuned["lm_head.weight"] = torch.zeros(12, 4)
    tuned[EMBEDDING] = torch.zeros(11, 5)
    folders = write_checkpoint(tmp_path / "a", init), write_checkpoint(tmp_path / "b", tuned)
    with pytest.raises(ValueError) as error:
        open_pair(folders, EMBEDDING, "lm_head.weight")
    assert str(error.value) == (
        f"{folders[0]} and {folders[1]} do not match: only in {folders[0]}: "
        f"model.layers.0.self_attn.q_proj.bias, model.norm.weight; only in {folders[1]}: "
        f"model.layers.0.self_attn.q_norm.weight; shapes: {EMBEDDING} [11, 4] against [11, 5]"
    )


def test_common_rows_of_a_resized_vocabulary_are_compared(tmp_path):
    init = make_weights()
    tuned = nudge(init)
    grown = dict(tuned)
    grown[EMBEDDING] = torch.cat([tuned[EMBEDDING], torch.ones(3, 4, dtype=torch.bfloat16)])
    folders = [
        write_checkpoint(tmp_path / name, weights)
        for name, weights in (("init", init), ("tuned", tuned), ("grown", grown))
    ]
    with pytest.raises(ValueError, match=r"\[11, 4\] against \[14, 4\]"):
        open_pair((folders[0], folders[2]))
    resized = open_pair((folders[0], folders[2]), EMBEDDING, "lm_head.weight")
    assert resized.resized == {EMBEDDING: (11, 14)}
    expected = count_updates(open_pair((folders[0], folders[1])), TOLERANCES)
    assert count_updates(resized, TOLERANCES) == expected
    assert expected[EMBEDDING].numel == 44
    # The other way round the init has more rows.
    turned = open_pair((folders[2], folders[0]), EMBEDDING)
    assert count_updates(turned, TOLERANCES)[EMBEDDING] == expected[EMBEDDING]


def test_stored_types_that_differ_are_reported_and_follow_both_rules(tmp_path):
    init = make_weights(dtype=torch.float32)
    folders = (
        write_checkpoint(tmp_path / "a", init),
        write_checkpoint(tmp_path / "b", {name: t.bfloat16() for name, t in init.items()}),
    )
    opened = open_pair(folders)
    assert opened.differing_dtypes == dict.fromkeys(opened.shapes, ("F32", "BF16"))
    for counts in count_updates(opened, [0.0]).values():
        # Rounding is no update under official and bitwise; exact sees it.
        assert counts.bitwise_changed == 0
        assert counts.unchanged["official", 0.0] == counts.numel
        assert counts.unchanged["exact", 0.0] < counts.numel / 2


def all_masks(value: bool) -> dict[str, np.ndarray]:
    return {name: np.full(shape, value) for name, shape in SHAPES.items()}


def test_a_change_outside_the_mask_is_found_at_its_tensor(tmp_path):
    init = make_weights()
    init["model.norm.weight"][2] = 0.0
    tuned = {name: tensor.clone() for name, tensor in init.items()}
    masks = all_masks(False)
    masks[EMBEDDING][0] = True
    tuned[EMBEDDING][0, :3] *= 2  # inside
    tuned["model.norm.weight"][2] = -0.0  # outside, another bit
    folders = write_checkpoint(tmp_path / "a", init), write_checkpoint(tmp_path / "b", tuned)
    save_mask(tmp_path / "m", masks, {})
    counts = dict(check_frozen(open_pair(folders), Mask(tmp_path / "m"), chunk=8))
    rows = {name: tuple(vars(count).values()) for name, count in counts.items()}
    # numel, frozen, frozen_changed, subnetwork, subnetwork_changed
    assert rows.pop(EMBEDDING) == (44, 40, 0, 4, 3)
    assert rows.pop("model.norm.weight") == (4, 4, 1, 0, 0)
    assert {(row[2], row[4]) for row in rows.values()} == {(0, 0)}


def test_frozen_refuses_types_that_cannot_be_compared_bit_by_bit(tmp_path):
    folders = (
        write_checkpoint(tmp_path / "a", make_weights()),
        write_checkpoint(tmp_path / "b", make_weights(dtype=torch.float32)),
    )
    save_mask(tmp_path / "m", all_masks(True), {})
    with pytest.raises(ValueError, match="cannot be compared bit by bit"):
        list(check_frozen(open_pair(folders), Mask(tmp_path / "m")))


def test_a_trajectory_needs_one_stored_type(tmp_path):
    start = Checkpoint(write_checkpoint(tmp_path / "a", make_weights()))
    step = Checkpoint(write_checkpoint(tmp_path / "b", make_weights(dtype=torch.float16)))
    with pytest.raises(ValueError, match="b: stored types are not those of"):
        measure_trajectory(start, [step])
    with pytest.raises(ValueError, match="at least one saved step"):
        measure_trajectory(start, [])


@pytest.mark.parametrize(
    "entries",
    [
        {"w": ("BF16", (4096, 4096))},
        {"w": ("F8_E4M3", (4096, 8192)), "w_scale_inv": ("F32", (32, 64))},
    ],
)
def test_memory_does_not_grow_with_the_tensor(entries, tmp_path):
    # 32 MiB in each file, all zero.
    for name in ("init", "tuned"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(CONFIG))
        header = encode_header(entries, {})
        with (tmp_path / name / "model.safetensors").open("wb") as stream:
            stream.write(header)
            sizes = (math.prod(shape) * ITEM_BYTES[kind] for kind, shape in entries.values())
            stream.truncate(len(header) + sum(sizes))
    opened = open_pair((tmp_path / "init", tmp_path / "tuned"))
    tracemalloc.start()
    try:
        request = Request(TOLERANCES)
        counts = measure_update(opened, request, mask=tmp_path / "m", threads=2)["w"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert counts.update_counts(TOLERANCES).numel == math.prod(entries["w"][1])
    assert peak < 24 * 2**20


def tensors(factor: float = 1.0) -> dict[str, torch.Tensor]:
    values = torch.arange(1, 7, dtype=torch.bfloat16).reshape(3, 2) * factor
    return {EMBEDDING: values, "model.norm.weight": values[:, 0].clone()}


def export(folder: Path, trained: dict[str, torch.Tensor], tied: bool = False) -> Path:
    """Export what open-instruct leaves: pickled weights, a configuration of its own."""
    config = {"tie_word_embeddings": tied}
    init = write_checkpoint(folder / "init", tensors(), config=config | {"rope_theta": 5e5})
    (init / "tokenizer.json").write_text("{}", encoding="utf-8")
    out = folder / "out"
    out.mkdir()
    export_trained(init, write_checkpoint(folder / "trained", trained, "bin", config), out)
    return out


def test_weights_are_the_trained_ones_and_all_else_is_the_init_s(tmp_path, monkeypatch):
    monkeypatch.setattr("rlsubnet.checkpoints.pair.CHUNK", 4)  # more weights than a piece
    trained = {f"module.{name}": value for name, value in tensors(2.0).items()}
    out = export(tmp_path, trained)
    state = load_file(out / "model.safetensors")
    assert set(state) == set(tensors())
    assert all(torch.equal(state[name], value) for name, value in tensors(2.0).items())
    assert (out / "config.json").read_bytes() == (tmp_path / "init/config.json").read_bytes()
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    with safe_open(out / "model.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}  # transformers refuses a file without it


def test_a_tied_head_that_is_stored_again_is_left_out(tmp_path):
    state = tensors(2.0)
    out = export(tmp_path, state | {"lm_head.weight": state[EMBEDDING]}, tied=True)
    assert set(load_file(out / "model.safetensors")) == set(tensors())


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("model.norm.weight", torch.ones(4).bfloat16(), r"model.norm.weight \[3\] aga"),
        ("extra", torch.ones(1).bfloat16(), "only in .*trained: extra"),
        ("model.norm.weight", torch.ones(3), "expected weights in BF16, found F32 in model.norm"),
        ("model.norm.weight", torch.tensor([1, np.nan, 1]).bfloat16(), "1 of the weights 0 to 2"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, name, values, expected):
    with pytest.raises(ValueError, match=expected):
        export(tmp_path, tensors(2.0) | {name: values})
    assert list((tmp_path / "out").iterdir()) == []
