"""A model folder is refused before a GPU is used: what transformers 4 would misread or not find."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlsubnet.backends.olmes.run import check_model, config_faults
from rlsubnet.backends.olmes.suites import Settings
from rlsubnet.tasks.tokenizer import build_tokenizer

SETTINGS = Settings(suites=("table3a",))
SCALING = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
# As Llama-3.1's config.json has them.
CONFIG = {"max_position_embeddings": 131072, "rope_theta": 500000.0, "rope_scaling": SCALING}
TOKENIZER = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": "{{ messages }}"}


@pytest.fixture(scope="module")
def saved_by_5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Llama of a few weights as transformers 5 saves it, with Llama 3.1's rotations."""
    folder = tmp_path_factory.mktemp("olmes") / "saved"
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=16,
        num_hidden_layers=1,
        intermediate_size=16,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=8192,
        rope_parameters={
            **SCALING,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 4096,
            "rope_theta": 500000.0,
        },
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved_by_5: Path, tmp_path: Path) -> Path:
    """Return its weights with config and tokenizer as transformers 4 saves them."""
    for name in ("model.safetensors", "tokenizer.json"):
        (tmp_path / name).symlink_to(saved_by_5 / name)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))
    return tmp_path


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def test_what_transformers_5_saves_is_refused_with_all_faults_and_the_cure(saved_by_5):
    with pytest.raises(ValueError) as error:
        check_model(saved_by_5, SETTINGS)
    message = str(error.value)
    assert message.startswith(f"{saved_by_5}: olmes cannot evaluate this checkpoint: ")
    assert "rope_theta is 500000.0 in rope_parameters and None beside it" in message
    assert "rope_type llama3 stands in rope_parameters and there is no rope_scaling" in message
    assert "tokenizer_class TokenizersBackend is unknown to transformers 4" in message
    assert "copy config.json, generation_config.json and all tokenizer files" in message
    assert "no chat template" in message
    assert len(message.split("; ")) >= 4


def test_the_start_s_config_and_tokenizer_over_the_trained_weights_are_accepted(folder):
    check_model(folder, SETTINGS)


def test_a_context_shorter_than_asked_is_refused(folder):
    edit(folder / "config.json", max_position_embeddings=2048)
    with pytest.raises(ValueError, match="max_position_embeddings is 2048, .* max_length 4096"):
        check_model(folder, SETTINGS)
    check_model(folder, Settings(suites=("table3a",), max_length=2048))
    edit(folder / "config.json", max_position_embeddings=None)
    with pytest.raises(ValueError, match="max_position_embeddings is None"):
        check_model(folder, SETTINGS)


def test_a_chat_template_may_lie_in_a_file_or_be_one_of_olmes_s(folder):
    edit(folder / "tokenizer_config.json", chat_template=None)
    with pytest.raises(ValueError, match="no chat template: .* evaluation.olmes.chat_template"):
        check_model(folder, SETTINGS)
    check_model(folder, Settings(suites=("table3a",), chat_template="tulu"))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    check_model(folder, SETTINGS)


def test_a_list_of_extra_tokens_is_refused(folder):
    # transformers 4.50 ends with: 'list' object has no attribute 'keys'.
    edit(folder / "tokenizer_config.json", extra_special_tokens=["<tool>"])
    with pytest.raises(ValueError, match="extra_special_tokens is a list"):
        check_model(folder, SETTINGS)


@pytest.mark.parametrize("name", ["Qwen2Tokenizer", "LlamaTokenizerFast", "GPT2Tokenizer"])
def test_names_of_transformers_4_are_accepted(folder, name):
    edit(folder / "tokenizer_config.json", tokenizer_class=name)
    check_model(folder, SETTINGS)


def test_theta_in_two_places_must_be_the_same():
    base = {"max_position_embeddings": 4096}
    both = {**base, "rope_theta": 1e6, "rope_parameters": {"rope_theta": 1e6}}
    assert list(config_faults(both, 4096)) == []
    apart = {**base, "rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}}
    (fault,) = config_faults(apart, 4096)
    assert "rope_theta is 1000000.0 in rope_parameters and 10000.0 beside it" in fault


def test_an_incomplete_folder_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="no tokenizer: none of tokenizer.json"):
        check_model(folder, SETTINGS)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: no such file"):
        check_model(folder, SETTINGS)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="1 missing: model-00001-of-00002.safetensors"):
        check_model(folder, SETTINGS)
