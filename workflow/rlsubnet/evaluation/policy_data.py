"""Data sets out of the config's ``data:``, also of answers that a policy gives."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rlsubnet.config.errors import checked, key_at, unknown_name
from rlsubnet.config.schema import (
    DATA,
    Preferences,
    RejectionSamples,
    WordData,
    WordDemonstrations,
    WordPreferences,
    WordProblems,
)
from rlsubnet.tasks.arithmetic import (
    ProblemShape,
    draw_problems,
    every_level,
    problems,
    solution_of,
)
from rlsubnet.tasks.made_up import base_text, choices, demonstration_pairs, demonstrations
from rlsubnet.tasks.rows import read_rows
from rlsubnet.tasks.tokenizer import CHARACTERS, Completion, load_tokenizer
from rlsubnet.tasks.words import WordProblem, asked_by, is_correct, word_problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Records = list[dict[str, Any]]
# What a policy samples, with the keys that say how.
Sampled = Preferences | RejectionSamples | WordPreferences


def build(name: str, entry: Mapping[str, Any], policy: Path | None = None) -> tuple[Records, str]:
    """Return the records of data set ``name`` and one line that says what they are.

    Args:
        entry: the one in the config's ``data:``; its ``kind`` picks the generator, and with it the
            other keys (:data:`rlsubnet.config.schema.DATA`).
        policy: model folder that ``entry["policy"]`` names, for kinds that have that key.

    Raises:
        ValueError: unknown kind; a key that is unknown, missing, of the wrong type or out of
            range; a policy that is missing or not needed; data that come out empty.

    >>> build("arith", {"kind": "choices", "per_task": 1, "split": "dev", "seed": 1})[1]
    'arith: 5 records of kind choices'
    """
    kind = entry.get("kind")
    if kind not in GENERATORS:
        raise ValueError(
            f"data set {name}, key kind: {unknown_name('kind', str(kind), GENERATORS)}"
        )
    spec = checked(DATA[kind], dict(entry), lambda path: f"data set {name}, {key_at(path)}")
    if hasattr(spec, "policy") != (policy is not None):
        raise ValueError(
            f"data set {name}: a policy folder goes with the key policy of kinds that need one; "
            f"found policy {entry.get('policy')!r} and folder {policy}"
        )
    try:
        made = GENERATORS[kind](spec, policy)
    except ValueError as error:
        raise ValueError(f"data set {name}, {error}") from error
    records, note = (made[0], f" ({made[1]})") if isinstance(made, tuple) else (made, "")
    if not records:
        raise ValueError(f"data set {name}: no record came out{note}")
    return records, f"{name}: {len(records)} records of kind {kind}{note}"


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
) -> tuple[Records, PairCounts]:
    """Return one pair per prompt that has both kinds of samples, and counts of all prompts.

    A random correct sample is chosen over a random wrong one. A wrong sample may be malformed, but
    it must have ended by itself and be writable, so that both responses can be trained on.

    Args:
        is_usable: whether a wrong sample can be trained on.

    >>> problem = {"prompt": "07+5+0+0+0+0=", "solution": ";12", "level": 1}
    >>> samples = [Completion(";12", True), Completion(";13", True), Completion("(12", False)]
    >>> preference_pairs([problem], [samples], seed=0)[0]
    [{'prompt': '07+5+0+0+0+0=', 'chosen': ';12', 'rejected': ';13', 'level': 1}]
    """
    rng = random.Random(f"{seed} pairs")
    pairs: Records = []
    all_correct = none_correct = no_usable_wrong = 0
    for problem, samples in zip(problems, completions, strict=True):
        right = [sample for sample in samples if _is_right(sample, problem)]
        wrong = [sample for sample in samples if sample not in right]
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


def _is_right(sample: Completion, problem: Mapping[str, Any]) -> bool:
    return sample.finished and is_correct(sample.text, problem["solution"])


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
) -> tuple[Records, KeptCounts]:
    """Return the different correct answers to each prompt, at most ``per_prompt`` of them.

    Equal answers to one prompt count once, as in rejection-sampling finetuning (RFT; Yuan et al.
    2023): an easy prompt then weighs no more for being answered correctly every time. Where more
    differ than are kept, those kept are drawn at random.

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
    records: Records = []
    total = correct = none_correct = 0
    for problem, samples in zip(problems, completions, strict=True):
        right = [sample.text for sample in samples if _is_right(sample, problem)]
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
    return records, KeptCounts(total, correct, len(records), len(problems), none_correct)


