"""Preference pairs from a policy's own samples: a correct answer against a wrong one."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rlsubnet.tasks.completion import Completion
from rlsubnet.tasks.tokenizer import CHARACTERS
from rlsubnet.tasks.verify import is_correct


class PairCounts(NamedTuple):
    """What became of the prompts; all but ``prompts`` add up to ``prompts``."""

    prompts: int
    pairs: int
    all_correct: int
    none_correct: int
    no_usable_wrong: int

    def __str__(self) -> str:
        return (
            f"{self.pairs} pairs from {self.prompts} prompts; without a pair: "
            f"{self.all_correct} with every sample correct, {self.none_correct} with none correct, "
            f"{self.no_usable_wrong} whose wrong samples are all unusable"
        )


def is_usable(completion: Completion) -> bool:
    """Return whether a sample can be trained on: it ended, and says something in ``CHARACTERS``.

    >>> is_usable(Completion(";1", True)), is_usable(Completion(";12", False))
    (True, False)
    >>> is_usable(Completion("", True)), is_usable(Completion("<s>", True))
    (False, False)
    """
    text, finished = completion
    return finished and text != "" and set(text) <= set(CHARACTERS)


def preference_pairs(
    problems: Sequence[Mapping[str, Any]],
    completions: Sequence[Sequence[Completion]],
    seed: int,
    is_usable: Callable[[Completion], bool] = is_usable,
) -> tuple[list[dict[str, Any]], PairCounts]:
    """Return one pair per prompt that has both kinds of samples, and counts of all prompts.

    A random correct sample is chosen over a random wrong one. A wrong sample may be malformed, but
    it must have ended by itself and be writable, so that both responses can be trained on.

    Args:
        problems: records ``{"prompt", "solution", "level"}``.
        completions: the samples of each problem.
        seed: seed of the draws.
        is_usable: whether a wrong sample can be trained on.

    Returns:
        Records ``{"prompt", "chosen", "rejected", "level"}`` in the order of ``problems``, and the
        counts.

    >>> problem = {"prompt": "07+5+0+0+0+0=", "solution": ";12", "level": 1}
    >>> samples = [Completion(";12", True), Completion(";13", True), Completion("(12", False)]
    >>> preference_pairs([problem], [samples], seed=0)[0]
    [{'prompt': '07+5+0+0+0+0=', 'chosen': ';12', 'rejected': ';13', 'level': 1}]
    """
    rng = random.Random(f"{seed} pairs")
    pairs: list[dict[str, Any]] = []
    all_correct = none_correct = no_usable_wrong = 0
    for problem, samples in zip(problems, completions, strict=True):
        right: list[Completion] = []
        wrong: list[Completion] = []
        for sample in samples:
            correct = sample.finished and is_correct(sample.text, problem["solution"])
            (right if correct else wrong).append(sample)
        usable = [sample for sample in wrong if is_usable(sample)]
        if not right:
            none_correct += 1
        elif not wrong:
            all_correct += 1
        elif not usable:
            no_usable_wrong += 1
        else:
            pairs.append(
                {
                    "prompt": problem["prompt"],
                    "chosen": rng.choice(right).text,
                    "rejected": rng.choice(usable).text,
                    "level": problem["level"],
                }
            )
    counts = PairCounts(len(problems), len(pairs), all_correct, none_correct, no_usable_wrong)
    return pairs, counts
