"""Models that vLLM can run on a CPU, where the heads must have 32 numbers or more."""

from importlib.util import find_spec

import pytest
from transformers import PreTrainedModel

from rlsubnet.tasks.tokenizer import build_tokenizer
from rlsubnet.training.model import new_model

NEEDS_VLLM = pytest.mark.skipif(
    find_spec("vllm") is None, reason="vLLM is not installed: make test-vllm"
)

ARCHITECTURE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}


def small_model(spread: float) -> PreTrainedModel:
    """Return a random model; ``spread`` is the standard deviation of its weights."""
    return new_model({**ARCHITECTURE, "initializer_range": spread}, build_tokenizer(), seed=0)
