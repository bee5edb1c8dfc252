"""What is measured: the shape of the model, the batches, and the operations that a step needs."""

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from rlsubnet.training.model import move_model, new_model

# Dense bfloat16 operations a second, from the data sheets; the first that a GPU's name contains.
PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}
END, PAD = "<end>", "<pad>"


@dataclass(frozen=True)
class Size:
    """A model's shape and the batches that it is trained on.

    Attributes:
        name: for the table.
        architecture: keys of Qwen2Config.
        vocabulary: tokens, end and padding included.
        sequences: of a batch of SFT; half as many pairs in one of DPO; responses in one of GRPO.
        group: responses to each prompt of GRPO.
        prompt: tokens.
        response: tokens, of what is learned and of what is drawn.
        steps: that are timed together.
        matrix: rows and columns of the matrix whose rank is taken.
    """

    name: str
    architecture: dict[str, Any]
    vocabulary: int
    sequences: int
    group: int
    prompt: int
    response: int
    steps: int
    matrix: tuple[int, int]


# The shape of Qwen2.5-0.5B, with random weights.
HALF_BILLION = Size(
    name="0.5B",
    architecture={
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "intermediate_size": 4864,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "max_position_embeddings": 1024,
    },
    vocabulary=151936,
    sequences=64,
    group=8,
    prompt=256,
    response=256,
    steps=4,
    matrix=(896, 4864),
)
MINIATURE = Size(
    name="miniature",
    architecture={
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "intermediate_size": 64,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
        "max_position_embeddings": 64,
    },
    vocabulary=256,
    sequences=8,
    group=4,
    prompt=8,
    response=8,
    steps=1,
    matrix=(32, 64),
)


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of ``vocabulary`` tokens: ``t0``, ``t1`` and so on, end and padding last.

    >>> tokenizer = word_tokenizer(8)
    >>> tokenizer("t3 t1").input_ids, len(tokenizer), tokenizer.eos_token_id
    ([3, 1], 8, 6)
    """
    words = [*(f"t{number}" for number in range(vocabulary - 2)), END, PAD]
    backend = Tokenizer(models.WordLevel({word: id_ for id_, word in enumerate(words)}, END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=PAD)


def random_model(size: Size, device: torch.device) -> PreTrainedModel:
    """Return a model with random weights, in bfloat16 on the device."""
    model = new_model(size.architecture, word_tokenizer(size.vocabulary), seed=0)
    move_model(model, device, torch.bfloat16)
    return model


def forward_flops(size: Size, rows: int, length: int, scored: int) -> float:
    """Return the operations that the forward pass of a batch cannot do without.

    Twice the weights of all matrices for every token; of the head only where its output is needed;
    and causal attention, each token with half of all tokens. A backward pass takes twice as many.

    Args:
        size: of the model.
        rows: sequences of the batch.
        length: tokens of each.
        scored: tokens of each whose probability is needed.

    One layer of 2 x 2 (16 weights in attention with one head, 3 x 4 in the network), 3 rows of 4:

    >>> tiny = Size("", {"hidden_size": 2, "num_hidden_layers": 1, "intermediate_size": 2,
    ...             "num_attention_heads": 1, "num_key_value_heads": 1}, 10, 3, 1, 2, 2, 1, (1, 1))
    >>> forward_flops(tiny, rows=3, length=4, scored=2) == 12 * (2 * 28 + 2 * 2 * 4) + 6 * 2 * 20
    True
    """
    shape = size.architecture
    hidden, layers = shape["hidden_size"], shape["num_hidden_layers"]
    narrow = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    matrices = 2 * hidden * (hidden + narrow) + 3 * hidden * shape["intermediate_size"]
    body = rows * length * layers * (2 * matrices + 2 * hidden * length)
    return float(body + rows * scored * 2 * hidden * size.vocabulary)


def peak_of(device: torch.device) -> tuple[str, float] | None:
    """Return a GPU's name and its peak, None for a CPU or where the peak is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next(((name, peak) for key, peak in PEAKS.items() if key in name), None)
