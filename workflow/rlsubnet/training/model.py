"""Models that are trained: made or moved, scoring a batch, the memory it takes, and saved."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import Module, functional
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlsubnet.checkpoints.sources import copy_companions
from rlsubnet.config.model import Recipe
from rlsubnet.evaluation.loading import without_bars
from rlsubnet.objectives.logps import token_entropies, token_logps
from rlsubnet.training.batches import Batch


def new_model(
    architecture: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, seed: int
) -> PreTrainedModel:
    """Return a Qwen2 model with random float32 weights that depend on ``seed`` alone.

    Args:
        architecture: keys of ``Qwen2Config``; its vocabulary is the tokenizer's.
    """
    settings: dict[str, Any] = {**architecture, "attn_implementation": "sdpa"}
    config = Qwen2Config(
        **settings,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = Qwen2ForCausalLM(config)
    return model.eval()


@torch.no_grad()
def move_model(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> None:
    """Move a model to a device, with weights of ``dtype``; other tensors keep their precision.

    These are the frequencies of rotary embeddings. In bfloat16 they would be off by up to 0.4 %, at
    position 512 and Qwen2.5's base by half a radian: the model would learn with angles it never
    sees again, since they are saved nowhere and computed in float32 wherever it is loaded.
    """
    # Called on the class: transformers wraps the method in a way that hides its types.
    Module.to(model, device)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def prepare_training(model: PreTrainedModel, recipe: Recipe) -> None:
    """Let the model's layers be compiled, or its activations be computed twice, as a recipe says.

    Layers are compiled one by one: they are alike, so that one of them is compiled for all.
    """
    if recipe.recompute:
        dropout = {
            key: value
            for key, value in model.config.to_dict().items()
            if key.endswith(("dropout", "pdrop")) and value
        }
        if dropout:
            raise ValueError(f"recompute: expected a model without dropout, found {dropout}")
        # Earlier releases of transformers call it otherwise.
        current = getattr(model, "activation_checkpointing_enable", None)
        (current or model.gradient_checkpointing_enable)({"use_reentrant": False})
    if recipe.compile:
        _compile_layers(model)


def _compile_layers(model: PreTrainedModel) -> None:
    layers: Any = model.base_model.layers
    for layer in layers:
        layer.compile(dynamic=True)


def copied(model: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
    """Return a copy of a model that was prepared for training, prepared alike.

    ``deepcopy`` alone leaves compiled layers as they were before.
    """
    copy = deepcopy(model)
    if recipe.compile:
        _compile_layers(copy)
    return copy


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    init: Path | None = None,
) -> None:
    """Write a complete Hugging Face folder with bfloat16 weights into the existing ``folder``.

    The configuration and the tokenizer of a tuned model are the files of its ``init`` folder,
    byte by byte: what another version of transformers writes may be read differently by the tools
    that evaluate the model (rotary embeddings, for one).

    Args:
        model: its weights hold bfloat16 values; the model itself becomes bfloat16.
    """
    try:
        with without_bars():
            model.bfloat16().save_pretrained(folder)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OSError(f"{folder}: weights cannot be written: {error}") from error
    for weights in folder.glob("*.safetensors"):
        # safetensors makes them readable for the owner alone.
        shutil.copymode(folder / "config.json", weights)
    if init is None:
        tokenizer.save_pretrained(folder)
    else:
        copy_companions(init, folder)


class TokenScores(NamedTuple):
    """What a model says about the targets of a batch, each ``[rows, K]``, 0 elsewhere.

    ``values`` are those of a value head, or None without one.
    """

    logps: Tensor
    entropies: Tensor
    values: Tensor | None


# Models that take, in place of a mask, one for each kind of their layers.
_MASKS_BY_KIND = ("qwen2", "qwen3")


def _causal(model: PreTrainedModel) -> dict[str, Any]:
    """Return how a model is told that attention is causal and nothing else.

    Without any mask transformers looks for packed sequences, for which it waits for the device; to
    some models one can say that there is no mask to make.
    """
    kinds = set(getattr(model.config, "layer_types", None) or ())
    told = model.config.model_type in _MASKS_BY_KIND and kinds == {"full_attention"}
    return {"attention_mask": {"full_attention": None}} if told else {}


@contextmanager
def _recomputing(model: PreTrainedModel) -> Iterator[None]:
    """Let a forward pass drop its activations where the model was prepared so.

    transformers does so in training mode alone, in which it refuses to fill a cache.
    """
    wanted = getattr(model.base_model, "gradient_checkpointing", False) and torch.is_grad_enabled()
    if wanted:
        model.train()
    try:
        yield
    finally:
        if wanted:  # not at every pass: it walks through all modules
            model.eval()


def score_batch(model: PreTrainedModel, batch: Batch, temperature: float = 1.0) -> Tensor:
    """Return the model's log-probabilities of a batch's targets, ``[rows, K]``, 0 elsewhere.

    Without an attention mask the model runs its quickest causal attention; with padding on the
    right that is exact. Logits are computed for the positions of responses only.

    Args:
        temperature: probabilities are those of the softmax of ``logits / temperature``.
    """

    def score(output: Any, targets: Tensor, mask: Tensor) -> Tensor:
        return token_logps(_at(temperature, output.logits), targets, mask)[None]

    return _in_blocks(model, batch, score)[0]


def score_tokens(
    model: PreTrainedModel,
    batch: Batch,
    temperature: float = 1.0,
    head: Module | None = None,
    entropy_gradient: bool = False,
) -> TokenScores:
    """Return log-probabilities and entropies of a batch's targets, and a head's values.

    Args:
        head: reads the expected reward off the last hidden state in front of each target.
        entropy_gradient: whether the entropies are to be differentiated; it costs memory.
    """

    def score(output: Any, targets: Tensor, mask: Tensor) -> Tensor:
        logits = _at(temperature, output.logits)
        entropies = token_entropies(logits if entropy_gradient else logits.detach(), mask)
        channels = [token_logps(logits, targets, mask), entropies]
        if head is not None:
            values = head(output.hidden_states[-1][:, -targets.shape[1] :].float())
            channels.append(values.masked_fill(~mask, 0.0))
        return torch.stack(channels)

    scores = _in_blocks(model, batch, score, output_hidden_states=head is not None)
    return TokenScores(scores[0], scores[1], None if head is None else scores[2])


def _at(temperature: float, logits: Tensor) -> Tensor:
    # Without a copy of all logits where none is needed.
    return logits if temperature == 1 else logits.float() / temperature


def _in_blocks(
    model: PreTrainedModel,
    batch: Batch,
    score: Callable[[Any, Tensor, Tensor], Tensor],
    **asked: Any,
) -> Tensor:
    """Return ``score`` (the model's output, targets, mask) of all rows, ``[channels, rows, K]``.

    Each block of the batch is scored at its own width and padded with 0.
    """
    columns = batch.targets.shape[1]
    given = batch.inputs.shape[1] - columns
    pieces = []
    with _recomputing(model):
        for rows, width in batch.blocks:
            inputs, kept = batch.inputs[rows, :width], width - given
            asked |= {"use_cache": False, "logits_to_keep": kept, **_causal(model)}
            targets, mask = batch.targets[rows, :kept], batch.mask[rows, :kept]
            piece = score(model(input_ids=inputs, **asked), targets, mask)
            pieces.append(functional.pad(piece, (0, columns - kept)))
    # Back to the order of the batch: row r of the batch is row argsort(rows)[r] of the pieces.
    order = torch.argsort(torch.cat([rows for rows, _ in batch.blocks]))
    return torch.cat(pieces, dim=1)[:, order]


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
        size: examples in the batch; where none fits, each is a part.

    A batch of 12 pairs with 24 sequences of 10 bytes, where half of 120 bytes hold 6 of them:

    >>> fewest_parts(24, 12, 10, memory=120), fewest_parts(24, 12, 10, memory=None)
    (4, 1)
    """
    divisors = (n for n in range(1, size) if size % n == 0)
    return next((n for n in divisors if fits(sequences / n, per_sequence, memory)), size)
