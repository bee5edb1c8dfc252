"""Decoding into a cache of fixed size: no step waits for the GPU, and a step is one CUDA graph.

:func:`rlsubnet.evaluation.generate.generate` uses this on a GPU. Rows that have ended stay in the
batch, since its size is fixed; whether all have ended is asked every few tokens only.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel, StaticCache

from rlsubnet.evaluation.prompts import ReadPrompts, read_prompts

# Tokens between two questions whether all rows have ended.
CHECK_EVERY = 16
# In a forward pass all of these give the same bits each time. Decoding has a mask, which the first
# does not take; the third writes all scores to memory. Not cuDNN's, which torch takes first on an
# H100 or H200: padded tokens see nothing, and what it makes of such rows is not promised.
FORWARD_ATTENTION = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
)
# Whether a GPU replays a captured step; False launches each kernel, to look for a fault.
GRAPHS = True


def noise_generator(device: torch.device, seed: int) -> torch.Generator:
    """Return a source of noise on the device: there it need not be copied.

    The two kinds of devices draw different numbers from one seed.
    """
    return torch.Generator(device).manual_seed(seed)


def draw_tokens(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Return one token id per row of float32 ``logits``: the likeliest, or a sample.

    A sample is ``argmax(logits / temperature + Gumbel noise)``.
    """
    if temperature == 0 or generator is None:
        return logits.argmax(-1)
    # -log(U) of a uniform U in (0, 1] is exponential; a 0 would make the noise infinite.
    exponential = torch.empty(logits.shape, device=generator.device)
    exponential.exponential_(generator=generator).clamp_(min=1e-30)
    return (logits / temperature - exponential.log().to(logits.device)).argmax(-1)


@contextmanager
def forward_attention() -> Iterator[None]:
    """Let attention be computed by the kernels that a forward pass may use."""
    with sdpa_kernel(list(FORWARD_ATTENTION)):
        yield


def fits_static_cache(model: PreTrainedModel) -> bool:
    """Return whether a model can be decoded from a cache of fixed size.

    All its layers must look at all tokens before, since others need other masks, and its rotary
    embeddings must not follow the length: dynamic ones ask the device for it at every step.
    """
    kinds = getattr(model.config, "layer_types", None)
    rope = getattr(model.config, "rope_parameters", None) or {}
    alike = set(kinds or ()) <= {"full_attention"}
    return alike and "dynamic" not in str(rope.get("rope_type"))


def refuse_not_finite() -> None:
    """Raise the error of logits with NaN or Inf."""
    raise ValueError("the model's logits are not finite: are there NaN weights?")


@torch.inference_mode()
def generate_static(
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
    """Return what :func:`rlsubnet.evaluation.generate.generate` returns; same arguments.

    Greedy tokens are the same. A seed draws other samples, since rows that have ended go on
    drawing noise.
    """
    with any_kernels(), forward_attention():
        return _generate(
            model,
            read_prompts(model, prompt_ids),
            max_new_tokens,
            temperature,
            generator,
            eos_token_id,
            pad_token_id,
            samples,
        ).cpu()


def _generate(
    model: PreTrainedModel,
    prompts: ReadPrompts,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
    eos: int,
    pad: int,
    samples: int,
) -> Tensor:
    logits = prompts.logits.repeat_interleave(samples, 0).float()
    tokens = torch.full((len(logits), max_new_tokens), pad, device=model.device)
    going = torch.ones(len(logits), dtype=torch.bool, device=model.device)
    finite = torch.ones((), dtype=torch.bool, device=model.device)
    step = None
    for position in range(max_new_tokens):
        finite &= logits.isfinite().all()
        chosen = draw_tokens(logits, temperature, generator).where(going, pad)
        tokens[:, position] = chosen
        going &= chosen != eos
        last = position == max_new_tokens - 1
        if last or position % CHECK_EVERY == CHECK_EVERY - 1:
            if not finite:
                refuse_not_finite()
            if last or not going.any():
                return tokens[:, : position + 1]
        step = step or _decoding_step(model, prompts, max_new_tokens - 1, samples)
        logits = step(chosen).float()
    raise AssertionError("max_new_tokens is at least 1")


def _decoding_step(
    model: PreTrainedModel, prompts: ReadPrompts, room: int, samples: int
) -> Callable[[Tensor], Tensor]:
    """Return what writes one token per row behind the prompts and returns the next logits.

    Args:
        model: causal language model.
        prompts: read; each is continued ``samples`` times.
        room: tokens that can be written.
        samples: rows per prompt.
    """
    width = prompts.mask.shape[1]
    cache = StaticCache(config=model.config, max_cache_len=width + room)
    # Layers of all kinds have one type in transformers; here they are of the plain kind.
    layers: list[Any] = list(cache.layers)
    for layer, read in zip(layers, list[Any](prompts.cache.layers), strict=True):
        layer.update(
            read.keys.repeat_interleave(samples, 0),
            read.values.repeat_interleave(samples, 0),
        )
    mask = prompts.mask.repeat_interleave(samples, 0)
    # Who may be looked at, [rows, 1, 1, width + room]: such a mask is taken as it is.
    seen = torch.zeros(len(mask), 1, 1, width + room, dtype=torch.bool, device=model.device)
    seen[..., :width] = mask[:, None, None].bool()
    column = torch.full((1,), width, device=model.device)
    places = mask.sum(1, keepdim=True)
    tokens = torch.zeros(len(mask), 1, dtype=torch.long, device=model.device)

    def run() -> Tensor:
        seen.index_fill_(3, column, True)
        output = model(
            input_ids=tokens,
            attention_mask=seen,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        )
        column.add_(1)
        places.add_(1)
        return cast(Tensor, output.logits[:, -1])

    changed = [column, places, *(layer.cumulative_length for layer in layers)]
    replay = _captured(run, changed) if GRAPHS and model.device.type == "cuda" else run

    def step(chosen: Tensor) -> Tensor:
        tokens.copy_(chosen[:, None])
        return replay()

    return step


def _captured(run: Callable[[], Tensor], changed: Sequence[Tensor]) -> Callable[[], Tensor]:
    """Return a function that replays one call of ``run`` as a CUDA graph.

    Args:
        run: reads and writes tensors that stay where they are.
        changed: those that a call moves on; put back after the calls that prepare the capture.
            What these calls wrote into the cache is overwritten before it is looked at.
    """
    before = [tensor.clone() for tensor in changed]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()  # libraries make their workspaces, which a capture must not
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = run()
    for tensor, value in zip(changed, before, strict=True):
        tensor.copy_(value)

    def replay() -> Tensor:
        graph.replay()
        return logits

    return replay


@contextmanager
def any_kernels() -> Iterator[None]:
    """Let decoding use any kernels.

    The quick one that writes the cache is not on torch's list of those that repeat their bits; it
    does here, where no two writes of one call meet.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
