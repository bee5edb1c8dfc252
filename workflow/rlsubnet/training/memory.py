"""How much of a batch fits into a GPU's memory at a time."""

import torch
from transformers import PreTrainedConfig

from rlsubnet.config.model import Recipe

# Of the memory for activations; the rest is left to weights, masters, moments and the allocator.
SHARE = 0.5


def device_memory(device: torch.device) -> int | None:
    """Return the bytes of a GPU; None for a CPU, where nothing is chosen by memory.

    All of it, not what is free: a run's bits must not depend on who else is there.
    """
    if device.type != "cuda":
        return None
    return int(torch.cuda.get_device_properties(device).total_memory)


def bytes_per_logit(recipe: Recipe, online: bool) -> int:
    """Return how many bytes a step holds for each logit, at most at a time.

    On given data, while the loss is differentiated: log-probabilities, their gradient and that of
    the logits, float32. Online, while entropies are computed: the logits in bfloat16 and four
    float32 tensors; one more at a temperature, and what is kept to differentiate the entropies.

    >>> recipe = Recipe(steps=1, batch_size=1, lr=1.0)
    >>> bytes_per_logit(recipe, online=False), bytes_per_logit(recipe, online=True)
    (12, 18)
    """
    if not online:
        return 12
    return 18 + 4 * (recipe.temperature != 1) + 6 * (recipe.entropy_coef > 0)


def bytes_per_sequence(
    config: PreTrainedConfig, recompute: bool, tokens: int, scored: int, logit: int
) -> int:
    """Return about how much a training step of a bfloat16 model holds for each sequence.

    For each token a layer keeps for the backward pass twice a norm's input and result, in float32
    and bfloat16, and what its weight is multiplied with (16 bytes per number of the hidden state),
    queries, keys, values and what attention returns (up to 8, and 1 for the sums of its softmax),
    and four tensors of the feed-forward network (8 bytes per number of its width); recomputed, its
    input alone. Gradients within one layer are three more tensors of that width.

    Args:
        config: of the model.
        recompute: whether activations are computed twice.
        tokens: of the sequence, with padding.
        scored: tokens whose logits are computed.
        logit: from :func:`bytes_per_logit`.

    Two layers of width 8 and 32 keep 25 * 8 + 8 * 32 = 456 each, or 16 and all of one of them:

    >>> from transformers import Qwen2Config
    >>> config = Qwen2Config(hidden_size=8, intermediate_size=32, num_hidden_layers=2,
    ...                      vocab_size=100)
    >>> kept = 2 * 456 + 6 * 32 + 8 * 8
    >>> bytes_per_sequence(config, False, tokens=10, scored=4, logit=12) == 10 * kept + 4 * 1200
    True
    >>> kept = 2 * 16 + 456 + 6 * 32 + 8 * 8
    >>> bytes_per_sequence(config, True, tokens=10, scored=4, logit=12) == 10 * kept + 4 * 1200
    True
    """
    hidden, width = config.hidden_size, config.intermediate_size
    layer = 25 * hidden + 8 * width
    kept = config.num_hidden_layers * (2 * hidden if recompute else layer)
    working = 6 * width + (layer if recompute else 0)
    norm = 8 * hidden  # behind the last layer
    return int(tokens * (kept + working + norm) + scored * logit * config.vocab_size)


def fits(sequences: float, per_sequence: int, memory: int | None) -> bool:
    """Return whether activations of so many sequences fit into memory.

    >>> fits(300, 10, memory=6000), fits(301, 10, memory=6000), fits(301, 10, memory=None)
    (True, False, True)
    """
    return memory is None or sequences * per_sequence <= SHARE * memory


def fewest_parts(sequences: int, size: int, per_sequence: int, memory: int | None) -> int:
    """Return the smallest divisor of ``size`` that cuts a batch into parts that fit into memory.

    Args:
        sequences: of the batch.
        size: examples in the batch; where none fits, each is a part.
        per_sequence: from :func:`bytes_per_sequence`.
        memory: from :func:`device_memory`; None leaves the batch whole.

    A batch of 12 pairs with 24 sequences of 10 bytes, where half of 120 bytes hold 6 of them:

    >>> fewest_parts(24, 12, 10, memory=120), fewest_parts(24, 12, 10, memory=None)
    (4, 1)
    """
    divisors = (n for n in range(1, size) if size % n == 0)
    return next((n for n in divisors if fits(sequences / n, per_sequence, memory)), size)
