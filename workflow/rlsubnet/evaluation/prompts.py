"""Prompts, read once: what decoding and log-likelihoods start from."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel


class ReadPrompts(NamedTuple):
    """A model's state behind a batch of prompts.

    ``cache`` holds keys and values, ``logits`` (``[prompts, vocabulary]``) are those of the token
    that follows, ``mask`` (``[prompts, width]``) is 0 on the padding, which is on the left.
    """

    cache: Cache
    logits: Tensor
    mask: Tensor

    def pick(self, rows: Tensor) -> "ReadPrompts":
        """Return the state of ``rows`` in this order, each as often as it occurs; moves the cache.

        The cache is changed in place: the old state is not to be used again.
        """
        self.cache.batch_select_indices(rows)
        return ReadPrompts(self.cache, self.logits[rows], self.mask[rows])


def check_prompts(prompts: Sequence[Sequence[int]]) -> None:
    """Raise ValueError where there is no prompt, or an empty one."""
    if not prompts or min(map(len, prompts)) == 0:
        raise ValueError("expected prompts of at least one token")


def check_request(
    max_new_tokens: int, temperature: float, generator: torch.Generator | None, samples: int
) -> None:
    """Raise the ValueError of what :func:`rlsubnet.evaluation.generate.generate` cannot draw."""
    if max_new_tokens < 1 or samples < 1:
        raise ValueError(
            f"generate: expected max_new_tokens and samples of at least 1, found "
            f"{max_new_tokens} and {samples}"
        )
    if temperature < 0 or (temperature > 0 and generator is None):
        raise ValueError(
            f"generate: temperature {temperature} needs to be 0, or above 0 with a generator"
        )
    if temperature == 0 and samples > 1:
        raise ValueError(f"generate: {samples} greedy samples of one prompt would be the same")


def read_prompts(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> ReadPrompts:
    """Return the state of ``model`` behind ``prompts``, of any lengths.

    Raises:
        ValueError: no prompt, or an empty one.
    """
    check_prompts(prompts)
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
