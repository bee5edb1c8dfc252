"""Data sets out of the config's ``data:``, also of answers that a policy gives."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlsubnet.config.errors import checked, key_at, unknown_name
from rlsubnet.config.schema import (
    DATA,
    Preferences,
    RejectionSamples,
    WordData,
)
from rlsubnet.tasks import arithmetic, made_up
from rlsubnet.tasks.arithmetic import ProblemShape, draw_problems, every_level, solution_of
from rlsubnet.tasks.rows import each_row, read_rows
from rlsubnet.tasks.tokenizer import Completion, load_tokenizer
from rlsubnet.tasks.words import WordProblem, asked_by, is_correct, word_problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlsubnet.evaluation.sampler import Sampled

Records = list[dict[str, Any]]
# Records, and what became of all that did not become one.
Noted = tuple[Records, str]


def build(name: str, entry: Mapping[str, Any], policy: Path | None = None) -> tuple[Records, str]:
    """Return the records of data set ``name`` and one line that says what they are.

    Args:
        entry: the one in the config's ``data:``; its ``kind`` picks the generator.
        policy: model folder that ``entry["policy"]`` names, for kinds that have that key.

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
        records, note = GENERATORS[kind](spec, policy)
    except ValueError as error:
        raise ValueError(f"data set {name}, {error}") from error
    beside = f" ({note})" if note else ""
    if not records:
        raise ValueError(f"data set {name}: no record came out{beside}")
    return records, f"{name}: {len(records)} records of kind {kind}{beside}"


