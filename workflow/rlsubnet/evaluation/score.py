"""Scorers: what a model answers on each kind of test data."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlsubnet.config.model import Settings
from rlsubnet.evaluation.likelihood import response_logprobs
from rlsubnet.evaluation.results import Answer
from rlsubnet.evaluation.sampler import Sampler, make_sampler, sample_texts
from rlsubnet.evaluation.static_cache import noise_generator
from rlsubnet.tasks.tokenizer import encode_prompt, encode_response, encode_text
from rlsubnet.tasks.verify import is_correct

Records = Sequence[Mapping[str, Any]]


def generation_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: str,
    problems: Records,
    settings: Settings,
    draw: Sampler | None = None,
) -> list[Answer]:
    """Return the answers to problems, sampled (task ``{suite}_sampled``) and ``{suite}_greedy``.

    A response is right if it ends by itself and the strict verifier accepts the whole of it. The
    samples come from a stream of their own, so that no other suite moves them.
    """
    answers = []
    prompts = [problem["prompt"] for problem in problems]
    for task, samples, temperature in (
        (f"{suite}_sampled", settings.samples, settings.temperature),
        (f"{suite}_greedy", 1, 0.0),
    ):
        completions = sample_texts(
            draw or make_sampler("own", model),
            tokenizer,
            prompts,
            samples,
            max_new_tokens=settings.max_new_tokens,
            temperature=temperature,
            generator=noise_generator(model.device, settings.seed),
            batch_size=settings.batch_size,
        )
        for problem, group in zip(problems, completions, strict=True):
            right = [text for text, finished in group if finished]
            correct = sum(is_correct(text, problem["solution"]) for text in right)
            answers.append(Answer(task, str(problem["level"]), problem["id"], samples, correct))
    return answers


def choice_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: str,
    items: Records,
    settings: Settings,
) -> list[Answer]:
    """Return the answers to multiple-choice items, as tasks ``{suite}_{task}``.

    The model picks the choice with the highest log-likelihood per token,
    ``log p(choice | prompt) / tokens(choice)``, without an end token. A tie with the right choice
    counts as wrong, so the order of the choices does not matter.
    """
    prompts, responses, bounds = [], [], [0]
    for item in items:
        prompt = encode_prompt(tokenizer, item["prompt"])
        responses += [encode_text(tokenizer, choice) for choice in item["choices"]]
        prompts += [prompt] * len(item["choices"])
        bounds.append(len(responses))
    sums = response_logprobs(
        model,
        prompts,
        responses,
        batch_size=settings.batch_size,
    )
    means = [value / len(tokens) for value, tokens in zip(sums, responses, strict=True)]
    return [
        Answer(
            f"{suite}_{item['task']}", "", item["id"], 1, picks(means[start:stop], item["label"])
        )
        for item, (start, stop) in zip(items, pairwise(bounds), strict=True)
    ]


def picks(scores: Sequence[float], label: int) -> int:
    """Return 1 if the score at ``label`` is higher than every other, else 0.

    >>> picks([-3.0, -1.0, -2.0], 1), picks([-1.0, -1.0], 1)
    (1, 0)
    """
    return int(all(scores[label] > score for i, score in enumerate(scores) if i != label))


def preference_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: str,
    pairs: Records,
    settings: Settings,
) -> list[Answer]:
    """Return whether the model prefers the chosen response of each pair, as task ``suite``.

    Preference accuracy without a reference model: ``log p(chosen) > log p(rejected)``, each summed
    over the response and its end token and not divided by its length. A tie counts as wrong.
    """
    prompts, responses = [], []
    for pair in pairs:
        prompts += [encode_prompt(tokenizer, pair["prompt"])] * 2
        responses += [encode_response(tokenizer, pair[side]) for side in ("chosen", "rejected")]
    sums = response_logprobs(model, prompts, responses, batch_size=settings.batch_size)
    return [
        Answer(suite, str(pair["level"]), f"pair-{number:05d}", 1, int(chosen > rejected))
        for number, (pair, chosen, rejected) in enumerate(
            zip(pairs, sums[::2], sums[1::2], strict=True)
        )
    ]


PROBLEMS = frozenset({"id", "prompt", "solution", "level"})
SCORERS: dict[frozenset[str], Callable[..., list[Answer]]] = {
    PROBLEMS: generation_answers,
    frozenset({"task", "id", "prompt", "choices", "label"}): choice_answers,
    frozenset({"prompt", "chosen", "rejected", "level"}): preference_answers,
}


def suite_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: str,
    records: Records,
    settings: Settings,
    draw: Sampler | None = None,
) -> list[Answer]:
    """Return the answers to a suite's records; their keys tell what kind of test they are.

    Args:
        model: causal language model.
        tokenizer: of the model.
        suite: name of the suite.
        records: of one kind.
        settings: of sampling.
        draw: what draws the model's responses; the model itself if nothing else is given.

    Raises:
        ValueError: no record, or records that are no problems, choices or preference pairs, or a
            mixture of them.
    """
    kinds = {frozenset(record) for record in records}
    if len(kinds) != 1 or not kinds <= set(SCORERS):
        found = sorted(sorted(kind) for kind in kinds)
        expected = sorted(sorted(kind) for kind in SCORERS)
        raise ValueError(
            f"suite {suite}: expected records with one of the key sets {expected}, found {found}"
        )
    if kinds == {PROBLEMS}:
        return generation_answers(model, tokenizer, suite, records, settings, draw)
    return SCORERS[kinds.pop()](model, tokenizer, suite, records, settings)


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
