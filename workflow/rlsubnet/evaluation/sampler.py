"""What draws a model's responses, the model itself or vLLM in its place; and texts drawn."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlsubnet.config.model import check_sampler
from rlsubnet.evaluation.generate import completion, generate
from rlsubnet.evaluation.static_cache import StaticSampler, is_static
from rlsubnet.tasks.tokenizer import Completion, encode_prompt, end_token


class Sampler(Protocol):
    """Draws responses; arguments and result of :func:`rlsubnet.evaluation.generate.generate`."""

    def __call__(
        self,
        prompt_ids: Sequence[Sequence[int]],
        max_new_tokens: int,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
        *,
        eos_token_id: int,
        pad_token_id: int,
        samples: int = 1,
    ) -> Tensor:
        """Return the generated token ids, one row per prompt and sample."""


def make_sampler(name: str, model: PreTrainedModel) -> Sampler:
    """Return what draws the responses of a model; it follows the model when its weights change.

    Args:
        name: ``own`` or ``vllm``.
        model: causal language model.

    Raises:
        ValueError: there is no such sampler, or vLLM is not installed.
    """
    check_sampler(name)
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
        max_new_tokens: see :func:`rlsubnet.evaluation.generate.generate`.
        temperature: see there.
        generator: see there; one stream serves all batches in turn.
        batch_size: number of responses that are generated side by side. It is part of what a seed
            means: another batch size draws other samples.
    """
    eos = end_token(tokenizer)
    pad = eos if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    completions = []
    for batch in _batches(encoded, max(1, batch_size // samples)):
        rows = draw(
            batch,
            max_new_tokens,
            temperature,
            generator,
            eos_token_id=eos,
            pad_token_id=pad,
            samples=samples,
        ).tolist()
        for start in range(0, len(rows), samples):
            group = rows[start : start + samples]
            completions.append([completion(tokenizer, row, eos) for row in group])
    return completions


def _batches(items: Sequence[list[int]], size: int) -> Iterator[Sequence[list[int]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
