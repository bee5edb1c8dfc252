"""A stand-in for a model that answers arithmetic as told, through the same interface."""

from collections.abc import Callable
from types import SimpleNamespace

import torch

from rlsubnet.tasks.tokenizer import VOCAB_SIZE, build_tokenizer, encode_response


class History(list[list[int]]):
    """The oracle's cache: the tokens that each row has read, without padding."""

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        self[:] = [list(self[index]) for index in indices.tolist()]


class Oracle:
    """Continues every prompt with ``answer(prompt)`` and the end token, nearly surely.

    Behind a response that has left the answer, all tokens are equally likely.
    """

    device = torch.device("cpu")
    config = SimpleNamespace(vocab_size=VOCAB_SIZE)

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer
        self.tokenizer = build_tokenizer()

    def __call__(
        self, input_ids, attention_mask, past_key_values=None, logits_to_keep=0, **_
    ) -> SimpleNamespace:
        new = attention_mask[:, -input_ids.shape[1] :]
        cache = past_key_values or History([] for _ in input_ids)
        logits = torch.zeros(*input_ids.shape, VOCAB_SIZE)
        for row, (tokens, real) in enumerate(zip(input_ids.tolist(), new.tolist(), strict=True)):
            for column, (token, is_real) in enumerate(zip(tokens, real, strict=True)):
                if is_real:
                    cache[row].append(token)
                    following = self.next_token(cache[row])
                    if following is not None:
                        logits[row, column, following] = 30.0
        return SimpleNamespace(logits=logits[:, -logits_to_keep:], past_key_values=cache)

    def next_token(self, tokens: list[int]) -> int | None:
        text = self.tokenizer.decode(tokens[1:])
        prompt, equals, said = text.partition("=")
        if not equals:
            return None
        answer = encode_response(self.tokenizer, self.answer(prompt + equals))
        written = tokens[-len(said) :] if said else []
        return answer[len(written)] if answer[: len(written)] == written != answer else None
