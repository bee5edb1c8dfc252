"""Random models of a few thousand weights, and their folders."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rlsubnet.tasks.tokenizer import build_tokenizer

FAMILIES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
}


def tiny_model(family: str = "qwen2", spread: float = 0.4) -> torch.nn.Module:
    """Return a random model; ``spread`` is the standard deviation of its weights."""
    config_class, model_class = FAMILIES[family]
    torch.manual_seed(3)
    config = config_class(
        vocab_size=24,
        hidden_size=16,
        num_hidden_layers=2,
        intermediate_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=spread,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return model_class(config).eval()


def save_folder(model: torch.nn.Module, folder: Path) -> Path:
    """Save ``model`` as bf16 with the demo's tokenizer, as a finished run does."""
    model.to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder
