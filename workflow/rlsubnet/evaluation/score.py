"""Scorers: what a model answers on each kind of test data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlsubnet.checkpoints.checkpoint import Checkpoint
from rlsubnet.checkpoints.delta import open_steps
from rlsubnet.columns import Answer
from rlsubnet.evaluation.generate import forward_attention, read_prompts
from rlsubnet.evaluation.loading import deterministic
from rlsubnet.evaluation.results import score_rows
from rlsubnet.evaluation.sampler import Policy, sample_texts
from rlsubnet.files import read_jsonl, sha256
from rlsubnet.tasks.tokenizer import encode_prompt, encode_response, encode_text
from rlsubnet.tasks.words import is_correct

# Logits that are held at a time, and a few times over: with vocabularies of 10^5 tokens they are
# what fills a memory.
LOGITS = 2**30


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
        batch_size: number of sequences side by side, fewer where their logits would be too many.
    """
    if len(prompts) != len(responses) or not all(map(len, [*prompts, *responses])):
        raise ValueError("expected as many prompts as responses, each of at least one token")
    sums: list[float] = []
    width = max(map(len, responses), default=1)
    size = max(1, min(batch_size, LOGITS // (width * model.config.vocab_size)))
    for start in range(0, len(prompts), size):
        part = slice(start, start + size)
        sums += _batch_logprobs(model, prompts[part], responses[part]).tolist()
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


Records = Sequence[Mapping[str, Any]]


def generation_answers(policy: Policy, suite: str, problems: Records) -> list[Answer]:
    """Return the answers to problems, sampled (task ``{suite}_sampled``) and ``{suite}_greedy``.

    A response is right if it ends by itself and the strict verifier accepts the whole of it.
    """
    answers = []
    prompts = [problem["prompt"] for problem in problems]
    for task, greedy in (f"{suite}_sampled", False), (f"{suite}_greedy", True):
        completions = sample_texts(policy, prompts, greedy=greedy)
        for problem, group in zip(problems, completions, strict=True):
            right = [text for text, finished in group if finished]
            correct = sum(is_correct(text, problem["solution"]) for text in right)
            answers.append(Answer(task, str(problem["level"]), problem["id"], len(group), correct))
    return answers


def choice_answers(policy: Policy, suite: str, items: Records) -> list[Answer]:
    """Return the answers to multiple-choice items, as tasks ``{suite}_{task}``.

    The model picks the choice with the highest log-likelihood per token,
    ``log p(choice | prompt) / tokens(choice)``, without an end token. A tie with the right choice
    counts as wrong, so the order of the choices does not matter.
    """
    prompts, responses = [], []
    for item in items:
        prompt = encode_prompt(policy.tokenizer, item["prompt"])
        responses += [encode_text(policy.tokenizer, choice) for choice in item["choices"]]
        prompts += [prompt] * len(item["choices"])
    sums = response_logprobs(policy.model, prompts, responses, policy.how.batch_size)
    means = (value / len(tokens) for value, tokens in zip(sums, responses, strict=True))
    answers = []
    for item in items:
        correct = picks(list(islice(means, len(item["choices"]))), item["label"])
        answers.append(Answer(f"{suite}_{item['task']}", "", item["id"], 1, correct))
    return answers


def picks(scores: Sequence[float], label: int) -> int:
    """Return 1 if the score at ``label`` is higher than every other, else 0.

    >>> picks([-3.0, -1.0, -2.0], 1), picks([-1.0, -1.0], 1)
    (1, 0)
    """
    return int(all(scores[label] > score for i, score in enumerate(scores) if i != label))


def preference_answers(policy: Policy, suite: str, pairs: Records) -> list[Answer]:
    """Return whether the model prefers the chosen response of each pair, as task ``suite``.

    Preference accuracy without a reference model: ``log p(chosen) > log p(rejected)``, each summed
    over the response and its end token and not divided by its length. A tie counts as wrong.
    """
    prompts, responses = [], []
    for pair in pairs:
        prompts += [encode_prompt(policy.tokenizer, pair["prompt"])] * 2
        sides = (pair["chosen"], pair["rejected"])
        responses += [encode_response(policy.tokenizer, side) for side in sides]
    sums = response_logprobs(policy.model, prompts, responses, policy.how.batch_size)
    triples = zip(pairs, sums[::2], sums[1::2], strict=True)
    return [
        Answer(suite, str(pair["level"]), f"pair-{number:05d}", 1, int(chosen > rejected))
        for number, (pair, chosen, rejected) in enumerate(triples)
    ]


# What records of a kind of test have, and what scores them.
SCORERS: dict[frozenset[str], Callable[[Policy, str, Records], list[Answer]]] = {
    frozenset({"id", "prompt", "solution", "level"}): generation_answers,
    frozenset({"task", "id", "prompt", "choices", "label"}): choice_answers,
    frozenset({"prompt", "chosen", "rejected", "level"}): preference_answers,
}


def suite_answers(policy: Policy, suite: str, records: Records) -> list[Answer]:
    """Return the answers to a suite's records; their keys tell what kind of test they are."""
    kinds = {frozenset(record) for record in records}
    if len(kinds) != 1 or not kinds <= set(SCORERS):
        found = sorted(sorted(kind) for kind in kinds)
        expected = sorted(sorted(kind) for kind in SCORERS)
        raise ValueError(
            f"suite {suite}: expected records with one of the key sets {expected}, found {found}"
        )
    return SCORERS[kinds.pop()](policy, suite, records)


def chance_levels(suite: str, records: Records) -> dict[str, float]:
    """Return the accuracy of guessing for each multiple-choice task of a suite.

    >>> chance_levels("mc5", [{"task": "fact", "choices": ["1", "2", "3", "4"]}])
    {'mc5_fact': 0.25}
    """
    guesses: dict[str, list[float]] = {}
    for record in records:
        if "choices" in record:
            task = f"{suite}_{record['task']}"
            guesses.setdefault(task, []).append(1 / len(record["choices"]))
    return {task: sum(values) / len(values) for task, values in guesses.items()}


class Suite(NamedTuple):
    """The records of one data file, and its digest."""

    name: str
    records: Records
    data_sha256: str


def load_suites(files: Mapping[str, Path]) -> list[Suite]:
    return [Suite(name, read_jsonl(path), sha256(path)) for name, path in files.items()]


def answer_suites(
    policy: Policy, suites: Sequence[Suite]
) -> tuple[list[Answer], list[dict[str, Any]]]:
    answers: list[Answer] = []
    digests: dict[str, str] = {}
    for suite in suites:
        with deterministic(policy.model.device):
            of_suite = suite_answers(policy, suite.name, suite.records)
        digests |= dict.fromkeys((answer.task for answer in of_suite), suite.data_sha256)
        answers += of_suite
    return answers, score_rows(answers, digests)


@torch.no_grad()
def load_weights(model: PreTrainedModel, checkpoint: Checkpoint) -> None:
    """Give a model the weights of a checkpoint of its own architecture, one tensor at a time."""
    parameters = dict(model.named_parameters())
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {name: info.shape for name, info in checkpoint.tensors.items()}
    for name in sorted(expected | found):
        if expected.get(name) != found.get(name):
            raise ValueError(
                f"{checkpoint.path}: tensor {name}: expected shape {expected.get(name)} as in the "
                f"model that the run started from, found {found.get(name)}"
            )
    for name, parameter in parameters.items():
        stored = checkpoint.read(name)
        if stored.dtype == np.uint16:  # codes of bfloat16 numbers
            parameter.copy_(torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16))
        else:
            parameter.copy_(torch.from_numpy(stored))


def load_steps(model: PreTrainedModel, init: Path, steps: Mapping[int, Path]) -> Iterator[int]:
    """Yield 0, the model as it is, and then every saved step, when the model has its weights.

    Raises:
        ValueError: a step cannot be read, or is of another init or architecture; before the first
            step is yielded, where the files' headers tell.
    """
    checkpoints = open_steps(Checkpoint(init), steps)
    yield 0
    for step, checkpoint in checkpoints.items():
        load_weights(model, checkpoint)
        yield step
