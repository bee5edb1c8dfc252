"""Sparse deltas: every file comes back byte by byte, and a wrong init is refused by name."""

import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rlsubnet.checkpoints import delta, delta_file, delta_pack
from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta import PatchedCheckpoint, find_steps, open_steps, step_file, unpack
from rlsubnet.checkpoints.delta_file import Delta, Manifest
from rlsubnet.checkpoints.delta_pack import pack, write_delta
from rlsubnet.checkpoints.sources import FileSource
from rlsubnet.files import sha256
from tests.checkpoints.checkpoint_files import contents, make_weights, nudge, write_checkpoint

QUERY = "model.layers.0.self_attn.q_proj.weight"
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def packed(folder: Path, init: Path, tuned: Path) -> Path:
    pack(FileSource(init), FileSource(tuned), folder / "x.delta")
    return folder / "x.delta"


def sha256_of_files(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def round_trip(folder: Path, init: Path, tuned: Path) -> Manifest:
    """Pack and unpack, compare every file by its digest, and return what the delta holds."""
    path = packed(folder, init, tuned)
    unpack(FileSource(init), path, folder / "out")
    assert sha256_of_files(folder / "out") == sha256_of_files(tuned)
    return Delta(path).manifest


def awkward(dtype: torch.dtype) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return a pair with bits that an arithmetic difference would lose."""
    weights = make_weights(dtype=dtype)
    tuned = nudge(weights)
    tuned[QUERY].view(-1)[:3] = torch.tensor([float("nan"), -0.0, float("inf")])
    weights[QUERY].view(-1)[1] = 0.0
    return weights, tuned


@pytest.mark.parametrize(
    ("dtype", "old", "new"),
    [
        (torch.bfloat16, "safetensors", "sharded"),
        (torch.float16, "sharded", "safetensors"),
        (torch.float32, "safetensors", "sharded"),
        (torch.float64, "safetensors", "safetensors"),
    ],
)
def test_every_file_comes_back_byte_by_byte(tmp_path, dtype, old, new):
    before, after = awkward(dtype)
    init = write_checkpoint(tmp_path / "init", before, old)
    tuned = write_checkpoint(tmp_path / "tuned", after, new)
    (tuned / "chat_template.jinja").write_text("{{ messages }}")
    files = round_trip(tmp_path, init, tuned).files
    assert files["chat_template.jinja"].kind == "stored"
    assert files["config.json"].kind == "init"


def test_types_that_nobody_measures_come_back_too(tmp_path):
    before = {
        "a": torch.arange(20).float().to(torch.float8_e4m3fn).reshape(4, 5),
        "b": torch.arange(6),
        "c": torch.tensor([True, False]),
        "d": torch.arange(4).to(torch.float8_e5m2),
        "scalar": torch.tensor(1.5),
        "empty": torch.zeros(0, 3),
    }
    after = {name: tensor.clone() for name, tensor in before.items()}
    after["a"].view(torch.uint8)[1, 2] ^= 0xFF
    after["b"][3] = -1
    after["c"][0] = False
    after["scalar"] += 1
    init = write_checkpoint(tmp_path / "init", before)
    tensors = round_trip(tmp_path, init, write_checkpoint(tmp_path / "tuned", after)).tensors
    expected = {"a": 1, "b": 1, "c": 1, "d": 0, "scalar": 1, "empty": 0}
    assert {name: tensor.changed for name, tensor in tensors.items()} == expected


def test_new_removed_and_resized_tensors(tmp_path):
    before = make_weights()
    after = nudge(before)
    after[EMBEDDING] = torch.cat([after[EMBEDDING], torch.full((2, 4), 3.0).bfloat16()])
    after[HEAD] = after[HEAD][:5]
    after["value_head.weight"] = torch.full((1, 4), 2.0).bfloat16()
    after[QUERY] = after[QUERY].float()  # another type: stored whole
    del after["model.norm.weight"]
    init = write_checkpoint(tmp_path / "init", before)
    manifest = round_trip(tmp_path, init, write_checkpoint(tmp_path / "tuned", after))
    assert manifest.removed == ("model.norm.weight",)
    bases = {name: tensor.init for name, tensor in manifest.tensors.items()}
    assert (bases["value_head.weight"], bases[QUERY], bases[HEAD]) == ("", "", HEAD)
    common = before[EMBEDDING] != after[EMBEDDING][:11]
    assert manifest.tensors[EMBEDDING].changed == int(common.sum()) + 2 * 4


def test_a_bfloat16_copy_of_a_wider_init_has_no_change(tmp_path):
    wide = make_weights(dtype=torch.float32)
    narrow = {name: tensor.bfloat16() for name, tensor in wide.items()}
    init = write_checkpoint(tmp_path / "init", wide)
    manifest = round_trip(tmp_path, init, write_checkpoint(tmp_path / "tuned", narrow))
    assert sum(tensor.changed for tensor in manifest.tensors.values()) == 0


def test_a_tied_head_is_not_stored_twice(tmp_path):
    before = make_weights()
    after = nudge(before)
    after[HEAD] = after[EMBEDDING].clone()
    untied = {name: tensor for name, tensor in before.items() if name != HEAD}
    init = write_checkpoint(tmp_path / "init", untied)
    tuned = write_checkpoint(tmp_path / "tuned", after)
    tensors = round_trip(tmp_path, init, tuned).tensors
    assert tensors[HEAD].same_as == EMBEDDING
    # Against an init that ties its head, a head of its own builds on the embedding.
    after[HEAD][0, 0] = 7.0
    write_checkpoint(tuned, after)
    (tmp_path / "out").rename(tmp_path / "first")
    tensors = round_trip(tmp_path, init, tuned).tensors
    assert (tensors[HEAD].same_as, tensors[HEAD].init) == ("", EMBEDDING)
    assert tensors[HEAD].changed == int((after[HEAD] != before[EMBEDDING]).sum())


def test_names_with_the_prefix_of_a_trainer_find_their_init(tmp_path):
    before = make_weights()
    after = {f"module.{name}": tensor for name, tensor in nudge(before).items()}
    init = write_checkpoint(tmp_path / "init", before)
    tensors = round_trip(tmp_path, init, write_checkpoint(tmp_path / "tuned", after)).tensors
    assert tensors[f"module.{QUERY}"].init == QUERY


def test_bin_files_come_back_as_safetensors(tmp_path):
    before, after = awkward(torch.bfloat16)
    init = write_checkpoint(tmp_path / "init", before, "sharded-bin")
    path = packed(tmp_path, init, write_checkpoint(tmp_path / "tuned", after, "sharded-bin"))
    unpack(FileSource(init), path, tmp_path / "out")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: tensor.view(torch.int16).tolist() for name, tensor in found.items()} == {
        name: tensor.view(torch.int16).tolist() for name, tensor in after.items()
    }
    assert sorted(contents(tmp_path / "out")) == ["config.json", "model.safetensors"]
    assert "pytorch_model.bin.index.json" in Delta(path).manifest.left_out


def test_what_is_left_out_is_named(pair, tmp_path):
    init, tuned = pair
    (tuned / "optimizer.pt").write_bytes(b"x")
    (tuned / "download.json").write_text("{}")
    (tuned / "logs").mkdir()
    (tuned / "notes.md").write_text("kept")
    manifest = Delta(packed(tmp_path, init, tuned)).manifest
    assert manifest.left_out == ("download.json", "logs", "optimizer.pt")
    assert manifest.files["notes.md"].kind == "stored"


def test_weights_in_memory_are_packed_as_those_on_disk(pair, tmp_path):
    init, tuned = map(Checkpoint, pair)
    arrays = {name: tuned.read(name) for name in tuned.tensors}
    write_delta(tmp_path / "memory.delta", init, arrays.__getitem__)
    (pair[0] / "tokenizer.json").write_text("{}")
    unpack(FileSource(pair[0]), tmp_path / "memory.delta", tmp_path / "out")
    assert Checkpoint(tmp_path / "out").digest() == tuned.digest()
    names = ["config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(contents(tmp_path / "out")) == names
    arrays = {name: init.read(name).reshape(-1) for name in init.tensors}
    with pytest.raises(ValueError, match=r"\[11, 4\] as in .*, found uint16 \[44\]"):
        write_delta(tmp_path / "wrong.delta", init, arrays.__getitem__)
    assert not (tmp_path / "wrong.delta").exists()


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_range_of_a_patched_tensor_is_that_of_the_tuned_one(data, tmp_path_factory):
    numel = data.draw(st.integers(1, 200))
    places = sorted(data.draw(st.sets(st.integers(0, numel - 1))))
    before = torch.arange(numel).bfloat16()
    after = before.clone()
    after[places] = -after[places] - 1
    folder = tmp_path_factory.mktemp("range")
    init = Checkpoint(write_checkpoint(folder / "init", {"w": before}))
    target = Checkpoint(write_checkpoint(folder / "tuned", {"w": after}))
    with pytest.MonkeyPatch.context() as patch:
        for module in (delta, delta_file, delta_pack):
            patch.setattr(module, "BLOCK", 16)  # so that a tensor has several
        patched = PatchedCheckpoint(init, packed(folder, init.path, target.path))
        for _ in range(4):
            start = data.draw(st.integers(0, numel))
            count = data.draw(st.integers(0, numel - start))
            expected = target.read_range("w", start, count)
            assert patched.read_range("w", start, count).tolist() == expected.tolist()


def test_memory_does_not_grow_with_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr(delta_pack, "default_threads", lambda: 2)
    weights = torch.full((12, 1 << 20), 1.0).bfloat16()
    init = write_checkpoint(tmp_path / "init", {"w": weights})
    weights[:, ::5] = -1
    tuned = write_checkpoint(tmp_path / "tuned", {"w": weights})
    tracemalloc.start()
    round_trip(tmp_path, init, tuned)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A block of half a MiB of each side in a bounded number of tasks, however large the tensor;
    # with two threads five of them, each with at most 5 arrays.
    assert peak < 15e6 < tuned.joinpath("model.safetensors").stat().st_size


@pytest.mark.parametrize(("drift", "sparsity", "most"), [(2.05e-5, 0.77, 0.12), (6e-6, 0.93, 0.05)])
def test_a_delta_is_as_small_as_sparsity_allows(tmp_path, drift, sparsity, most):
    """bfloat16 weights N(0, 0.02) that drifted independently; a full file is 1."""
    generator = torch.Generator().manual_seed(0)
    before = (0.02 * torch.randn(2048, 1024, generator=generator)).bfloat16()
    after = (before + drift * torch.randn(before.shape, generator=generator)).bfloat16()
    init = write_checkpoint(tmp_path / "init", {"w": before})
    tuned = write_checkpoint(tmp_path / "tuned", {"w": after})
    tensors = round_trip(tmp_path, init, tuned).tensors.values()
    changed = sum(tensor.changed for tensor in tensors) / sum(tensor.numel for tensor in tensors)
    assert 1 - changed == pytest.approx(sparsity, abs=0.005)
    full = sum(path.stat().st_size for path in tuned.glob("*.safetensors"))
    assert (tmp_path / "x.delta").stat().st_size <= most * full


def test_an_init_that_differs_is_refused_with_the_names(pair, tmp_path):
    init, tuned = pair
    path = packed(tmp_path, init, tuned)
    weights = load_file(init / "model.safetensors")
    weights[QUERY][0, 0] += 1
    weights[HEAD][0, 0] += 1
    save_file(weights, init / "model.safetensors")
    names = f"another init than {init}: tensors differ: {HEAD} .*expected digest.*{QUERY} "
    with pytest.raises(ValueError, match=names):
        unpack(FileSource(init), path, tmp_path / "out")
    with pytest.raises(ValueError, match=names):
        PatchedCheckpoint(Checkpoint(init), path)
    del weights[HEAD]
    weights[QUERY] = weights[QUERY][:2].clone()
    save_file(weights, init / "model.safetensors")
    with pytest.raises(ValueError, match=rf"lm_head.weight \(missing\), {QUERY} \(expected BF16"):
        unpack(FileSource(init), path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_init_must_have_is_missed_by_name(pair, tmp_path):
    init, tuned = pair
    path = packed(tmp_path, init, tuned)
    (init / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"init/config\.json: expected config\.json of digest"):
        unpack(FileSource(init), path, tmp_path / "out")
    (init / "config.json").unlink()
    with pytest.raises(ValueError, match=r"needs files that .*init lacks: config\.json"):
        unpack(FileSource(init), path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_not_replaced(pair, tmp_path):
    path = packed(tmp_path, *pair)
    with pytest.raises(ValueError, match="tuned: exists; expected the path of a new folder"):
        unpack(FileSource(pair[0]), path, pair[1])
    (tmp_path / "empty").mkdir()
    unpack(FileSource(pair[0]), path, tmp_path / "empty")
    assert contents(tmp_path / "empty") == contents(pair[1])


def test_a_folder_of_step_files_stands_for_all_of_them(pair, tmp_path):
    init, tuned = map(Checkpoint, pair)
    for step, checkpoint in ((20, init), (100, tuned)):
        path = tmp_path / "steps" / step_file(step)
        pack(FileSource(init.path), FileSource(checkpoint.path), path)
    steps = find_steps([tmp_path / "steps"])
    found = {step: path.name for step, path in steps.items()}
    assert found == {20: "step-000020.delta", 100: "step-000100.delta"}
    mixed = {**steps, 120: pair[1]}
    digests = [checkpoint.digest() for checkpoint in open_steps(init, mixed).values()]
    assert digests == [init.digest(), tuned.digest(), tuned.digest()]
    with pytest.raises(ValueError, match="--steps has 1 numbers for 2 saved steps"):
        find_steps([tmp_path / "steps"], [7])
    with pytest.raises(ValueError, match="tuned: no step number in its name"):
        find_steps([pair[1]])
