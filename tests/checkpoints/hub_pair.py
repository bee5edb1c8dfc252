"""A pair of sharded checkpoints, on the disk and on a local hub."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.checkpoints.local_hub import LocalHub

LAYERS = 6
INIT, TUNED = "org/init", "org/tuned"


def model() -> dict[str, torch.Tensor]:
    """Six layers in the order of a state dict."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"model.embed_tokens.weight": (40, 16)}
    for layer in range(LAYERS):
        for part, shape in (("mlp.up_proj", (64, 16)), ("input_layernorm", (16,))):
            shapes[f"model.layers.{layer}.{part}.weight"] = shape
    shapes |= {"model.norm.weight": (16,), "lm_head.weight": (40, 16)}
    return {
        name: (0.02 * torch.randn(shape, generator=generator)).bfloat16()
        for name, shape in shapes.items()
    }


def write_shards(folder: Path, weights: dict[str, torch.Tensor], groups: list[list[str]]) -> Path:
    """Write a sharded checkpoint with the tensors of each group in one file."""
    folder.mkdir(parents=True)
    weight_map = {}
    for number, names in enumerate(groups, 1):
        file = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        save_file({name: weights[name] for name in names}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"tie_word_embeddings": false}')
    (folder / "tokenizer.json").write_text(json.dumps({"of": folder.name}))
    return folder


def in_groups(names: list[str], size: int) -> list[list[str]]:
    return [names[start : start + size] for start in range(0, len(names), size)]


def shard_requests(hub: LocalHub) -> list[str]:
    """Return which shards were asked for as a whole, in order."""
    return [
        name
        for name, wanted in hub.requests
        if name.endswith(".safetensors") and not (wanted or "").startswith("bytes=0-")
    ]
