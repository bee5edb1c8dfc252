"""From an entry of the config's ``data:`` to the records of the data set."""

import inspect
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlsubnet.tasks.arithmetic import DEMO, Shape, check_shape, solution_of
from rlsubnet.tasks.checks import check_count, check_name
from rlsubnet.tasks.choices import choices
from rlsubnet.tasks.completion import Completion
from rlsubnet.tasks.preference import PairCounts, preference_pairs
from rlsubnet.tasks.problems import problems
from rlsubnet.tasks.rejection import KeptCounts, correct_samples
from rlsubnet.tasks.sampling import sample_answers
from rlsubnet.tasks.splits import SHARES, draw_problems, every_level
from rlsubnet.tasks.texts import base_text, demonstration_pairs, demonstrations
from rlsubnet.tasks.word_data import word_demonstrations, word_preferences, word_problems

Records = list[dict[str, Any]]

# What a key of a specification may hold; a bool is no number here.
_TYPES: dict[str, tuple[type, ...]] = {
    "digits": (int,),
    "slots": (int,),
    "documents": (int,),
    "characters": (int,),
    "wrong_facts": (int, float),
    "problems": (int,),
    "per_level": (list,),
    "per_task": (int,),
    "prompts": (int,),
    "samples": (int,),
    "per_prompt": (int,),
    "temperature": (int, float),
    "max_new_tokens": (int,),
    "batch_size": (int,),
    "terse_share": (int, float),
    "seed": (int,),
    "split": (str,),
    "style": (str,),
    "policy": (str,),
    "source": (str,),
    "rows": (list,),
    "template": (str,),
    "sampler": (str,),
}


def sampled_answers(
    policy: Path,
    prompts: int,
    samples: int,
    temperature: float,
    split: str,
    seed: int,
    max_new_tokens: int,
    batch_size: int,
    shape: Shape = DEMO,
    sampler: str = "own",
) -> tuple[Records, list[list[Completion]]]:
    """Return questions ``{"prompt", "solution", "level"}`` and a policy's answers to each.

    Args:
        policy: folder of the policy and its tokenizer.
        prompts: number of prompts; the five levels take turns, none comes twice.
        samples: samples per prompt.
        temperature: temperature of the samples, above 0.
        split: split of the prompts.
        seed: seed of prompts and samples.
        max_new_tokens: length at which a sample is cut off and counts as wrong.
        batch_size: number of samples generated side by side.
        shape: of the problems.
        sampler: see :func:`rlsubnet.tasks.sampling.sample_answers`.
    """
    check_count("prompts", prompts)
    check_count("samples", samples)
    check_name("split", split, SHARES)
    check_shape(shape)
    drawn = draw_problems(random.Random(seed), every_level(prompts), split, shape=shape)
    questions = [
        {"prompt": problem.prompt, "solution": solution_of(problem), "level": problem.level}
        for problem in drawn
    ]
    texts = [problem.prompt for problem in drawn]
    completions = sample_answers(
        policy, texts, samples, temperature, seed, max_new_tokens, batch_size, sampler
    )
    return questions, completions


def preferences(
    policy: Path,
    prompts: int,
    samples: int,
    temperature: float,
    split: str,
    seed: int,
    max_new_tokens: int = 12,
    batch_size: int = 512,
    digits: int = DEMO.digits,
    slots: int = DEMO.slots,
    sampler: str = "own",
) -> tuple[Records, PairCounts]:
    """Return pairs out of a policy's own samples, and what became of the prompts.

    The arguments are those of :func:`sampled_answers`; the seed is of the pairs, too.
    """
    questions, completions = sampled_answers(
        policy,
        prompts,
        samples,
        temperature,
        split,
        seed,
        max_new_tokens,
        batch_size,
        Shape(digits, slots),
        sampler,
    )
    return preference_pairs(questions, completions, seed)


def rejection_samples(
    policy: Path,
    prompts: int,
    samples: int,
    per_prompt: int,
    temperature: float,
    split: str,
    seed: int,
    max_new_tokens: int = 12,
    batch_size: int = 512,
    digits: int = DEMO.digits,
    slots: int = DEMO.slots,
    sampler: str = "own",
) -> tuple[Records, KeptCounts]:
    """Return a policy's own correct samples, and what became of all samples.

    At most ``per_prompt`` of each prompt, none twice. The other arguments are those of
    :func:`sampled_answers`; with equal ones, the samples are those that `preferences` pairs.
    """
    check_count("per_prompt", per_prompt)
    questions, completions = sampled_answers(
        policy,
        prompts,
        samples,
        temperature,
        split,
        seed,
        max_new_tokens,
        batch_size,
        Shape(digits, slots),
        sampler,
    )
    return correct_samples(questions, completions, per_prompt, seed)


GENERATORS: dict[str, Callable[..., Any]] = {
    "base_text": base_text,
    "demonstrations": demonstrations,
    "demonstration_pairs": demonstration_pairs,
    "problems": problems,
    "choices": choices,
    "preferences": preferences,
    "rejection_samples": rejection_samples,
    "word_problems": word_problems,
    "word_demonstrations": word_demonstrations,
    "word_preferences": word_preferences,
}


def build(name: str, spec: Mapping[str, Any], policy: Path | None = None) -> tuple[Records, str]:
    """Return the records of data set ``name`` and one line that says what they are.

    Args:
        name: name of the data set, for messages.
        spec: its entry in the config's ``data:``; ``kind`` picks the generator, the other keys are
            the generator's arguments.
        policy: model folder that ``spec["policy"]`` names, for kinds that have that key.

    Raises:
        ValueError: unknown kind; a key that is unknown, missing, of the wrong type or out of
            range; a policy that is missing or not needed; data that come out empty.

    >>> build("arith", {"kind": "choices", "per_task": 1, "split": "dev", "seed": 1})[1]
    'arith: 5 records of kind choices'
    """
    arguments = dict(spec)
    kind = arguments.pop("kind", None)
    if kind not in GENERATORS:
        raise ValueError(
            f"data set {name}, key kind: expected one of {', '.join(GENERATORS)}, found {kind!r}"
        )
    check_keys(name, kind, arguments)
    if ("policy" in arguments) != (policy is not None):
        raise ValueError(
            f"data set {name}: a policy folder goes with the key policy of kinds that need one; "
            f"found policy {arguments.get('policy')!r} and folder {policy}"
        )
    if policy is not None:
        arguments["policy"] = policy
    try:
        built = GENERATORS[kind](**arguments)
    except ValueError as error:
        raise ValueError(f"data set {name}, {error}") from error
    records, note = (built[0], f" ({built[1]})") if isinstance(built, tuple) else (built, "")
    if not records:
        raise ValueError(f"data set {name}: no record came out{note}")
    return records, f"{name}: {len(records)} records of kind {kind}{note}"


def check_keys(name: str, kind: str, arguments: Mapping[str, Any]) -> None:
    """Raise ValueError unless ``arguments`` has the keys and types that ``kind`` takes."""
    parameters = inspect.signature(GENERATORS[kind]).parameters
    required = {key for key, value in parameters.items() if value.default is value.empty}
    for key in sorted(set(arguments) - set(parameters)):
        raise ValueError(
            f"data set {name}, key {key}: unknown for kind {kind}, which takes "
            f"{', '.join(parameters)}"
        )
    for key in sorted(required - set(arguments)):
        raise ValueError(f"data set {name}, key {key}: missing, kind {kind} needs it")
    for key, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, _TYPES[key]):
            expected = " or ".join(type_.__name__ for type_ in _TYPES[key])
            raise ValueError(f"data set {name}, key {key}: expected {expected}, found {value!r}")
