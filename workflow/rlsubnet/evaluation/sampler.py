"""What draws a model's responses: the model itself, or vLLM in its place.

A GPU draws into a cache of fixed size: no step waits for it, and a step is one CUDA graph. Who
draws more than once keeps the sampler and with it the graph: capturing one empties torch's cache of
memory. Rows that have ended stay in the batch, since its size is fixed; whether all have ended is
asked every few tokens only.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StaticCache

from rlsubnet.config.model import SamplerName, Sampling
from rlsubnet.config.schema import Preferences, RejectionSamples, WordPreferences
from rlsubnet.evaluation.generate import (
    NOT_FINITE,
    ReadPrompts,
    SampleRequest,
    completion,
    forward_attention,
    generate,
    noise_generator,
    read_prompts,
)
from rlsubnet.evaluation.loading import any_kernels, load_policy
from rlsubnet.tasks.tokenizer import Completion, encode_prompt, end_token, padding_token

# Tokens between two questions whether all rows have ended.
CHECK_EVERY = 16
# Prompts are padded to a multiple of so many tokens, so that few shapes occur.
WIDTHS = 16
# Whether a GPU replays a captured step; False launches each kernel, to look for a fault.
GRAPHS = True


# Draws the responses that are wanted; what it returns is that of
# :func:`rlsubnet.evaluation.generate.generate`.
Sampler = Callable[[SampleRequest], Tensor]


# What says how many answers are drawn, and how.
Sampled = Sampling | Preferences | RejectionSamples | WordPreferences


class Policy(NamedTuple):
    """A model that answers, and what draws its answers."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    how: Sampled
    draw: Sampler


def open_policy(
    folder: Path, how: Sampled, device: str = "auto", dtype: torch.dtype = torch.float32
) -> Policy:
    model, tokenizer = load_policy(folder, device, dtype)
    return Policy(model, tokenizer, how, make_sampler(how.sampler, model))


def make_sampler(name: SamplerName, model: PreTrainedModel) -> Sampler:
    if name == "own":
        return StaticSampler(model) if is_static(model) else partial(generate, model)
    from rlsubnet.evaluation.vllm import VllmSampler

    return VllmSampler(model)


