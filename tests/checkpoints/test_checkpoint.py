import collections
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.formats import (
    encode_header,
    pieces,
    read_stored,
    read_torch_header,
)
from tests.checkpoints.checkpoint_files import SHAPES, make_weights, write_checkpoint

FORMS = ["safetensors", "sharded", "bin", "sharded-bin"]
TAGS = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}


def stored_bits(tensor: torch.Tensor) -> np.ndarray:
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", list(TAGS))
def test_every_form_of_checkpoint_reads_back_bit_by_bit(tmp_path, form, dtype):
    weights = make_weights(dtype=dtype)
    checkpoint = Checkpoint(write_checkpoint(tmp_path, weights, form))
    assert set(checkpoint.tensors) == set(SHAPES)
    for name, tensor in weights.items():
        info = checkpoint.tensors[name]
        assert (info.dtype, info.shape, info.numel) == (TAGS[dtype], SHAPES[name], tensor.numel())
        assert (checkpoint.read(name) == stored_bits(tensor)).all()
        found = [checkpoint.read_range(name, *piece) for piece in pieces(tensor.numel(), 8)]
        assert (np.concatenate(found) == stored_bits(tensor).ravel()).all()


def test_digest_is_that_of_the_weights_and_not_of_their_files(tmp_path):
    weights = make_weights()
    digests = {
        Checkpoint(write_checkpoint(tmp_path / form, weights, form)).digest() for form in FORMS
    }
    assert len(digests) == 1
    assert Checkpoint(tmp_path / "safetensors/model.safetensors").digest() in digests
    weights["model.norm.weight"][0] *= 2
    assert Checkpoint(write_checkpoint(tmp_path / "x", weights)).digest() not in digests


def test_tensors_come_in_natural_order(tmp_path):
    weights = {f"model.layers.{n}.mlp.up_proj.weight": torch.zeros(2, 2) for n in (10, 2, 1)}
    names = list(Checkpoint(write_checkpoint(tmp_path, weights)).tensors)
    assert [name.split(".")[2] for name in names] == ["1", "2", "10"]


def test_shards_may_be_links_as_in_the_hugging_face_cache(tmp_path):
    folder = write_checkpoint(tmp_path / "snapshot", make_weights(), "sharded")
    (tmp_path / "blobs").mkdir()
    for number, shard in enumerate(sorted(folder.glob("model-*.safetensors"))):
        blob = shard.rename(tmp_path / "blobs" / f"{number:064x}")
        shard.symlink_to(blob)
    assert Checkpoint(folder).digest() == (
        Checkpoint(write_checkpoint(tmp_path / "plain", make_weights())).digest()
    )


def test_a_tied_head_that_is_stored_twice_counts_once(tmp_path):
    weights = make_weights()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    tied = Checkpoint(write_checkpoint(tmp_path / "a", weights, config={"tie_word_embeddings": 1}))
    assert tied.tied == ("lm_head.weight",)
    assert set(tied.tensors) == set(SHAPES) - {"lm_head.weight"}
    # Equal by chance, or by a start that copies one into the other: two weights.
    untied = Checkpoint(write_checkpoint(tmp_path / "b", weights))
    assert untied.tied == ()
    assert set(untied.tensors) == set(SHAPES)
    # A head that differs is a weight whatever the config says.
    own = write_checkpoint(tmp_path / "c", make_weights(), config={"tie_word_embeddings": True})
    assert "lm_head.weight" in Checkpoint(own).tensors


def test_prefixes_of_trainers_are_removed(tmp_path):
    wrapped = {f"_orig_mod.module.{n}": t for n, t in make_weights().items()}
    assert Checkpoint(write_checkpoint(tmp_path / "a", wrapped)).digest() == (
        Checkpoint(write_checkpoint(tmp_path / "b", make_weights())).digest()
    )
    both = wrapped | make_weights()
    with pytest.raises(ValueError, match=r"are both lm_head\.weight"):
        Checkpoint(write_checkpoint(tmp_path / "c", both))


