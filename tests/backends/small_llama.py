"""A Llama of a few thousand weights with a byte-level tokenizer, pairs for it, and a mask."""

import json
import random
from pathlib import Path

import numpy as np
import torch

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.masks import save_mask
from rlsubnet.files import write_jsonl

SIZES = {
    "vocab_size": 264,
    "hidden_size": 40,
    "intermediate_size": 75,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def write_model(folder: Path, seed: int = 0) -> None:
    """Write 48,920 bfloat16 weights, and configurations that transformers 4 and 5 both read."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        **SIZES, bos_token_id=256, eos_token_id=257, pad_token_id=258, tie_word_embeddings=False
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    # Rotary embeddings and types by both their old and their new names.
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    written |= {"rope_theta": 10000.0, "rope_scaling": None, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary |= {token: 256 + i for i, token in enumerate(SPECIAL.values())}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL.values()])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {**SPECIAL, "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(SPECIAL), encoding="utf-8")


def write_pairs(path: Path, count: int = 96) -> None:
    draw = random.Random(0)

    def message(role: str, length: int) -> dict[str, str]:
        return {"role": role, "content": "".join(draw.choices("abcdefgh ", k=length))}

    write_jsonl(
        path,
        (
            {
                "chosen": [prompt, message("assistant", 16)],
                "rejected": [prompt, message("assistant", 16)],
            }
            for prompt in (message("user", 12) for _ in range(count))
        ),
    )


def write_random_mask(path: Path, model: Path, density: float = 0.25) -> None:
    generator = np.random.default_rng(7)
    tensors = Checkpoint(model).tensors.items()
    bits = {name: generator.random(info.shape) < density for name, info in tensors}
    save_mask(path, bits, {"rule": "bitwise"})
