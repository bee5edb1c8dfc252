"""Data sets out of the config's ``data:``, also of answers that a policy gives."""

import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlsubnet.tasks.arithmetic import (
    DEMO,
    SHARES,
    Shape,
    check_count,
    check_name,
    check_shape,
    draw_problems,
    every_level,
    problems,
    solution_of,
)
from rlsubnet.tasks.choices import choices
from rlsubnet.tasks.rows import read_rows
from rlsubnet.tasks.texts import base_text, demonstration_pairs, demonstrations
from rlsubnet.tasks.tokenizer import CHARACTERS, Completion, load_tokenizer
from rlsubnet.tasks.words import TEMPLATES, WordProblem, asked_by, is_correct, word_problem


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
    from rlsubnet.evaluation.generate import noise_generator
    from rlsubnet.evaluation.loading import deterministic, load_policy
    from rlsubnet.evaluation.sampler import make_sampler, sample_texts

    model, tokenizer = load_policy(policy)
    with deterministic(model.device):
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


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "dev", "test", "preference")


def read_problems(source: str, split: str, rows: Sequence[int] | None) -> list[WordProblem]:
    """Return the problems of a file, or of ``rows[0]`` to ``rows[1]`` (without the last) of it.

    Args:
        source: JSON or JSON-lines file in the form of GSM8K or SVAMP.
        split: what the problems are for; nothing learns from ``dev`` and ``test``.
        rows: counted from 0; None takes all.

    Raises:
        ValueError: there is no such file, a row is of neither form, or the file has fewer rows.
    """
    check_name("split", split, SPLITS)
    if not Path(source).is_file():
        raise ValueError(f"source: expected a file, found none at {source}")
    problems = []
    for where, row in read_rows(Path(source)):
        try:
            problems.append(word_problem(row))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if rows is None:
        return problems
    whole = [type(row) is int for row in rows]
    if whole != [True, True] or not 0 <= rows[0] < rows[1] <= len(problems):
        raise ValueError(
            f"rows: expected two numbers first < last, at most {len(problems)} as there are rows "
            f"in {source}, found {list(rows)}"
        )
    return problems[rows[0] : rows[1]]


def _questions(
    problems: Sequence[WordProblem], tokenizer: "PreTrainedTokenizerBase", template: str
) -> list[dict[str, Any]]:
    check_name("template", template, TEMPLATES)
    return [
        {
            "id": f"row-{number:05d}",
            "prompt": asked_by(tokenizer, problem.question, template),
            "solution": problem.solution,
            "level": problem.level,
        }
        for number, problem in enumerate(problems)
    ]


def word_problems(
    policy: Path, source: str, split: str, rows: list[int] | None = None, template: str = "chat"
) -> list[dict[str, Any]]:
    """Return problems as records ``{"id", "prompt", "solution", "level"}``.

    Args:
        policy: folder of the model that is asked, for its chat template.
        source: see :func:`read_problems`.
        split: see :func:`read_problems`.
        rows: see :func:`read_problems`.
        template: see :func:`rlsubnet.tasks.words.asked_by`.
    """
    problems = read_problems(source, split, rows)
    return _questions(problems, load_tokenizer(policy), template)


def word_demonstrations(
    policy: Path, source: str, split: str, rows: list[int] | None = None, template: str = "chat"
) -> list[dict[str, Any]]:
    """Return answers to imitate, as records ``{"prompt", "response", "level"}``.

    The arguments are those of :func:`word_problems`.
    """
    problems = read_problems(source, split, rows)
    questions = _questions(problems, load_tokenizer(policy), template)
    return [
        {"prompt": asked["prompt"], "response": problem.response, "level": problem.level}
        for asked, problem in zip(questions, problems, strict=True)
    ]


def word_preferences(
    policy: Path,
    source: str,
    split: str,
    samples: int,
    temperature: float,
    seed: int,
    max_new_tokens: int,
    rows: list[int] | None = None,
    template: str = "chat",
    batch_size: int = 512,
    sampler: str = "own",
) -> tuple[list[dict[str, Any]], PairCounts]:
    """Return pairs out of a policy's own samples, and what became of the prompts.

    Args:
        policy: folder of the policy and its tokenizer.
        source: see :func:`read_problems`.
        split: see :func:`read_problems`.
        samples: samples per problem.
        temperature: of the samples, above 0.
        seed: of samples and pairs.
        max_new_tokens: length at which a sample is cut off and counts as wrong.
        rows: see :func:`read_problems`.
        template: see :func:`rlsubnet.tasks.words.asked_by`.
        batch_size: number of samples generated side by side.
        sampler: see :func:`rlsubnet.evaluation.policy_data.sample_answers`.
    """
    check_count("samples", samples)
    tokenizer = load_tokenizer(policy)
    questions = _questions(read_problems(source, split, rows), tokenizer, template)
    prompts = [question["prompt"] for question in questions]
    completions = sample_answers(
        policy, prompts, samples, temperature, seed, max_new_tokens, batch_size, sampler
    )
    special = tuple(str(token) for token in tokenizer.all_special_tokens)

    def is_usable(sample: Completion) -> bool:
        # A special token in a text would become one again when the text is trained on.
        text, finished = sample
        return finished and text.strip() != "" and not any(token in text for token in special)

    return preference_pairs(questions, completions, seed, is_usable)


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
        sampler: see :func:`rlsubnet.evaluation.policy_data.sample_answers`.
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