def is_usable(sample: Completion, tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Return whether a sample can be trained on: it ended, and has a text without special tokens.

    >>> from rlsubnet.tasks.tokenizer import build_tokenizer
    >>> tokenizer = build_tokenizer()
    >>> is_usable(Completion(";1", True), tokenizer), is_usable(Completion(";12", False), tokenizer)
    (True, False)
    >>> is_usable(Completion("", True), tokenizer), is_usable(Completion("<s>", True), tokenizer)
    (False, False)
    """
    text, finished = sample
    if not finished or not text.strip():
        return False
    # A special token in a text would become one again.
    special = any(str(token) in text for token in tokenizer.all_special_tokens)
    return not special and tokenizer.unk_token_id not in tokenizer(text).input_ids


def preference_pairs(
    questions: Sequence[Mapping[str, Any]],
    answers: Sequence[Sequence[Completion]],
    seed: int,
    tokenizer: "PreTrainedTokenizerBase",
) -> Noted:
    """Return one pair per prompt that has both kinds of samples, and what became of all prompts.

    A random correct sample is chosen over a random wrong one. A wrong sample may be malformed, but
    it must have ended by itself and be writable, so that both responses can be trained on.

    >>> from rlsubnet.tasks.tokenizer import build_tokenizer
    >>> question = {"prompt": "07+5+0+0+0+0=", "solution": ";12", "level": 1}
    >>> samples = [Completion(";12", True), Completion(";13", True), Completion("(12", False)]
    >>> preference_pairs([question], [samples], 0, build_tokenizer())[0]
    [{'prompt': '07+5+0+0+0+0=', 'chosen': ';12', 'rejected': ';13', 'level': 1}]
    """
    rng = random.Random(f"{seed} pairs")
    pairs: Records = []
    all_correct = none_correct = no_usable_wrong = 0
    for question, samples in zip(questions, answers, strict=True):
        right = [sample for sample in samples if _is_right(sample, question)]
        wrong = [sample for sample in samples if sample not in right]
        usable = [sample for sample in wrong if is_usable(sample, tokenizer)]
        if not right:
            none_correct += 1
        elif not wrong:
            all_correct += 1
        elif not usable:
            no_usable_wrong += 1
        else:
            chosen, rejected = rng.choice(right).text, rng.choice(usable).text
            pairs.append(_record(question, chosen=chosen, rejected=rejected))
    return pairs, (
        f"{len(pairs)} pairs from {len(questions)} prompts; without a pair: "
        f"{all_correct} with every sample correct, {none_correct} with none correct, "
        f"{no_usable_wrong} whose wrong samples are all unusable"
    )


def _is_right(sample: Completion, question: Mapping[str, Any]) -> bool:
    return sample.finished and is_correct(sample.text, question["solution"])


def _record(question: Mapping[str, Any], **answers: str) -> dict[str, Any]:
    return {"prompt": question["prompt"], **answers, "level": question["level"]}


def correct_samples(
    questions: Sequence[Mapping[str, Any]],
    answers: Sequence[Sequence[Completion]],
    per_prompt: int,
    seed: int,
) -> Noted:
    """Return the different correct answers to each prompt, at most ``per_prompt`` of them.

    Equal answers to one prompt count once, as in rejection-sampling finetuning (RFT; Yuan et al.
    2023): an easy prompt then weighs no more for being answered correctly every time. Where more
    differ than are kept, those kept are drawn at random.

    >>> question = {"prompt": "07+5+0+0+0+0=", "solution": ";12", "level": 1}
    >>> texts = [";12", ";13", "(1212121212", ";12"]
    >>> samples = [[Completion(text, True) for text in texts]]
    >>> records, note = correct_samples([question], samples, per_prompt=4, seed=0)
    >>> [record["response"] for record in records]
    [';12', '(1212121212']
    """
    rng = random.Random(f"{seed} rejection")
    records: Records = []
    correct = none_correct = 0
    for question, samples in zip(questions, answers, strict=True):
        right = [sample.text for sample in samples if _is_right(sample, question)]
        correct += len(right)
        none_correct += not right
        different = list(dict.fromkeys(right))
        if len(different) > per_prompt:
            drawn = sorted(rng.sample(range(len(different)), per_prompt))
            different = [different[index] for index in drawn]
        records += [_record(question, response=text) for text in different]
    return records, (
        f"kept of {correct} correct among {sum(map(len, answers))} samples of {len(questions)} "
        f"prompts, none twice; {none_correct} prompts without a correct sample"
    )


def sample_answers(
    folder: Path, questions: Sequence[Mapping[str, Any]], how: "Sampled"
) -> list[list[Completion]]:
    from rlsubnet.evaluation.loading import deterministic
    from rlsubnet.evaluation.sampler import open_policy, sample_texts

    policy = open_policy(folder, how)
    with deterministic(policy.model.device):
        return sample_texts(policy, [question["prompt"] for question in questions])


def arithmetic_questions(spec: Preferences | RejectionSamples, policy: Path) -> Records:
    """Return questions whose five levels take turns; no prompt comes twice.

    With equal keys, rejection samples are answers to those that preferences are made of.
    """
    levels, shape = every_level(spec.prompts), ProblemShape(spec.digits, spec.slots)
    return [
        {"prompt": problem.prompt, "solution": solution_of(problem), "level": problem.level}
        for problem in draw_problems(random.Random(spec.seed), levels, spec.split, shape=shape)
    ]


def read_problems(spec: WordData) -> list[WordProblem]:
    """Return the problems of a file, or of ``rows[0]`` to ``rows[1]`` (without the last) of it."""
    source = Path(spec.source)
    if not source.is_file():
        raise ValueError(f"source: expected a file, found none at {source}")
    problems = list(each_row(read_rows(source), word_problem))
    if spec.rows is None:
        return problems
    first, last = spec.rows
    if not 0 <= first < last <= len(problems):
        raise ValueError(
            f"rows: expected two numbers first < last, at most {len(problems)} as there are rows "
            f"in {source}, found {[first, last]}"
        )
    return problems[first:last]


def word_questions(spec: WordData, policy: Path) -> Records:
    return ask_words(read_problems(spec), spec, policy)


def ask_words(problems: Sequence[WordProblem], spec: WordData, policy: Path) -> Records:
    tokenizer = load_tokenizer(policy)
    return [
        {
            "id": f"row-{number:05d}",
            "prompt": asked_by(tokenizer, problem.question, spec.template),
            "solution": problem.solution,
            "level": problem.level,
        }
        for number, problem in enumerate(problems)
    ]


def word_demonstrations(spec: WordData, policy: Path) -> Records:
    problems = read_problems(spec)
    pairs = zip(ask_words(problems, spec, policy), problems, strict=True)
    return [_record(question, response=problem.response) for question, problem in pairs]


# (the keys of a data set, the policy's folder) -> ...
Generator = Callable[[Any, Any], Noted]
Questions = Callable[[Any, Any], Records]


def _preferences(ask: Questions) -> Generator:
    def generate(spec: Any, policy: Path) -> Noted:
        questions = ask(spec, policy)
        answers = sample_answers(policy, questions, spec)
        return preference_pairs(questions, answers, spec.seed, load_tokenizer(policy))

    return generate


def _rejection_samples(ask: Questions) -> Generator:
    def generate(spec: Any, policy: Path) -> Noted:
        questions = ask(spec, policy)
        answers = sample_answers(policy, questions, spec)
        return correct_samples(questions, answers, spec.per_prompt, spec.seed)

    return generate


def _plain(generate: Questions) -> Generator:
    return lambda spec, policy: (generate(spec, policy), "")


def _made_up(generate: Callable[..., Records]) -> Generator:
    def of_keys(spec: Any, policy: None) -> Records:
        keys = spec.model_dump(exclude={"kind", "digits", "slots"})
        return generate(**keys, shape=ProblemShape(spec.digits, spec.slots))

    return _plain(of_keys)


# A task is a module that makes its questions, and its kinds here; config.schema has their keys.
GENERATORS: dict[str, Generator] = {
    "base_text": _made_up(made_up.base_text),
    "demonstrations": _made_up(made_up.demonstrations),
    "demonstration_pairs": _made_up(made_up.demonstration_pairs),
    "problems": _made_up(arithmetic.problems),
    "choices": _made_up(made_up.choices),
    "preferences": _preferences(arithmetic_questions),
    "rejection_samples": _rejection_samples(arithmetic_questions),
    "word_problems": _plain(word_questions),
    "word_demonstrations": _plain(word_demonstrations),
    "word_preferences": _preferences(word_questions),
}
