"""Sampling a policy's answers to prompts, for data sets that are made of them."""

from collections.abc import Sequence
from pathlib import Path

from rlsubnet.tasks.checks import check_count
from rlsubnet.tasks.completion import Completion


def sample_answers(
    policy: Path,
    prompts: Sequence[str],
    samples: int,
    temperature: float,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    sampler: str = "own",
) -> list[list[Completion]]:
    """Return a policy's answers to each prompt.

    Args:
        policy: folder of the policy and its tokenizer.
        prompts: texts without start token.
        samples: samples per prompt.
        temperature: temperature of the samples, above 0.
        seed: seed of the samples.
        max_new_tokens: length at which a sample is cut off and counts as wrong.
        batch_size: number of samples generated side by side.
        sampler: what draws: the policy itself (``own``), or ``vllm``.

    Raises:
        ValueError: a number is out of range, or the folder holds no model.
    """
    check_count("batch_size", batch_size)
    check_count("max_new_tokens", max_new_tokens)
    if temperature <= 0:
        raise ValueError(f"temperature: expected above 0, found {temperature}")
    from rlsubnet.evaluation.loading import load_policy
    from rlsubnet.evaluation.sampler import make_sampler, sample_texts
    from rlsubnet.evaluation.static_cache import noise_generator

    model, tokenizer = load_policy(policy)
    return sample_texts(
        make_sampler(sampler, model),
        tokenizer,
        prompts,
        samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        generator=noise_generator(model.device, seed),
        batch_size=batch_size,
    )