def sample_texts(
    policy: Policy, prompts: Sequence[str], *, greedy: bool = False
) -> list[list[Completion]]:
    """Return the completions of each prompt, in the order of ``prompts``; one if ``greedy``.

    One stream of noise serves all batches in turn, so that the batch size is part of what a seed
    means: another one draws other samples.
    """
    how, tokenizer = policy.how, policy.tokenizer
    samples, temperature = (1, 0.0) if greedy else (how.samples, how.temperature)
    noise = noise_generator(policy.model.device, how.seed)
    eos, pad = end_token(tokenizer), padding_token(tokenizer)
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    completions = []
    size = max(1, how.batch_size // samples)
    for start in range(0, len(encoded), size):
        wanted = SampleRequest(
            encoded[start : start + size],
            how.max_new_tokens,
            temperature,
            noise,
            samples,
            eos=eos,
            pad=pad,
        )
        rows = policy.draw(wanted).tolist()
        texts = [completion(tokenizer, row, eos) for row in rows]
        completions += [texts[i : i + samples] for i in range(0, len(texts), samples)]
    return completions


def is_static(model: PreTrainedModel) -> bool:
    """Return whether a model is decoded into a cache of fixed size: on a GPU, where it can be."""
    return model.device.type == "cuda" and fits_static_cache(model)


def fits_static_cache(model: PreTrainedModel) -> bool:
    """Return whether a model can be decoded from a cache of fixed size.

    All its layers must look at all tokens before, since others need other masks, and its rotary
    embeddings must not follow the length: dynamic ones ask the device for it at every step.
    """
    kinds = getattr(model.config, "layer_types", None)
    rope = getattr(model.config, "rope_parameters", None) or {}
    alike = set(kinds or ()) <= {"full_attention"}
    return alike and "dynamic" not in str(rope.get("rope_type"))


class StaticSampler:
    """Draws from a model time and again; its weights may change meanwhile.

    Returns what :func:`rlsubnet.evaluation.generate.generate` returns, the same greedy tokens; a
    seed draws other samples, since rows that have ended go on drawing noise. The cache and the
    captured step stay for the next prompts, as many of them and no longer ones.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._decoder: _Decoder | None = None

    @torch.inference_mode()
    def __call__(self, wanted: SampleRequest) -> Tensor:
        with any_kernels(), forward_attention():
            return self._draw(read_prompts(self._model, wanted.prompts), wanted).cpu()

    def _draw(self, prompts: ReadPrompts, wanted: SampleRequest) -> Tensor:
        device, room = self._model.device, wanted.max_new_tokens
        logits = prompts.logits.repeat_interleave(wanted.samples, 0).float()
        tokens = torch.full((len(logits), room), wanted.pad, device=device)
        going = torch.ones(len(logits), dtype=torch.bool, device=device)
        finite = torch.ones((), dtype=torch.bool, device=device)
        decoder = None
        for position in range(room):
            finite &= logits.isfinite().all()
            chosen = wanted.choose(logits).where(going, wanted.pad)
            tokens[:, position] = chosen
            going &= chosen != wanted.eos
            last = position == room - 1
            if last or position % CHECK_EVERY == CHECK_EVERY - 1:
                if not finite:
                    raise ValueError(NOT_FINITE)
                if last or not going.any():
                    return tokens[:, : position + 1]
            decoder = decoder or self._decoder_behind(prompts, room - 1, wanted.samples)
            logits = decoder.step(chosen).float()
        raise AssertionError("max_new_tokens is at least 1")

    def _decoder_behind(self, prompts: ReadPrompts, room: int, samples: int) -> "_Decoder":
        """Return what goes on behind the prompts: the one that is there, if it has room for them.

        Capturing a step costs more than what its cache is wider than the prompts.
        """
        rows, width = len(prompts.mask) * samples, prompts.mask.shape[1]
        shape = _Shape(rows, -(-width // WIDTHS) * WIDTHS, room)
        # Where the weights have moved in memory, a captured step would read what was there.
        places = [weight.data_ptr() for weight in self._model.parameters()]
        decoder = self._decoder
        if decoder is None or decoder.places != places or not decoder.shape.holds(shape):
            self._decoder = decoder = None  # gives its memory back before more is asked for
            self._decoder = decoder = _Decoder(self._model, shape, places)
        decoder.begin(prompts, samples)
        return decoder


class _Shape(NamedTuple):
    """Rows that are written, tokens of the prompts with padding, tokens that can be written."""

    rows: int
    width: int
    room: int

    def holds(self, other: "_Shape") -> bool:
        """Return whether there is room for another one; rows that are not there cost as others."""
        return self.rows == other.rows and self.width >= other.width and self.room >= other.room


class _Decoder:
    """Writes one token per row behind prompts and returns the next logits.

    All its tensors stay where they are: a GPU captures a step once and replays it for every token
    of every batch of this shape.

    Attributes:
        places: addresses of the model's weights.
    """

    def __init__(self, model: PreTrainedModel, shape: _Shape, places: list[int]) -> None:
        self.shape, self.places = shape, places
        self._model = model
        # Of another length torch copies the mask for its quick kernel, in every layer.
        length = -(-(shape.width + shape.room) // WIDTHS) * WIDTHS
        self._cache = StaticCache(config=model.config, max_cache_len=length)
        # Who may be looked at, [rows, 1, 1, length]: such a mask is taken as it is.
        self._seen = torch.zeros(shape.rows, 1, 1, length, dtype=torch.bool, device=model.device)
        self._column = torch.zeros(1, dtype=torch.long, device=model.device)
        self._positions = torch.zeros(shape.rows, 1, dtype=torch.long, device=model.device)
        self._tokens = torch.zeros(shape.rows, 1, dtype=torch.long, device=model.device)
        self._replay: Callable[[], Tensor] | None = None

    def begin(self, prompts: ReadPrompts, samples: int) -> None:
        """Put prompts, each to be continued ``samples`` times, in the place of what was there.

        They end at column ``width``. What earlier rows left further on is not looked at before it
        is written again.
        """
        start = self.shape.width - prompts.mask.shape[1]
        read = list[Any](prompts.cache.layers)
        for layer, there in zip(self._layers(), read, strict=True):
            layer.cumulative_length.fill_(start)
            layer.update(
                there.keys.repeat_interleave(samples, 0),
                there.values.repeat_interleave(samples, 0),
            )
        mask = prompts.mask.repeat_interleave(samples, 0)
        self._seen.zero_()
        self._seen[..., start : self.shape.width] = mask[:, None, None].bool()
        self._column.fill_(self.shape.width)
        self._positions.copy_(mask.sum(1, keepdim=True))

    def step(self, chosen: Tensor) -> Tensor:
        """Write a token per row, ``[rows]``; return the next logits, which a step overwrites."""
        self._tokens.copy_(chosen[:, None])
        if self._replay is None and GRAPHS and self._model.device.type == "cuda":
            lengths = [layer.cumulative_length for layer in self._layers()]
            self._replay = _captured(self._run, [self._column, self._positions, *lengths])
        # Not kept where there is no graph: one that holds itself waits for the collector.
        return (self._replay or self._run)()

    def _layers(self) -> list[Any]:
        # Layers of all kinds have one type in transformers; here they are of the plain kind.
        return list(self._cache.layers)

    def _run(self) -> Tensor:
        self._seen.index_fill_(3, self._column, True)
        output = self._model(
            input_ids=self._tokens,
            attention_mask=self._seen,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._column.add_(1)
        self._positions.add_(1)
        return cast(Tensor, output.logits[:, -1])


@cache
def _side_stream() -> torch.cuda.Stream:
    # One for all captures: each stream keeps a workspace of cuBLAS, 32 MiB, for good.
    return torch.cuda.Stream()


def _captured(run: Callable[[], Tensor], changed: Sequence[Tensor]) -> Callable[[], Tensor]:
    """Return a function that replays one call of ``run`` as a CUDA graph.

    Args:
        changed: those that a call moves on; put back after the calls that prepare the capture.
            What these calls wrote into the cache is overwritten before it is looked at.
    """
    before = [tensor.clone() for tensor in changed]
    side = _side_stream()
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
