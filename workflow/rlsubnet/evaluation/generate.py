"""Batched sampling and greedy decoding with a key-value cache, for any Hugging Face causal LM."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlsubnet.evaluation.prompts import check_request, read_prompts
from rlsubnet.evaluation.static_cache import (
    StaticSampler,
    draw_tokens,
    fits_static_cache,
    forward_attention,
    refuse_not_finite,
)
from rlsubnet.tasks.completion import Completion


def is_static(model: PreTrainedModel) -> bool:
    """Return whether a model is decoded into a cache of fixed size: on a GPU, where it can be."""
    return model.device.type == "cuda" and fits_static_cache(model)


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    *,
    eos_token_id: int,
    pad_token_id: int,
    samples: int = 1,
) -> Tensor:
    """Return the generated token ids, one row per prompt and sample.

    A prompt is read once, however many samples are drawn from it. No token is excluded and no
    distribution is cut (neither top-k nor top-p): samples come from the model's own softmax at
    ``temperature``, drawn as ``argmax(logits / temperature + Gumbel noise)``.

    Args:
        model: a causal language model; it is used in the mode (train or eval) that it is in.
        prompt_ids: token ids of the prompts, of any lengths; padding happens here, on the left.
        max_new_tokens: number of tokens after which a response is cut off.
        temperature: 0 is greedy decoding.
        generator: source of the noise, needed unless greedy; on any device. The same seed, prompts
            and samples give the same tokens.
        eos_token_id: token that ends a response; it is part of the response.
        pad_token_id: token that fills a row behind the end token.
        samples: responses per prompt.

    Returns:
        int64 tensor on the CPU, shape ``[prompts * samples, T]`` with ``T <= max_new_tokens``;
        row ``i * samples + j`` is sample ``j`` of prompt ``i``.

    Raises:
        ValueError: no prompt, an empty prompt, a temperature below 0, sampling without a
            generator, several greedy samples, or logits that are not finite.
    """
    way = StaticSampler(model) if is_static(model) else partial(generate_growing, model)
    return way(
        prompt_ids,
        max_new_tokens,
        temperature,
        generator,
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        samples=samples,
    )


@torch.inference_mode()
@forward_attention()
def generate_growing(
    model: PreTrainedModel,
    prompt_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    *,
    eos_token_id: int,
    pad_token_id: int,
    samples: int = 1,
) -> Tensor:
    """Return what :func:`generate` returns; same arguments. Rows that have ended cost nothing."""
    check_request(max_new_tokens, temperature, generator, samples)
    state = read_prompts(model, prompt_ids)
    if samples > 1:
        repeated = torch.arange(len(prompt_ids), device=model.device).repeat_interleave(samples)
        state = state.pick(repeated)
    cache, logits, mask = state

    rows = torch.full((len(logits), max_new_tokens), pad_token_id, device=model.device)
    alive = torch.arange(len(logits), device=model.device)  # the rows still being written
    for position in range(max_new_tokens):
        chosen = _choose(logits, temperature, generator)
        rows[alive, position] = chosen
        going = (chosen != eos_token_id).nonzero().squeeze(1)
        if len(going) == 0 or position == max_new_tokens - 1:
            rows = rows[:, : position + 1]
            break
        if len(going) < len(alive):
            # Responses that have ended leave the batch: from here on they cost nothing.
            cache.batch_select_indices(going)
            alive, chosen, mask = alive[going], chosen[going], mask[going]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits = model(
            input_ids=chosen[:, None],
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    return rows.cpu()


def completion(
    tokenizer: PreTrainedTokenizerBase, row: Sequence[int], eos_token_id: int
) -> Completion:
    """Return the text in front of the first end token of ``row``, or all of it if there is none.

    Special tokens inside the response stay visible, so that a strict verifier refuses them.
    """
    finished = eos_token_id in row
    response = row[: row.index(eos_token_id)] if finished else row
    text = tokenizer.decode(list(response), skip_special_tokens=False)
    return Completion(str(text), finished)


def _choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    logits = logits.float()
    if not torch.isfinite(logits).all():
        refuse_not_finite()
    return draw_tokens(logits, temperature, generator)
