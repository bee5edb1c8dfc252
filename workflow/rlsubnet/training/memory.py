"""How much of a batch fits into a GPU's memory at a time."""

import torch
from transformers import PreTrainedConfig

# Of the memory for activations; the rest is left to weights, masters, moments and the allocator.
SHARE = 0.5


def device_memory(device: torch.device) -> int | None:
    """Return the bytes of a GPU; None for a CPU, where nothing is chosen by memory.

    All of it, not what is free: a run's bits must not depend on who else is there.
    """
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def bytes_per_token(config: PreTrainedConfig, recompute: bool) -> int:
    """Return about how much a training step keeps for each token of a bfloat16 model.

    A layer keeps for the backward pass its inputs, their norms in float32, queries, keys, values,
    what attention returns (40 bytes per number of the hidden state) and four tensors of the
    feed-forward network (8 bytes per number of its width); recomputed, its input alone. Logits and
    their log-probabilities are there in bfloat16 and several times in float32: 16 bytes each.

    >>> from transformers import Qwen2Config
    >>> config = Qwen2Config(hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
    ...                      vocab_size=151936)
    >>> bytes_per_token(config, recompute=False) == 24 * (40 * 896 + 8 * 4864) + 16 * 151936
    True
    >>> bytes_per_token(config, recompute=True) < bytes_per_token(config, recompute=False)
    True
    """
    layer = 40 * config.hidden_size + 8 * config.intermediate_size
    layers = config.num_hidden_layers
    kept = layers * 2 * config.hidden_size + layer if recompute else layers * layer
    return int(kept + 16 * config.vocab_size)


def fits(tokens: float, per_token: int, memory: int | None) -> bool:
    """Return whether activations of so many tokens fit into memory.

    >>> fits(300, 10, memory=6000), fits(301, 10, memory=6000), fits(301, 10, memory=None)
    (True, False, True)
    """
    return memory is None or tokens * per_token <= SHARE * memory


def fewest_parts(tokens: int, size: int, per_token: int, memory: int | None) -> int:
    """Return the smallest divisor of ``size`` that cuts a batch into parts that fit into memory.

    Args:
        tokens: of the batch, with padding.
        size: examples in the batch; where none fits, each is a part.
        per_token: from :func:`bytes_per_token`.
        memory: from :func:`device_memory`; None leaves the batch whole.

    A batch of 12 with 1200 tokens of 10 bytes, where half of 6000 bytes hold 300 tokens:

    >>> fewest_parts(1200, 12, 10, memory=6000), fewest_parts(1200, 12, 10, memory=None)
    (4, 1)
    """
    divisors = (n for n in range(1, size) if size % n == 0)
    return next((n for n in divisors if fits(tokens / n, per_token, memory)), size)
