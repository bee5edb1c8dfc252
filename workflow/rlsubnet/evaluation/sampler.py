"""What draws a model's responses, the model itself or vLLM in its place; and texts drawn."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlsubnet.config.model import SamplerName
from rlsubnet.evaluation.generate import Request, completion, generate
from rlsubnet.evaluation.static_cache import StaticSampler, is_static
from rlsubnet.tasks.tokenizer import Completion, encode_prompt, end_token, padding_token

# Draws the responses that are wanted; what it returns is that of
# :func:`rlsubnet.evaluation.generate.generate`.
Sampler = Callable[[Request], Tensor]


def make_sampler(name: str, model: PreTrainedModel) -> Sampler:
    """Return what draws the responses of a model; it follows the model when its weights change.

    Args:
        name: ``own`` or ``vllm``.
        model: causal language model.

    Raises:
        ValueError: there is no such sampler, or vLLM is not installed.
    """
    if name not in get_args(SamplerName):
        raise ValueError(f"sampler: expected one of {get_args(SamplerName)}, found {name!r}")
    if name == "own":
        return StaticSampler(model) if is_static(model) else partial(generate, model)
    from rlsubnet.evaluation.vllm import VllmSampler

    return VllmSampler(model)


def sample_texts(
    draw: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    samples: int,
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    batch_size: int = 512,
) -> list[list[Completion]]:
    """Return ``samples`` completions for each prompt, in the order of ``prompts``.

    Args:
        draw: from :func:`make_sampler`.
        tokenizer: of the model that draws.
        prompts: texts without start token.
        samples: completions per prompt.
        max_new_tokens: as in :class:`rlsubnet.evaluation.generate.Request`.
        temperature: likewise.
        generator: likewise; one stream serves all batches in turn.
        batch_size: number of responses that are generated side by side. It is part of what a seed
            means: another batch size draws other samples.
    """
    eos = end_token(tokenizer)
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    completions = []
    size = max(1, batch_size // samples)
    for start in range(0, len(encoded), size):
        batch = encoded[start : start + size]
        how = (max_new_tokens, temperature, generator, samples)
        rows = draw(Request(batch, *how, eos=eos, pad=padding_token(tokenizer))).tolist()
        texts = [completion(tokenizer, row, eos) for row in rows]
        completions += [texts[i : i + samples] for i in range(0, len(texts), samples)]
    return completions
