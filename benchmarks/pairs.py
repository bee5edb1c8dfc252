"""Synthetic pairs of sharded Llama checkpoints in bfloat16.

init ~ N(0, 0.02), tuned = bf16(init + N(0, 2e-5)), norms left alone: 22.5 % of the codes differ,
small weights by many steps and large ones by one or none, as after a short run at a low learning
rate.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlsubnet.checkpoints.formats import encode_header
from rlsubnet.measure.formats import to_bfloat16, to_float32

SHARD_BYTES = 500_000_000
STEP = 1 << 22
DRIFT = 2e-5


@dataclass(frozen=True)
class Size:
    """A Llama architecture."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    vocabulary: int


SIZES = {
    "0.02B": Size(2, 512, 1408, 8, 2, 16000),
    "0.25B": Size(14, 1024, 2816, 16, 4, 48000),
    "1B": Size(20, 2048, 5504, 16, 4, 32000),
}


def shapes_of(size: Size) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the tensors of a Llama model."""
    hidden, inner = size.hidden, size.intermediate
    narrow = hidden // size.heads * size.key_value_heads
    yield "model.embed_tokens.weight", (size.vocabulary, hidden)
    for layer in range(size.layers):
        for name, shape in {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (narrow, hidden),
            "self_attn.v_proj": (narrow, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }.items():
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (size.vocabulary, hidden)


def config_of(size: Size) -> dict[str, object]:
    """Return the config.json that transformers needs."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_value_heads,
        "vocab_size": size.vocabulary,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }


def make_pair(folder: Path, size: Size, seed: int = 0, drift: float = DRIFT) -> tuple[Path, Path]:
    """Write init and tuned below ``folder``, where they are not there yet; return both.

    ``drift`` is the standard deviation of what is added to a weight: the smaller, the sparser.
    """
    sides = folder / "init", folder / "tuned"
    if (folder / "complete").exists():
        return sides
    rng = np.random.default_rng(seed)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes_of(size):
        if filled > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += 2 * int(np.prod(shape))
    for side in sides:
        side.mkdir(parents=True, exist_ok=True)
        (side / "config.json").write_text(json.dumps(config_of(size)))
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(shard, file)
        header = encode_header(
            {name: ("BF16", shape) for name, shape in shard.items()}, {"format": "pt"}
        )
        with (sides[0] / file).open("wb") as init, (sides[1] / file).open("wb") as tuned:
            init.write(header)
            tuned.write(header)
            for shape in shard.values():
                for before, after in _weights(
                    rng, int(np.prod(shape)), drift if len(shape) > 1 else 0.0
                ):
                    init.write(before.data)
                    tuned.write(after.data)
    for side in sides:
        index = {"metadata": {}, "weight_map": weight_map}
        (side / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "complete").touch()
    return sides


def _weights(
    rng: np.random.Generator, numel: int, drift: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, numel, STEP):
        count = min(STEP, numel - start)
        if not drift:
            ones = np.full(count, 0x3F80, np.uint16)
            yield ones, ones
            continue
        init = to_bfloat16(np.float32(0.02) * rng.standard_normal(count, np.float32))
        step = np.float32(drift) * rng.standard_normal(count, np.float32)
        yield init, to_bfloat16(to_float32(init) + step)
