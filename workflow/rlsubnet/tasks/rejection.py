"""Rejection sampling: of a policy's own samples, the correct ones to learn from."""

import random
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlsubnet.tasks.completion import Completion
from rlsubnet.tasks.verify import is_correct


class KeptCounts(NamedTuple):
    """What became of the samples and of the prompts."""

    samples: int
    correct: int
    kept: int
    prompts: int
    none_correct: int

    def __str__(self) -> str:
        return (
            f"kept of {self.correct} correct among {self.samples} samples of {self.prompts} "
            f"prompts, none twice; {self.none_correct} prompts without a correct sample"
        )


def correct_samples(
    problems: Sequence[Mapping[str, Any]],
    completions: Sequence[Sequence[Completion]],
    per_prompt: int,
    seed: int,
) -> tuple[list[dict[str, Any]], KeptCounts]:
    """Return the different correct answers to each prompt, at most ``per_prompt`` of them.

    Equal answers to one prompt count once, as in rejection-sampling finetuning (RFT; Yuan et al.
    2023): an easy prompt then weighs no more for being answered correctly every time. Where more
    differ than are kept, those kept are drawn at random.

    Args:
        problems: records ``{"prompt", "solution", "level"}``.
        completions: the samples of each problem; one that was cut off is not correct.
        per_prompt: how many to keep of each prompt.
        seed: seed of the draws.

    Returns:
        Records ``{"prompt", "response", "level"}`` in the order of ``problems`` and of their
        samples, and the counts.

    >>> problem = {"prompt": "07+5+0+0+0+0=", "solution": ";12", "level": 1}
    >>> texts = [";12", ";13", "(1212121212", ";12"]
    >>> samples = [[Completion(text, True) for text in texts]]
    >>> records, counts = correct_samples([problem], samples, per_prompt=4, seed=0)
    >>> [record["response"] for record in records]
    [';12', '(1212121212']
    >>> counts
    KeptCounts(samples=4, correct=3, kept=2, prompts=1, none_correct=0)
    """
    rng = random.Random(f"{seed} rejection")
    records: list[dict[str, Any]] = []
    total = correct = none_correct = 0
    for problem, samples in zip(problems, completions, strict=True):
        right = [
            sample.text
            for sample in samples
            if sample.finished and is_correct(sample.text, problem["solution"])
        ]
        total += len(samples)
        correct += len(right)
        none_correct += not right
        different = list(dict.fromkeys(right))
        if len(different) > per_prompt:
            drawn = sorted(rng.sample(range(len(different)), per_prompt))
            different = [different[index] for index in drawn]
        records += [
            {"prompt": problem["prompt"], "response": text, "level": problem["level"]}
            for text in different
        ]
    counts = KeptCounts(total, correct, len(records), len(problems), none_correct)
    return records, counts