def test_rotary_frequencies_are_named_and_not_counted(tmp_path):
    buffer = "model.layers.0.self_attn.rotary_emb.inv_freq"
    weights = make_weights() | {buffer: torch.ones(4)}
    checkpoint = Checkpoint(write_checkpoint(tmp_path, weights))
    assert checkpoint.buffers == (buffer,)
    assert set(checkpoint.tensors) == set(SHAPES)


def test_safetensors_is_preferred_as_transformers_does(tmp_path):
    write_checkpoint(tmp_path, make_weights(seed=1), "bin")
    write_checkpoint(tmp_path, make_weights(seed=2))
    weights = make_weights(seed=2)["model.norm.weight"]
    assert (Checkpoint(tmp_path).read("model.norm.weight") == stored_bits(weights)).all()


@given(
    st.dictionaries(
        st.text(min_size=1).filter(lambda name: name != "__metadata__"),
        st.tuples(st.just("F32"), st.lists(st.integers(0, 3), max_size=3).map(tuple)),
    )
)
def test_headers_we_write_are_read_by_the_safetensors_library(entries):
    size = sum(4 * int(np.prod(shape)) for _, shape in entries.values())
    tensors = load(encode_header(entries, {"key": "value"}) + bytes(size))
    assert {name: tensor.shape for name, tensor in tensors.items()} == {
        name: shape for name, (_, shape) in entries.items()
    }


def test_index_of_transformers_itself_is_read(tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 64}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, tie_word_embeddings=True)
    model = transformers.LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    checkpoint = Checkpoint(tmp_path)
    parameters = dict(model.named_parameters())
    assert set(checkpoint.tensors) == set(parameters)
    for name, parameter in parameters.items():
        assert (checkpoint.read(name) == stored_bits(parameter.detach())).all()


def state(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors that share a storage, are views, lie in another order, or hold one number or none."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 5, 4, generator=generator).to(dtype)
    matrix = torch.randn(7, 3, generator=generator).to(dtype)
    return {
        "whole": whole,
        "tied": whole,
        "rows": whole[2:5],
        "transposed": matrix.t(),
        "columns": matrix[:, 1:],
        "every other": whole.permute(2, 0, 1)[::2],
        "parameter": torch.nn.Parameter(matrix),
        "one": torch.tensor(3.0, dtype=dtype),
        "none": torch.zeros(0, 4, dtype=dtype),
        "one row": matrix[3:4].t(),
    }


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("dtype", list(TAGS))
def test_every_range_of_every_tensor_has_the_bits_of_torch(tmp_path, dtype):
    file = tmp_path / "pytorch_model.bin"
    torch.save(collections.OrderedDict(state(dtype)), file)
    expected = torch.load(file, weights_only=True)
    infos = read_torch_header(file)
    assert list(infos) == list(expected)
    for name, tensor in expected.items():
        assert infos[name].shape == tuple(tensor.shape)
        stored = bits(tensor)
        for start, count in ((0, tensor.numel()), (tensor.numel() // 3, tensor.numel() // 2)):
            wanted = stored[start * dtype.itemsize : (start + count) * dtype.itemsize]
            assert read_stored(infos[name], start, count).tobytes() == wanted


def test_torch_is_asked_for_where_it_is_missing(tmp_path, monkeypatch):
    torch.save(state(torch.bfloat16), tmp_path / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"model\.bin: a torch file, needs torch; .*\[train\]"):
        Checkpoint(tmp_path / "pytorch_model.bin")


def test_a_file_that_was_written_again_is_read_again(tmp_path):
    file = tmp_path / "m.bin"
    torch.save({"w": torch.ones(2)}, file)
    assert read_torch_header(file)["w"].shape == (2,)
    torch.save({"w": torch.ones(2, 3)}, file)
    assert read_torch_header(file)["w"].shape == (2, 3)
