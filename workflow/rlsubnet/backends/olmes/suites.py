"""What the paper evaluates on, as tasks of olmes at commit 4f04122 (May 2025)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

# Longest answers of PRIME's training; with prompts of up to 1,024 tokens they fill the 4,096 of
# Qwen2.5-Math.
ANSWER_TOKENS = 3072
MATH500_LEVELS = {"1": 43, "2": 90, "3": 105, "4": 128, "5": 134}


@dataclass(frozen=True)
class Task:
    """One task of olmes and what is counted of it.

    Attributes:
        name: its name in scores and answers.
        olmes: the name of its configuration in olmes.
        items: number of items that count.
        asked: number of items that olmes asks, where it asks more than count.
        metric: the metric of olmes that says whether an item is right, 1 or 0.
        levels: difficulty level -> number of items, where the data have levels.
        year: only items of this year count.
        paper: the task's name in Table 3.
        chance: share right when choices are drawn at random; None where their number varies.
        overrides: keys of olmes's task configuration that are set otherwise.
    """

    name: str
    olmes: str
    items: int
    asked: int = 0
    metric: str = "exact_match"
    levels: Mapping[str, int] = field(default_factory=dict)
    year: str = ""
    paper: str = ""
    chance: float | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """Return how many items olmes asks."""
        return self.asked or self.items

    @property
    def argument(self) -> str:
        """Return what ``olmes --task`` is given: the name, or JSON with the overrides.

        >>> Task("table3a_gpqa", "gpqa:0shot_cot::tulu3", 448).argument
        'gpqa:0shot_cot::tulu3'
        """
        if not self.overrides:
            return self.olmes
        # olmes calls a task by its configuration's name only when that name is all it is given.
        alias = {"metadata": {"alias": self.olmes}}
        return json.dumps({"task_name": self.olmes, **self.overrides, **alias}, sort_keys=True)


@dataclass(frozen=True)
class Suite:
    """Tasks that are evaluated and printed together."""

    tasks: tuple[Task, ...]
    decoding: str = "greedy"


def _boxed(name: str, olmes: str, **rest: Any) -> Task:
    """Return a mathematical task that asks for a boxed answer.

    The task's own metric, ``exact_match``, knows an answer only behind Minerva's words "Final
    Answer: The final answer is", which these prompts do not ask for: it would be near 0.
    ``exact_match_flex`` also reads the box.
    """
    # `chat_overrides` win over the rest; its default, 131,072 tokens, would make the longest answer
    # depend on the longest prompt of a batch.
    longest = {"generation_kwargs": {"max_gen_toks": ANSWER_TOKENS}}
    metric = "exact_match_flex"
    overrides = {"primary_metric": metric, "chat_overrides": longest, **longest}
    return Task(name, olmes, metric=metric, overrides=overrides, **rest)


def _choices(name: str, olmes: str, items: int, paper: str, chance: float | None) -> Task:
    task = f"table3a_{name}"
    return Task(task, f"{olmes}:0shot_cot::tulu3", items, paper=paper, chance=chance)


SUITES: Mapping[str, Suite] = {
    # The five tasks of Table 3(a) as Tulu 3's own report asks them (olmes's `tulu_3_unseen`): no
    # examples, a chain of thought of up to 2,048 tokens, then a letter. That the authors used these
    # variants is inferred; olmes has others, such as `agi_eval_lsat-ar::olmes`.
    "table3a": Suite(
        (
            _choices("lsat_ar", "agi_eval_lsat-ar", 230, "AGIEval LSAT-AR", 0.2),
            _choices("lsat_lr", "agi_eval_lsat-lr", 510, "AGIEval LSAT-LR", 0.2),
            _choices("logiqa_en", "agi_eval_logiqa-en", 651, "AGIEval LogiQA-en", 0.25),
            _choices("gpqa", "gpqa", 448, "GPQA", 0.25),  # gpqa_main
            _choices("mmlu_pro_math", "mmlu_pro_math", 1351, "MMLU Pro Math", None),
        )
    ),
    # Table 3(b), Figure 7(a). The paper names olmes for DPO only, and no prompt for PRIME. Default:
    # no examples and a boxed answer, as PRIME's training asks. The two below ask for forms that the
    # model was not trained on.
    "math500": Suite(
        (_boxed("math500", "minerva_math_500::zs_cot", items=500, levels=MATH500_LEVELS),)
    ),
    # Tulu 3's: four worked examples that end in Minerva's words, up to 1,024 tokens.
    "math500-fewshot": Suite(
        (Task("math500-fewshot", "minerva_math_500::tulu", 500, levels=MATH500_LEVELS),)
    ),
    # For models that think first: the answer starts with <think> and is sampled.
    "math500-r1": Suite(
        (_boxed("math500-r1", "minerva_math_500::zs_cot_r1", items=500, levels=MATH500_LEVELS),),
        decoding="sampled once at 0.6",
    ),
    # Figure 7(a). At this commit the task holds the 90 problems of 2022 to 2024.
    "aime2024": Suite((_boxed("aime2024", "aime::zs_cot", items=30, asked=90, year="2024"),)),
}


def tasks_of(suites: Sequence[str]) -> tuple[Task, ...]:
    """Return the tasks of several suites, in order.

    Raises:
        ValueError: a name that is no suite.

    >>> [task.name for task in tasks_of(["math500", "aime2024"])]
    ['math500', 'aime2024']
    """
    for name in suites:
        if name not in SUITES:
            raise ValueError(f"unknown suite {name!r}; known: {', '.join(SUITES)}")
    return tuple(task for name in suites for task in SUITES[name].tasks)


COMMIT = "4f04122642bcee6d74393ec2ecfb0e572a64da53"
# Templates that olmes brings itself; without one the model's own is used.
CHAT_TEMPLATES = ("tulu", "olmo", "llama2", "xwin", "zephyr")


@dataclass(frozen=True)
class Settings:
    """Settings of one evaluation.

    Attributes:
        suites: names of :data:`~rlsubnet.backends.olmes.suites.SUITES`.
        commit: commit of the olmes checkout; None asks nothing of it.
        chat_template: one of olmes's own templates; None takes the model's.
        max_length: longest prompt and answer together, in tokens.
        limit: items asked of each task, drawn with a fixed seed; None asks all.
    """

    suites: tuple[str, ...]
    commit: str | None = COMMIT
    chat_template: str | None = None
    max_length: int = 4096
    limit: int | None = None

    def __post_init__(self) -> None:
        tasks_of(self.suites)
        if not self.suites:
            raise ValueError("olmes settings, key suites: expected at least one suite")
        if self.chat_template not in (None, *CHAT_TEMPLATES):
            raise ValueError(
                f"olmes settings, key chat_template: expected null or one of "
                f"{', '.join(CHAT_TEMPLATES)}, found {self.chat_template!r}"
            )
        if self.max_length < 1:
            raise ValueError(f"olmes settings, key max_length: found {self.max_length}")
        if self.limit is not None and self.limit < 2:
            # olmes takes a limit of 1 for the whole: 100 per cent.
            raise ValueError(f"olmes settings, key limit: expected 2 or more, found {self.limit}")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Return the tasks of all suites."""
        return tasks_of(self.suites)


def read_settings(block: Mapping[str, Any]) -> Settings:
    """Return the settings in ``block``: ``suites`` and the keys of ``evaluation.olmes``.

    Raises:
        ValueError: a key is missing, unknown, of the wrong type or out of range.

    >>> read_settings({"suites": ["table3a"], "limit": 20}).limit
    20
    """
    known = [one.name for one in fields(Settings)]
    unknown = sorted(set(block) - set(known))
    if unknown or "suites" not in block:
        raise ValueError(f"olmes settings: expected suites and keys of {known}, found {unknown}")
    for key, kinds in (("max_length", int), ("limit", int | None)):
        value = block.get(key, 1 if key == "max_length" else None)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise ValueError(f"olmes settings, key {key}: expected a whole number, found {value!r}")
    return Settings(**{**block, "suites": tuple(block["suites"])})
