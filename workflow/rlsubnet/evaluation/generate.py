"""Drawing responses with a key-value cache that grows, for any Hugging Face causal LM."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import Cache, PreTrainedModel, PreTrainedTokenizerBase

from rlsubnet.tasks.tokenizer import Completion

# In a forward pass all of these give the same bits each time. Decoding has a mask, which the first
# does not take; the third writes all scores to memory. Not cuDNN's, which torch takes first on an
# H100 or H200: padded tokens see nothing, and what it makes of such rows is not promised.
forward_attention = partial(
    sdpa_kernel, [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
)

NOT_FINITE = "the model's logits are not finite: are there NaN weights?"


@dataclass(frozen=True)
class SampleRequest:
    """Responses that are wanted: ``samples`` to each of the prompts.

    Attributes:
        prompts: token ids of any lengths; padding happens where they are read.
        max_new_tokens: number of tokens after which a response is cut off.
        temperature: 0 is greedy decoding.
        generator: source of the noise, needed unless greedy; on any device. The same seed and
            request give the same tokens.
        eos: token that ends a response; it is part of the response.
        pad: token that fills a row behind the end token.
    """

    prompts: Sequence[Sequence[int]]
    max_new_tokens: int
    temperature: float = 0.0
    generator: torch.Generator | None = None
    samples: int = 1
    eos: int = field(kw_only=True)
    pad: int = field(kw_only=True)

    def __post_init__(self) -> None:
        if not self.prompts or not all(map(len, self.prompts)):
            raise ValueError("expected prompts of at least one token")
        if self.temperature != 0 and self.generator is None:
            raise ValueError(f"temperature {self.temperature}: expected 0, or one with a generator")

    def choose(self, logits: Tensor) -> Tensor:
        """Return one token id per row of float32 ``logits``: the likeliest, or a sample.

        A sample is ``argmax(logits / temperature + Gumbel noise)``.
        """
        if self.temperature == 0 or self.generator is None:
            return logits.argmax(-1)
        # -log(U) of a uniform U in (0, 1] is exponential; a 0 would make the noise infinite.
        exponential = torch.empty(logits.shape, device=self.generator.device)
        exponential.exponential_(generator=self.generator).clamp_(min=1e-30)
        return (logits / self.temperature - exponential.log().to(logits.device)).argmax(-1)


@torch.inference_mode()
def generate(model: PreTrainedModel, wanted: SampleRequest) -> Tensor:
    """Return the generated token ids, one row per prompt and sample.

    A prompt is read once, however many samples are drawn from it. No token is excluded and no
    distribution is cut (neither top-k nor top-p): samples come from the model's own softmax at
    the temperature. Rows that have ended cost nothing.

    Returns:
        int64 tensor on the CPU, shape ``[prompts * samples, T]`` with ``T <= max_new_tokens``;
        row ``i * samples + j`` is sample ``j`` of prompt ``i``.
    """
    with forward_attention():
        state = read_prompts(model, wanted.prompts)
        if wanted.samples > 1:
            rows = torch.arange(len(wanted.prompts), device=model.device)
            state = state.pick(rows.repeat_interleave(wanted.samples))
        return _written(model, state, wanted).cpu()


def _written(model: PreTrainedModel, state: "ReadPrompts", wanted: SampleRequest) -> Tensor:
    cache, logits, mask = state
    rows = torch.full((len(logits), wanted.max_new_tokens), wanted.pad, device=model.device)
    alive = torch.arange(len(logits), device=model.device)  # the rows still being written
    for position in range(wanted.max_new_tokens):
        logits = logits.float()
        if not torch.isfinite(logits).all():
            raise ValueError(NOT_FINITE)
        chosen = wanted.choose(logits)
        rows[alive, position] = chosen
        going = (chosen != wanted.eos).nonzero().squeeze(1)
        if len(going) == 0 or position == wanted.max_new_tokens - 1:
            return rows[:, : position + 1]
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
    raise AssertionError("max_new_tokens is at least 1")


class ReadPrompts(NamedTuple):
    """A model's state behind a batch of prompts.

    ``cache`` holds keys and values, ``logits`` (``[prompts, vocabulary]``) are those of the token
    that follows, ``mask`` (``[prompts, width]``) is 0 on the padding, which is on the left.
    """

    cache: Cache
    logits: Tensor
    mask: Tensor

    def pick(self, rows: Tensor) -> "ReadPrompts":
        """Return the state of ``rows`` in this order; moves the cache, so that this one is gone."""
        self.cache.batch_select_indices(rows)
        return ReadPrompts(self.cache, self.logits[rows], self.mask[rows])


def read_prompts(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> ReadPrompts:
    """Return the state of ``model`` behind ``prompts``, of any lengths."""
    width = max(map(len, prompts))
    # Which token pads does not matter: the mask hides it.
    rows = [[prompt[0]] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    tokens = torch.tensor(rows, device=model.device)
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    mask = (torch.arange(width, device=model.device) >= width - lengths[:, None]).long()
    output = model(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
    )
    return ReadPrompts(output.past_key_values, output.logits[:, -1], mask)


def noise_generator(device: torch.device, seed: int) -> torch.Generator:
    """Return a source of noise on the device: there it need not be copied.

    The two kinds of devices draw different numbers from one seed.
    """
    return torch.Generator(device).manual_seed(seed)


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
