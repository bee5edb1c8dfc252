"""What a trainer saved becomes a folder that differs from its init in the weights alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.pair import export_trained, write_weights


def tensors(factor: float = 1.0) -> dict[str, torch.Tensor]:
    values = torch.arange(1, 7, dtype=torch.bfloat16).reshape(3, 2) * factor
    return {"model.embed_tokens.weight": values, "model.norm.weight": values[:, 0].clone()}


def folder(path: Path, state: dict[str, torch.Tensor], config: str = '{"rope_theta": 5e5}') -> Path:
    path.mkdir()
    save_file(state, path / "model.safetensors")
    (path / "config.json").write_text(config, encoding="utf-8")
    (path / "tokenizer.json").write_text("{}", encoding="utf-8")
    return path


def trained(path: Path, state: dict[str, torch.Tensor]) -> Path:
    """Write what open-instruct leaves: pickled weights, a configuration of its own."""
    path.mkdir()
    torch.save(state, path / "pytorch_model.bin")
    (path / "config.json").write_text("{}", encoding="utf-8")
    return path


def test_weights_are_the_trained_ones_and_all_else_is_the_init_s(tmp_path):
    init = folder(tmp_path / "init", tensors())
    out = tmp_path / "out"
    out.mkdir()
    export_trained(init, trained(tmp_path / "trained", tensors(2.0)), out)
    state = load_file(out / "model.safetensors")
    assert all(torch.equal(state[name], value) for name, value in tensors(2.0).items())
    assert (out / "config.json").read_text(encoding="utf-8") == '{"rope_theta": 5e5}'
    assert sorted(path.name for path in out.iterdir()) == [
        *("config.json", "model.safetensors", "tokenizer.json")
    ]
    with safe_open(out / "model.safetensors", "pt") as opened:
        assert opened.metadata() == {"format": "pt"}  # transformers refuses a file without it


def test_prefixes_of_trainers_are_removed(tmp_path):
    init = folder(tmp_path / "init", tensors())
    wrapped = {f"module.{name}": value for name, value in tensors(2.0).items()}
    write_weights(
        Checkpoint(init), Checkpoint(trained(tmp_path / "trained", wrapped)), tmp_path / "w"
    )
    assert set(load_file(tmp_path / "w")) == set(tensors())


def test_a_tied_head_that_is_stored_again_is_left_out(tmp_path):
    config = '{"tie_word_embeddings": true}'
    init = folder(tmp_path / "init", tensors(), config)
    state = tensors(2.0)
    out = trained(
        tmp_path / "trained", {**state, "lm_head.weight": state["model.embed_tokens.weight"]}
    )
    (out / "config.json").write_text(config, encoding="utf-8")
    write_weights(Checkpoint(init), Checkpoint(out), tmp_path / "w.safetensors")
    assert set(load_file(tmp_path / "w.safetensors")) == set(tensors())


def test_more_weights_than_a_piece_arrive_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("rlsubnet.checkpoints.pair.CHUNK", 4)
    init = folder(tmp_path / "init", tensors())
    write_weights(
        Checkpoint(init), Checkpoint(trained(tmp_path / "t", tensors(2.0))), tmp_path / "w"
    )
    assert torch.equal(
        load_file(tmp_path / "w")["model.norm.weight"], 2 * tensors()["model.norm.weight"]
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"model.norm.weight": torch.ones(4, dtype=torch.bfloat16)},
            r"model.norm.weight \[3\] aga",
        ),
        ({"extra": torch.ones(1, dtype=torch.bfloat16)}, "only in .*trained: extra"),
        ({"model.norm.weight": torch.ones(3)}, "expected weights in BF16, found F32 in model.norm"),
        (
            {"model.norm.weight": torch.tensor([1, np.nan, 1], dtype=torch.bfloat16)},
            "1 of the weights 0 to 2 are NaN or Inf",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, expected):
    init = folder(tmp_path / "init", tensors())
    out = trained(tmp_path / "trained", tensors(2.0) | change)
    with pytest.raises(ValueError, match=expected):
        write_weights(Checkpoint(init), Checkpoint(out), tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()