def sample_answers(policy: Path, prompts: Sequence[str], how: Sampled) -> list[list[Completion]]:
    from rlsubnet.evaluation.generate import noise_generator
    from rlsubnet.evaluation.loading import deterministic, load_policy
    from rlsubnet.evaluation.sampler import make_sampler, sample_texts

    model, tokenizer = load_policy(policy)
    with deterministic(model.device):
        return sample_texts(
            make_sampler(how.sampler, model),
            tokenizer,
            prompts,
            how.samples,
            max_new_tokens=how.max_new_tokens,
            temperature=how.temperature,
            generator=noise_generator(model.device, how.seed),
            batch_size=how.batch_size,
        )


def _answered(
    spec: Preferences | RejectionSamples, policy: Path
) -> tuple[Records, list[list[Completion]]]:
    """Return questions ``{"prompt", "solution", "level"}`` and a policy's answers to each.

    The five levels take turns, and no prompt comes twice. With equal keys, rejection samples are
    those that preferences are made of.
    """
    levels, shape = every_level(spec.prompts), ProblemShape(spec.digits, spec.slots)
    drawn = draw_problems(random.Random(spec.seed), levels, spec.split, shape=shape)
    questions = [
        {"prompt": problem.prompt, "solution": solution_of(problem), "level": problem.level}
        for problem in drawn
    ]
    return questions, sample_answers(policy, [problem.prompt for problem in drawn], spec)


def preferences(spec: Preferences, policy: Path) -> tuple[Records, PairCounts]:
    return preference_pairs(*_answered(spec, policy), spec.seed)


def rejection_samples(spec: RejectionSamples, policy: Path) -> tuple[Records, KeptCounts]:
    return correct_samples(*_answered(spec, policy), spec.per_prompt, spec.seed)


def read_problems(spec: WordData) -> list[WordProblem]:
    """Return the problems of a file, or of ``rows[0]`` to ``rows[1]`` (without the last) of it."""
    source = Path(spec.source)
    if not source.is_file():
        raise ValueError(f"source: expected a file, found none at {source}")
    problems = []
    for where, row in read_rows(source):
        try:
            problems.append(word_problem(row))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    if spec.rows is None:
        return problems
    first, last = spec.rows
    if not 0 <= first < last <= len(problems):
        raise ValueError(
            f"rows: expected two numbers first < last, at most {len(problems)} as there are rows "
            f"in {source}, found {[first, last]}"
        )
    return problems[first:last]


def _questions(
    problems: Sequence[WordProblem], tokenizer: "PreTrainedTokenizerBase", template: str
) -> Records:
    return [
        {
            "id": f"row-{number:05d}",
            "prompt": asked_by(tokenizer, problem.question, template),
            "solution": problem.solution,
            "level": problem.level,
        }
        for number, problem in enumerate(problems)
    ]


def word_problems(spec: WordProblems, policy: Path) -> Records:
    return _questions(read_problems(spec), load_tokenizer(policy), spec.template)


def word_demonstrations(spec: WordDemonstrations, policy: Path) -> Records:
    problems = read_problems(spec)
    questions = _questions(problems, load_tokenizer(policy), spec.template)
    return [
        {"prompt": asked["prompt"], "response": problem.response, "level": problem.level}
        for asked, problem in zip(questions, problems, strict=True)
    ]


def word_preferences(spec: WordPreferences, policy: Path) -> tuple[Records, PairCounts]:
    tokenizer = load_tokenizer(policy)
    questions = _questions(read_problems(spec), tokenizer, spec.template)
    completions = sample_answers(policy, [question["prompt"] for question in questions], spec)
    special = tuple(str(token) for token in tokenizer.all_special_tokens)

    def is_usable(sample: Completion) -> bool:
        # A special token in a text would become one again when the text is trained on.
        text, finished = sample
        return finished and text.strip() != "" and not any(token in text for token in special)

    return preference_pairs(questions, completions, spec.seed, is_usable)


def _made_up(generate: Callable[..., Records]) -> Callable[[Any, Path | None], Records]:
    return lambda spec, policy: generate(**spec.model_dump(exclude={"kind"}))


# kind -> (its keys, folder of the policy) -> records, and perhaps counts.
GENERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "base_text": _made_up(base_text),
    "demonstrations": _made_up(demonstrations),
    "demonstration_pairs": _made_up(demonstration_pairs),
    "problems": _made_up(problems),
    "choices": _made_up(choices),
    "preferences": preferences,
    "rejection_samples": rejection_samples,
    "word_problems": word_problems,
    "word_demonstrations": word_demonstrations,
    "word_preferences": word_preferences,
}
