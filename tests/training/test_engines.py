import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlsubnet.checkpoints.masks import save_mask
from rlsubnet.training.engines import attach_engine_mask, engine_layout, part, runs_of_box


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    shape = tuple(draw(st.lists(st.integers(1, 5), max_size=3)))
    ends = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
    return shape, tuple((begin, end) for begin, end in ends)


@given(boxes())
def test_the_runs_of_a_box_are_its_weights_in_order(drawn):
    shape, box = drawn
    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    expected = numbers[tuple(slice(begin, end) for begin, end in box)].ravel()
    found = np.full(expected.size, -1)
    for piece in runs_of_box("w", shape, box):
        run = np.arange(piece.start, piece.start + piece.numel)
        assert (found[piece.offset : piece.offset + piece.numel] == -1).all()
        found[piece.offset : piece.offset + piece.numel] = run
    assert (found == expected).all()


@given(st.integers(1, 20), st.integers(1, 8))
def test_parts_are_those_of_torch_chunk(size, count):
    chunks = torch.arange(size).chunk(count)
    for position in range(count):
        begin, end = part(0, size, count, position)
        expected = chunks[position].tolist() if position < len(chunks) else []
        assert list(range(begin, end)) == expected


class Tied(nn.Module):
    """A head that is the embedding, as in many language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(3, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)


def test_a_mask_file_is_attached_to_a_plain_model(tmp_path):
    model = Tied()
    inside = np.array([[True, False], [False, True], [True, True]])
    masks = {"embed.weight": inside, "scale": np.array(True)}
    save_mask(tmp_path / "mask.safetensors", masks, {"rule": "bitwise"})
    adamw = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    mask = attach_engine_mask(adamw, model, tmp_path / "mask.safetensors")
    before = model.embed.weight.detach().clone()
    model.head(model.embed(torch.arange(3))).square().sum().backward()
    adamw.step()
    mask.check_updates(1)
    assert ((model.embed.weight != before).numpy() == inside).all()


def test_a_tied_weight_has_the_name_of_named_parameters(tmp_path):
    model = Tied()
    masks = {name: np.ones((3, 2), np.bool_) for name in ("embed.weight", "head.weight")}
    save_mask(tmp_path / "mask.safetensors", masks, {"rule": "bitwise"})
    adamw = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    with pytest.raises(ValueError, match=r"head\.weight only in the mask; scale only in the model"):
        attach_engine_mask(adamw, model, tmp_path / "mask.safetensors")


def test_names_are_those_of_the_checkpoint_whatever_wraps_the_model():
    model = nn.Sequential()
    model.add_module("module", nn.Sequential())
    model.module.add_module("layers", nn.ModuleList([nn.Sequential()]))
    model.module.layers[0].add_module("_checkpoint_wrapped_module", nn.LayerNorm(2))
    layout = engine_layout(torch.optim.AdamW(model.parameters()), model)
    assert layout.shapes == {"layers.0.weight": (2,), "layers.0.bias": (2,)}
