"""Model folders: exact weights, or a clear error."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlsubnet.evaluation.loading import load_policy
from tests.evaluation.tiny_models import save_folder, tiny_model


def test_bf16_weights_are_widened_without_change(tmp_path):
    save_folder(tiny_model(), tmp_path)
    model, tokenizer = load_policy(tmp_path, "cpu")
    saved = load_file(tmp_path / "model.safetensors")
    loaded = dict(model.named_parameters())
    assert set(loaded) == set(saved)
    for name, weights in saved.items():
        assert weights.dtype == torch.bfloat16
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], weights.float())
    assert not model.training
    assert len(tokenizer) == 24


def test_weights_that_do_not_fit_the_config_or_are_broken_are_refused(tmp_path):
    save_folder(tiny_model(), tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    rest = {name: value for name, value in weights.items() if name != "lm_head.weight"}
    for changed, message in (
        (rest, "missing keys.*lm_head.weight"),
        (weights | {"extra": torch.zeros(2)}, "unexpected keys.*extra"),
    ):
        save_file(changed, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=message):
            load_policy(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="broken weight file"):
        load_policy(tmp_path)
    with pytest.raises(ValueError, match="expected a model folder"):
        load_policy(tmp_path / "nowhere")
