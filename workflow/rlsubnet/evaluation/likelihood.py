"""Log-likelihoods of given responses, in batches."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlsubnet.evaluation.prompts import read_prompts
from rlsubnet.evaluation.static_cache import forward_attention

# Logits that are held at a time, and a few times over: with vocabularies of 10^5 tokens they are
# what fills a memory.
LOGITS = 2**30


def rows_at_a_time(batch_size: int, width: int, vocabulary: int) -> int:
    """Return how many responses of at most ``width`` tokens are scored side by side.

    >>> rows_at_a_time(512, width=12, vocabulary=24)
    512
    >>> rows_at_a_time(512, width=257, vocabulary=151936)  # 2^30 / (257 * 151936) = 27.5
    27
    """
    return max(1, min(batch_size, LOGITS // (width * vocabulary)))


@torch.inference_mode()
@forward_attention()
def response_logprobs(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    batch_size: int = 512,
) -> list[float]:
    """Return the summed log-probability of each response given its prompt.

    ``sum_t log p(response_t | prompt, response_<t)`` over the tokens of the response, in nats. A
    prompt that several responses of a batch share is read once.

    Args:
        model: causal language model.
        prompts: token ids, at least one each.
        responses: token ids, at least one each, in the order of ``prompts``.
        batch_size: number of sequences side by side, fewer where their logits would be too many.

    Raises:
        ValueError: an empty prompt or response, or a log-probability that is not finite.
    """
    if len(prompts) != len(responses) or not all(map(len, responses)):
        raise ValueError("expected as many prompts as responses, each of at least one token")
    sums: list[float] = []
    width = max(map(len, responses), default=1)
    size = rows_at_a_time(batch_size, width, model.config.vocab_size)
    for start in range(0, len(prompts), size):
        stop = start + size
        batch = _batch_logprobs(model, prompts[start:stop], responses[start:stop])
        sums += batch.tolist()
    return sums


def _batch_logprobs(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]
) -> Tensor:
    rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    wanted = torch.tensor([rows[tuple(prompt)] for prompt in prompts], device=model.device)
    cache, first, mask = read_prompts(model, list(rows)).pick(wanted)

    lengths = torch.tensor([len(response) for response in responses], device=model.device)
    width = max(map(len, responses))
    padded = [[*response] + [response[0]] * (width - len(response)) for response in responses]
    tokens = torch.tensor(padded, device=model.device)
    real = torch.arange(width, device=model.device) < lengths[:, None]
    logits = first[:, None]
    if width > 1:
        # The last token of a response is predicted, but predicts nothing that is asked for.
        output = model(
            input_ids=tokens[:, :-1],
            attention_mask=torch.cat([mask, real[:, :-1].long()], dim=1),
            position_ids=mask.sum(1, keepdim=True) + torch.arange(width - 1, device=model.device),
            past_key_values=cache,
            use_cache=True,
        )
        logits = torch.cat([logits, output.logits], dim=1)
    logprobs = logits.float().log_softmax(-1)
    chosen = logprobs.gather(-1, tokens[..., None]).squeeze(-1)
    # masked_fill, not a product: a padded position may hold any number.
    sums = chosen.masked_fill(~real, 0.0).double().sum(1)
    if not torch.isfinite(sums).all():
        raise ValueError("a log-probability is not finite: are there NaN weights?")
    return sums.cpu()
